"""The command `overlap`: its options, which are those of the functions behind it.

Nothing heavy is imported before there is work to do, so that help pages appear at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def weights(
    reference: str,
    updates: dict[str, str],
    base: str | None = None,
    ceilings: dict[str, str] | None = None,
    out: Path | None = None,
    etas: list[float] | None = None,
    side: Literal["left", "right"] = "left",
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    vectors: Literal["project", "skip"] = "project",
    common_rows: bool = False,
    angle_etas: list[float] | None = None,
    seed: int = 0,
    profile: Literal["sound", "paper"] = "sound",
    compare_profiles: bool = False,
    large_updates: Literal["exact", "sketch"] | None = None,
    zero_updates: Literal["exclude", "one"] | None = None,
    tied: Literal["once", "each"] | None = None,
    device: str | None = None,
) -> None:
    """Compare updates of weights in pairs: Mode Subspace Overlap by matrix, layer and share of energy.

    Args:
        reference: The checkpoint that fine-tuning started from: a folder, a hub name or lab:NAME.
        updates: Fine-tuned checkpoints by name: useful=DIR harmful=DIR ...
        base: The checkpoint from before alignment; adds the update "delta", reference - base.
        ceilings: The same fine-tunes with another seed, by name: useful=DIR2.
        out: Folder to make, or to go on with when it holds the same run; a fresh one under logs by default.
        etas: Shares of squared singular values that the bases hold, each in (0, 1]; 0.5 to 0.99 by default.
        side: Output side or input side.
        include: Patterns of tensor names that take part; all by default.
        exclude: Patterns of tensor names that do not.
        vectors: Compare 1-D tensors as M x 1 matrices, or skip them.
        common_rows: Accept a vocabulary that was resized between base and reference.
        angle_etas: Shares at which principal angles are measured too.
        seed: Seed of the random projection of large updates.
        profile: What chooses the settings that are not given.
        compare_profiles: Show both profiles side by side.
        large_updates: Updates of more than 10,000 rows: exactly, or by a random projection.
        zero_updates: Exclude updates of zero, or count their overlap as one.
        tied: Count an embedding that is also the output layer once, or each.
        device: Where to decompose; the GPU where there is one by default.
    """
    given = dict(locals())
    from safety_lightning.overlap.weights.command import compare_weights

    compare_weights(**given)


def activations(
    sets: dict[str, str],
    paper_sets: dict[str, str] | None = None,
    out: Path | None = None,
    etas: list[float] | None = None,
    angle_etas: list[float] | None = None,
    num_permutations: int = 100,
    num_resamples: int = 100,
    draw_layers: Literal["every", "averaged"] = "every",
    depth: list[float] | None = None,
    seed: int = 0,
    profile: Literal["sound", "paper"] = "sound",
    compare_profiles: bool = False,
    centred: bool | None = None,
    device: str | None = None,
) -> None:
    """Compare sets of activations in pairs: Mode Subspace Overlap by layer and share of energy.

    Args:
        sets: Folders that predict made, by name: useful=DIR harmful=DIR ...; DIR#SET is one prompt set of several.
        paper_sets: The same sets captured by the profile paper, for its side of compare_profiles.
        out: Folder to make, or to go on with when it holds the same run; a fresh one under logs by default.
        etas: Shares of squared singular values that the bases hold, each in (0, 1]; 0.5 to 0.99 by default.
        angle_etas: Shares at which principal angles are measured too.
        num_permutations: How often labels are shuffled for the null; 0 for none.
        num_resamples: How often prompts are drawn anew for the intervals; 0 for none.
        draw_layers: Make null and intervals for every layer, or for those that are averaged.
        depth: From which to which depth layers are averaged; 0.65 0.9 by default.
        seed: Seed of the draws.
        profile: What chooses the settings that are not given.
        compare_profiles: Show both profiles side by side.
        centred: Take the mean of each set off.
        device: Where to decompose; the GPU where there is one by default.
    """
    given = dict(locals())
    from safety_lightning.overlap.activations.command import compare_activations

    compare_activations(**given)
