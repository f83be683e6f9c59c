"""The command `project`: whole checkpoints, every source, component and fraction, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from safety_lightning.checkpoints import StorageDtype, Vectors
from safety_lightning.devices import choose_device
from safety_lightning.methods.rivals import EnergyRemoval, Method, Resta, Rivals, SafeLora, SafeMerge
from safety_lightning.methods.variants import FRACTIONS, list_variants, match_variants
from safety_lightning.profiles import read_settings
from safety_lightning.projection.operators import Component
from safety_lightning.projection.rows import Tied
from safety_lightning.subspaces import Side, Source
from safety_lightning.sweep.cost import plan_sweep
from safety_lightning.sweep.folder import SweepFolder
from safety_lightning.sweep.inputs import SweepSettings, open_inputs
from safety_lightning.sweep.report import print_energies, print_plan
from safety_lightning.sweep.sweep import make_recipe

Device = Literal["auto", "cpu", "cuda"]
_DEFAULT_SOURCES: tuple[Source, ...] = ("top_k", "random_k", "random")
_DEFAULT_COMPONENTS: tuple[Component, ...] = ("parallel", "orthogonal")


def project(
    base: str,
    reference: str,
    finetuned: list[str],
    out: Path,
    sources: list[Source] = list(_DEFAULT_SOURCES),  # noqa: B006 (the schema of the command)
    components: list[Component] = list(_DEFAULT_COMPONENTS),  # noqa: B006
    fractions: list[float] = list(FRACTIONS),  # noqa: B006
    rivals: list[Method] = [],  # noqa: B006
    safe_lora: SafeLora = SafeLora(),  # noqa: B008
    safe_merge: SafeMerge = SafeMerge(),  # noqa: B008
    resta: Resta = Resta(),  # noqa: B008
    energy: EnergyRemoval = EnergyRemoval(),  # noqa: B008
    safety_tuned: str | None = None,
    save_models: list[str] = ["none"],  # noqa: B006
    storage_dtype: StorageDtype = "float32",
    num_leak_columns: int = 32,
    side: Side = "left",
    include: list[str] = ["*"],  # noqa: B006
    exclude: list[str] = [],  # noqa: B006
    vectors: Vectors = "project",
    tied: Tied = "once",
    common_rows: bool = False,
    mixed_dtypes: bool = False,
    skip_bad: bool = False,
    library: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    dry_run: bool = False,
) -> None:
    """Split the updates of finetuned models by their safety subspace: energies of every variant, and their models.

    Args:
        base: The checkpoint from before alignment: a folder, a hub name (org/name@rev) or lab:NAME.
        reference: The checkpoint that fine-tuning started from.
        finetuned: Finetuned models: folders of weights or of LoRA adapters, each plain or as NAME=FOLDER.
        out: Folder to make, or to go on with when it holds the same sweep.
        sources: Leading directions of the delta, as many of them at random, a random subspace.
        components: Keep the update inside the subspace, or outside.
        fractions: Shares of the smaller dimension of each matrix that the subspace spans, in (0, 1].
        rivals: Other methods, for comparison.
        safe_lora: Settings of Safe LoRA, in its full-parameter form.
        safe_merge: Settings of SafeMERGE, which needs safety_tuned.
        resta: Settings of RESTA.
        energy: Settings of removal by energy instead of rank.
        safety_tuned: A safety-tuned model, folder or adapter, for SafeMERGE.
        save_models: none, all, or patterns of variants such as */top_k/orthogonal/0.25.
        storage_dtype: What saved weights are rounded to; the leak is measured after it. source keeps each tensor's own.
        num_leak_columns: Columns of each matrix that tell the leak; 0 for all.
        side: Output side (the paper's equations) or input side.
        include: Patterns of tensor names that take part.
        exclude: Patterns of tensor names that do not.
        vectors: Treat 1-D tensors as M x 1 matrices, or leave them as they were finetuned.
        tied: Count an embedding that is also the output layer once, or each.
        common_rows: Accept a vocabulary that was resized between base and reference.
        mixed_dtypes: Accept checkpoints that round those they were trained from.
        skip_bad: Leave out matrices with NaN or infinity, counted, instead of stopping.
        library: Folder of decompositions, kept and reused by content, here and by a fit's subspace.library.
        seed: Seed of the random sources.
        device: Where to work.
        dry_run: Print what it would cost and do nothing; reads headers only.
    """
    config = {name: value for name, value in locals().items() if name != "dry_run"}
    methods = Rivals(methods=tuple(rivals), safe_lora=safe_lora, safe_merge=safe_merge, resta=resta, energy=energy)
    names = {field.name for field in dataclasses.fields(SweepSettings)} - {"rivals"}
    settings = SweepSettings(rivals=methods, **{name: config[name] for name in names})
    variants = list_variants(  # of no model: to find faults before anything is opened
        ["-"], sources=sources, components=components, fractions=fractions, rivals=methods
    )
    inputs = open_inputs(base, reference, finetuned, safety_tuned=safety_tuned, settings=settings)
    variants = list_variants(
        [one.name for one in inputs.finetuned],
        sources=sources,
        components=components,
        fractions=fractions,
        rivals=methods,
    )
    saved = match_variants(variants, save_models)
    folder = SweepFolder(out, inputs, settings, variants, saved)
    where = choose_device(device)
    if dry_run:
        num_saved = {one.name: sum(s.finetuned == one.name for s in saved) for one in inputs.finetuned}
        recipe = make_recipe(settings, variants)
        plan = plan_sweep(
            inputs, settings, recipe, variants, num_saved=num_saved, saved_bytes=folder.num_bytes, device=where
        )
        print_plan(plan, settings, len(variants))
        return
    text = yaml.safe_dump(_make_plain(config), sort_keys=False)
    rows, counts = folder.run(device=where, library=library, config=text, reference=reference, base=base)
    if rows:
        profile = read_settings({"projection": {"storage_dtype": storage_dtype, "tied": tied}})
        print_energies(rows, out, counts=counts, saved=saved, settings=profile)


def _make_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _make_plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {name: _make_plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_make_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
