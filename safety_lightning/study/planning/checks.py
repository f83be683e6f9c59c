"""What is refused, or said, before the first hour of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from safety_lightning.errors import UserError
from safety_lightning.study.finetuning import FitStage
from safety_lightning.study.measuring import MeasureStage, PilotStage
from safety_lightning.study.planning.judging import list_paid_judges
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage
from safety_lightning.study.variants import list_study_variants

_NUM_SEEDS = 3  # a t interval over fewer says nothing
_NUM_DRAWS = 3


def check_plan(run: StudyRun, waiting: Sequence[Stage]) -> None:
    """Checks what can be told by settings alone.

    Args:
        run: The study.
        waiting: The stages that will be run.

    Raises:
        UserError: If two variants have one name, a judge will have no key, or a random subspace of a fine-tune or of
            the lab is that of a draw.
    """
    counts = Counter((one.name, one.draw) for one in list_study_variants(run))
    twice = [name for (name, _), number in counts.items() if number > 1]
    if twice:
        raise UserError(f"variants of a study must have different names, got {twice[0]} twice")
    if any(isinstance(one, MeasureStage | PilotStage) for one in waiting):
        _check_keys(run)
    draws = find_draw_seeds(run)
    for source, seed, place in list_planted(run, waiting):
        if seed in draws.get(source, ()):
            raise UserError(
                f"{place} must differ from the seeds of the study's draws of {source} ({_join(draws[source])}), for "
                f"one of them would be the planted subspace itself, got {seed}: choose another --seed"
            )


def list_doubts(run: StudyRun) -> list[str]:
    """Says which intervals the study will not have, for want of seeds or draws."""
    doubts = []
    if len(run.seeds) < _NUM_SEEDS:
        doubts.append(
            f"Seeds        {len(run.seeds)} of {_NUM_SEEDS} that an interval over fine-tunes needs: the verdict will "
            "be of these fine-tunes alone"
        )
    if "random" in run.variants.sources and run.variants.num_draws < _NUM_DRAWS:
        doubts.append(
            f"Draws        {run.variants.num_draws} of {_NUM_DRAWS} that the blunt frontier needs: its intervals will "
            "not hold the chance of a draw"
        )
    return doubts


def find_draw_seeds(run: StudyRun) -> dict[str, list[int]]:
    """Returns the seeds from which the study draws random directions, by source."""
    draws: dict[str, set[int]] = {}
    for one in list_study_variants(run):
        if one.source in ("random", "random_k"):
            draws.setdefault(one.source, set()).add(run.seed + one.draw)
    return {source: sorted(seeds) for source, seeds in draws.items()}


def list_planted(run: StudyRun, waiting: Sequence[Stage]) -> Iterator[tuple[str, int, str]]:
    """Lists the random subspaces in which something was or will be trained: source, seed, and where the seed stands."""
    if run.reference == "lab:planted":
        from safety_lightning.lab.build import PLANTING_SEED

        yield "random", PLANTING_SEED, "the planting seed of lab:planted"
    for stage in waiting:
        subspace = (stage.options.get("projection") or {}).get("subspace") if isinstance(stage, FitStage) else None
        if subspace and subspace.get("source") in ("random", "random_k"):
            yield subspace["source"], subspace.get("seed", 0), f"projection.subspace.seed of {stage.name}"


def _check_keys(run: StudyRun) -> None:
    for judge in list_paid_judges(run.measures.data):
        if not judge.has_key:
            raise UserError(
                f"measures.data.{judge.place} ({judge.model}) must have its key in the environment variable "
                f"{judge.key_variable} before anything is trained, there is none (RuleJudge and LocalJudge need none)"
            )


def _join(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
