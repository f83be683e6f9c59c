"""What a study is told: the schema of the command, its docstrings the help.

Nothing heavy is imported here, so that help pages appear at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from safety_lightning.errors import UserError
from safety_lightning.methods import Method
from safety_lightning.projection import Component
from safety_lightning.subspaces import Side, Source

Options: TypeAlias = dict
"""Options of another command. A plain dict: of ``dict[str, Any]`` jsonargparse would make every class that is named."""
Kind = Literal["useful", "harmful", "contaminated"]
KINDS: tuple[Kind, ...] = ("useful", "harmful", "contaminated")
Executor = Literal["local", "ray", "slurm"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """Which variants of every fine-tune are measured.

    Attributes:
        sources: Where the directions of subspaces come from.
        components: Keep the update inside the subspace, or outside.
        fractions: Shares of the smaller dimension of each matrix that the subspaces span, in (0, 1].
        num_draws: Draws of the random sources; random subspaces are averaged over them.
        alphas: Factors by which the whole update is scaled: what weakening does that knows nothing of safety.
        methods: More methods, by class and settings; a method of your own by its class path.
        safety_tuned: The checkpoint that `SafeMerge` merges with, tuned on refusals from the reference.
        side: Output side (the paper's equations) or input side.
        exclude: Patterns of tensor names that keep their whole update.
        per_block: Variants that one task measures; smaller blocks spread better over workers.
    """

    sources: list[Source] = field(default_factory=lambda: ["top_k", "random_k", "random"])
    components: list[Component] = field(default_factory=lambda: ["parallel", "orthogonal"])
    fractions: list[float] = field(default_factory=lambda: [0.01, 0.25, 0.5, 0.75, 0.99])
    num_draws: int = 5
    alphas: list[float] = field(default_factory=lambda: [round(0.1 * step, 1) for step in range(11)])
    methods: list[Method] = field(default_factory=list)
    safety_tuned: str | None = None
    side: Side = "left"
    exclude: list[str] = field(default_factory=list)
    per_block: int = 32

    def __post_init__(self) -> None:
        for name in ("num_draws", "per_block"):
            if getattr(self, name) < 1:
                raise UserError(f"variants.{name} must be at least 1, got {getattr(self, name)}")
        outside = [one for one in self.alphas if not 0 <= one <= 1]
        if outside:
            raise UserError(f"variants.alphas must be in [0, 1], got {outside[0]}")


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """What is measured in every variant.

    Attributes:
        utility: The measure of learning that the verdict is made from.
        harm: The measure of harm that the verdict is made from.
        data: Tasks and judges, as `test` takes them under ``data``.
        batch_size: Prompts measured at once.
        num_prompts: Prompts of each task, its first ones; null takes all.
        dtype: What variants are computed in.
        engine: What answers: ``transformers``, ``continuous`` (its continuous batching), or ``auto``, which is the
            latter on a GPU.
        answers_blunt: Whether variants that only the blunt frontier needs are given whole answers too, besides the
            two measures of the verdict.
    """

    utility: str = "solution_probability"
    harm: str = "expected_harmfulness"
    data: Options = field(default_factory=dict)
    batch_size: int = 64
    num_prompts: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    engine: Literal["auto", "transformers", "continuous"] = "auto"
    answers_blunt: bool = False


@dataclass(frozen=True, kw_only=True)
class OverlapChoice:
    """Which overlaps are measured.

    Attributes:
        weights: Options of `overlap weights`; null measures none.
        activations: Options of `predict` (its model is filled in); null captures none.
        activation_overlap: Options of `overlap activations`.
        models: Whose activations are captured: ``reference`` or fine-tunes by kind (their first seed).
    """

    weights: Options | None = field(default_factory=dict)
    activations: Options | None = None
    activation_overlap: Options = field(default_factory=dict)
    models: list[str] = field(default_factory=lambda: ["reference"])

    def __post_init__(self) -> None:
        unknown = [one for one in self.models if one not in ("reference", *KINDS)]
        if unknown:
            raise UserError(f"overlap.models must be reference, {', '.join(KINDS)}, got {unknown[0]!r}")


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """Where the tasks of a study run.

    Attributes:
        num_workers: Processes of this machine, or tasks at once of a cluster.
        num_cpus: Cores of a task.
        num_gpus: Accelerators of a task on a Ray cluster or under Slurm.
        max_retries: How often a task is run again whose worker was lost.
        address: The Ray cluster; null joins the one at hand or starts one on this machine.
        slurm: Options of submitit for Slurm: partition, time, memory.
        teraflops: Rate of matrix products on a task's machine, in 10^12 operations a second, for the plan of a study
            that will run elsewhere; null measures this machine.
        gigabytes_per_second: Rate at which it reads memory; null measures this machine.
    """

    num_workers: int = 1
    num_cpus: int = 1
    num_gpus: float = 0
    max_retries: int = 3
    address: str | None = None
    slurm: Options = field(default_factory=dict)
    teraflops: float | None = None
    gigabytes_per_second: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_workers", 1), ("num_cpus", 1), ("num_gpus", 0), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise UserError(f"workers.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("teraflops", "gigabytes_per_second"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"workers.{name} must be above 0, got {value:g}")


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What is studied: all that the results depend on.

    Attributes:
        base: The checkpoint from before alignment: a folder, a hub name (org/name@rev) or lab:NAME.
        reference: The checkpoint that fine-tuning starts from; null trains one from base by `reference_fit`.
        reference_fit: Options of the `fit` that makes the reference from base.
        fit: Options of `fit` that all fine-tunes share.
        finetunes: Options of `fit` by kind (useful, harmful, contaminated), over those of `fit`; ``start`` names
            the kind to start from instead of the reference.
        seeds: Seeds of the fine-tunes.
        pilot_share: Share of the optimizer steps that a pilot of every kind trains first; 0 for no pilot.
        variants: Which variants are measured.
        measures: What is measured.
        overlap: Which overlaps are measured.
        statistics: How the verdict is made; see the statistics' settings.
        compare_profiles: Compare overlaps once more under every departure of the profile `paper`, on the same
            fine-tunes.
        null: A random subspace takes the place of the safety subspace: ``separable`` is then false.
        seed: Seed of variants, resamples and random subspaces.
        overrides: Single settings inside nested options, as PATH=VALUE; --fit.trainer.max_steps 7 is one of them.
    """

    base: str
    reference: str | None = None
    reference_fit: Options | None = None
    fit: Options = field(default_factory=dict)
    finetunes: dict[str, Options] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    pilot_share: float = 0.1
    variants: VariantSettings = field(default_factory=VariantSettings)
    measures: MeasureSettings = field(default_factory=MeasureSettings)
    overlap: OverlapChoice = field(default_factory=OverlapChoice)
    statistics: Options = field(default_factory=dict)
    compare_profiles: bool = False
    null: bool = False
    seed: int = 0
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._override()
        if (self.reference is None) == (self.reference_fit is None):
            raise UserError("a study must have a reference or a reference_fit that makes one, got both or none")
        if set(self.finetunes) != set(KINDS):
            raise UserError(f"finetunes must be {', '.join(KINDS)}, got {', '.join(self.finetunes) or 'none'}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds must be one or more different numbers, got {self.seeds}")
        if not 0 <= self.pilot_share < 1:
            raise UserError(f"pilot_share must be in [0, 1), got {self.pilot_share}")
        for kind, options in self.finetunes.items():
            start = options.get("start")
            if start is not None and (start not in KINDS or start == kind or "start" in self.finetunes[start]):
                raise UserError(f"finetunes.{kind}.start must be another kind that has no start, got {start!r}")

    def _override(self) -> None:
        """Sets the overrides in the options that they name, and forgets them."""
        for override in self.overrides:
            path, _, value = override.partition("=")
            name, *deeper = path.split(".")
            changed = _set_deep(getattr(self, name, None), deeper, yaml.safe_load(value), path=path)
            object.__setattr__(self, name, changed)
        object.__setattr__(self, "overrides", [])


def _set_deep(options: Any, names: list[str], value: Any, *, path: str) -> Any:
    """Returns options with one value changed, leaving those that were given as they are."""
    if not names:
        return value
    name, *deeper = names
    if is_dataclass(options) and not isinstance(options, type):
        return replace(options, **{name: _set_deep(getattr(options, name), deeper, value, path=path)})
    if options is not None and not isinstance(options, dict):
        raise UserError(f"overrides must name settings inside options, {path} goes through the value {options!r}")
    known = options or {}
    return known | {name: _set_deep(known.get(name), deeper, value, path=path)}


@dataclass(frozen=True, kw_only=True)
class StudyRun(StudyPlan):
    """Run the whole study: fine-tunes, variants, overlaps, statistics, and a report with a verdict.

    Attributes:
        out: Folder to make, or to resume when it holds the same study.
        executor: Where tasks run: in this process or on this machine, on a Ray cluster, or under Slurm.
        workers: How many tasks run at once, and with what.
        device: Where variants are measured and overlaps decomposed.
        only: Run these stages alone, by name or pattern, such as finetune/useful-0 or "measure/*".
        dry_run: Print the plan with estimates and do nothing.
    """

    out: Path
    executor: Executor = "local"
    workers: ExecutorSettings = field(default_factory=ExecutorSettings)
    device: Device = "auto"
    only: list[str] = field(default_factory=list)
    dry_run: bool = False
