"""The command `project`: whole checkpoints, every source, component and fraction, in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from safety_lightning.methods import (
    FRACTIONS,
    EnergyRemoval,
    Method,
    Resta,
    SafeLora,
    SafeMerge,
    list_components,
    list_variants,
    match_variants,
)
from safety_lightning.methods.subspace import check_distinct
from safety_lightning.profiles import read_settings
from safety_lightning.projection import Component
from safety_lightning.subspaces import Source
from safety_lightning.sweep.cost import estimate_cost
from safety_lightning.sweep.folder import SweepFolder
from safety_lightning.sweep.inputs import SweepSettings, open_inputs
from safety_lightning.sweep.report import print_cost, print_energies
from safety_lightning.sweep.sweep import make_recipe
from safety_lightning.system.devices import choose_device

Device = Literal["auto", "cpu", "cuda"]
Rival = Literal["safe_lora", "safe_merge", "resta", "energy"]


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """Which methods treat the updates.

    Attributes:
        sources: Leading directions of the delta, as many of them at random, a random subspace.
        components: Keep the update inside the subspace, or outside.
        fractions: Shares of the smaller dimension of each matrix that the subspace spans, in (0, 1].
        rivals: Other methods, for comparison, by name.
        safe_lora: Settings of Safe LoRA, in its full-parameter form.
        safe_merge: Settings of SafeMERGE, which needs safety_tuned.
        resta: Settings of RESTA.
        energy: Settings of removal by energy instead of rank.
        methods: More methods, by class and settings; a method of your own by its class path.
    """

    sources: list[Source] = field(default_factory=lambda: ["top_k", "random_k", "random"])
    components: list[Component] = field(default_factory=lambda: ["parallel", "orthogonal"])
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    rivals: list[Rival] = field(default_factory=list)
    safe_lora: SafeLora = field(default_factory=SafeLora)
    safe_merge: SafeMerge = field(default_factory=SafeMerge)
    resta: Resta = field(default_factory=Resta)
    energy: EnergyRemoval = field(default_factory=EnergyRemoval)
    methods: list[Method] = field(default_factory=list)

    def list_methods(self) -> list[Method]:
        """Lists all methods: components of subspaces, rivals in the order of their names, and more.

        Raises:
            UserError: If a list has an entry twice, or a fraction is outside (0, 1].
        """
        check_distinct("rivals", self.rivals)
        rivals: dict[Rival, Sequence[Method]] = {
            "safe_lora": [self.safe_lora],
            "safe_merge": [self.safe_merge],
            "resta": [self.resta],
            "energy": self.energy.list_methods(),
        }
        by_rank = list_components(self.sources, self.components, self.fractions)
        named = sorted(self.rivals, key=lambda name: name == "energy")  # which tables list last
        return [*by_rank, *(method for name in named for method in rivals[name]), *self.methods]


@dataclass(frozen=True, kw_only=True)
class ProjectInputs:
    """What is treated, and what is left of it.

    Attributes:
        base: The checkpoint from before alignment: a folder, a hub name (org/name@rev) or lab:NAME.
        reference: The checkpoint that fine-tuning started from.
        finetuned: Finetuned models: folders of weights or of LoRA adapters, each plain or as NAME=FOLDER.
        out: Folder to make, or to resume when it holds the same sweep.
        safety_tuned: A safety-tuned model, folder or adapter, for SafeMERGE.
        save_models: none, all, or patterns of variants such as */top_k/orthogonal/0.25.
        library: Folder of decompositions, kept and reused by content, here and by a fit's subspace.library.
        device: Where to work.
        dry_run: Print what it would cost and do nothing; reads headers only.
    """

    base: str
    reference: str
    finetuned: list[str]
    out: Path
    safety_tuned: str | None = None
    save_models: list[str] = field(default_factory=lambda: ["none"])
    library: Path | None = None
    device: Device = "auto"
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class ProjectRun(SweepSettings, MethodChoice, ProjectInputs):
    """Split the updates of finetuned models by their safety subspace: energies of every variant, and their models."""

    @property
    def settings(self) -> SweepSettings:
        """What the sweep does, whatever the method."""
        return SweepSettings(**{one.name: getattr(self, one.name) for one in dataclasses.fields(SweepSettings)})


def project(run: ProjectRun) -> None:
    """Runs the command.

    Raises:
        UserError: If a setting, a checkpoint or the folder is not what it must be. Nothing has been written then.
    """
    methods, settings = run.list_methods(), run.settings
    list_variants(["-"], methods)  # to find faults before anything is opened
    inputs = open_inputs(
        run.base, run.reference, run.finetuned, methods=methods, settings=settings, safety_tuned=run.safety_tuned
    )
    variants = list_variants([one.name for one in inputs.finetuned], methods)
    saved = match_variants(variants, run.save_models)
    folder = SweepFolder(run.out, inputs, settings, variants, saved)
    device = choose_device(run.device)
    if run.dry_run:
        num_saved = {one.name: sum(s.finetuned == one.name for s in saved) for one in inputs.finetuned}
        recipe = make_recipe(variants, side=run.side, seed=run.seed)
        plan = estimate_cost(
            inputs, settings, recipe, variants, num_saved=num_saved, saved_bytes=folder.num_bytes, device=device
        )
        print_cost(plan, variants)
        return
    rows, counts = folder.run(
        device=device, library=run.library, config=_format_config(run), reference=run.reference, base=run.base
    )
    if rows:
        profile = read_settings({"projection": {"storage_dtype": run.storage_dtype, "tied": run.tied}})
        print_energies(rows, run.out, variants=variants, counts=counts, saved=saved, settings=profile)


def _format_config(run: ProjectRun) -> str:
    """Returns the resolved options as YAML, which `--config` takes."""
    config = {one.name: make_plain(getattr(run, one.name)) for one in dataclasses.fields(run)}
    del config["dry_run"]
    config["methods"] = [one.to_recipe() for one in run.methods]
    return yaml.safe_dump(config, sort_keys=False)


def make_plain(value: Any) -> Any:
    """Returns settings as plain values, which YAML holds and a command takes again."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return make_plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {name: make_plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [make_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
