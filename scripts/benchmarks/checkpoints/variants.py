"""Variants in a live model, on random weights in the shape of SmolLM2-135M."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.checkpoints.folders import save_checkpoints
from benchmarks.common import Result, Setup, time_call
from benchmarks.shapes import SMOLLM2
from safety_lightning.methods import Method, Scale, SubspaceComponent, Variant, list_components, list_variants
from safety_lightning.sweep import PlainLoader, SweepSettings, VariantLoader, open_inputs, sort_variants

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
METHODS: list[Method] = [
    *list_components(["random"], ["parallel", "orthogonal"], FRACTIONS),
    *(Scale(alpha=0.1 * step) for step in range(1, 10)),
]
ALIKE = "time of loading a variant ÷ time of copying its weights"
OTHER = "the other component"


def measure_variants(setup: Setup) -> list[Result]:
    """Times variants against a copy of the weights, and against reading and making everything anew."""
    with tempfile.TemporaryDirectory() as name:
        model = save_checkpoints(Path(name), setup.shrink(SMOLLM2), ["tuned"])
        settings = SweepSettings()
        paths = [str(Path(name) / one) for one in ("base", "reference", "tuned")]
        inputs = open_inputs(paths[0], paths[1], paths[2:], methods=METHODS, settings=settings)
        plain = PlainLoader(inputs, settings)
        loader = VariantLoader(inputs, settings, largest_fraction=max(FRACTIONS))
        copies = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        copy = partial(copy_weights, model, copies)
        for variant in find_sequence():  # reads checkpoints and draws directions
            loader.load(model, variant)
        slow, _ = time_call(partial(plain.load, model, make_variant("orthogonal", 0.5)))
        notes = {OTHER: f"; anew: {slow:.1f} s"}  # which that variant is
        return [
            time_against(copy, partial(loader.load, model), kind, found, setup.num_pairs, notes.get(kind, ""))
            for kind, found in list_kinds().items()
        ]


def list_kinds() -> dict[str, list[Variant]]:
    """Returns variants in order by what is measured; the first of a list is loaded before, and not timed."""
    halves = [make_variant("parallel", 0.5), make_variant("orthogonal", 0.5)]
    return {
        "`scale`": [Variant(finetuned="tuned", method=Scale(alpha=alpha)) for alpha in (0.1, 0.7)],
        OTHER: halves,
        "the next fraction, a quarter further": [make_variant("parallel", 0.25), halves[0]],
        "5 fractions, both components, 9 scales, in the best order": find_sequence(),
    }


def make_variant(component: str, fraction: float) -> Variant:
    """Returns a random variant."""
    method = SubspaceComponent(source="random", component=component, fraction=fraction)  # type: ignore[arg-type]
    return Variant(finetuned="tuned", method=method)


def find_sequence() -> list[Variant]:
    """Returns the variants of one source as a study loads them."""
    return sort_variants(list_variants(["tuned"], METHODS))


def time_against(
    copy: Callable[[], object],
    load: Callable[[Variant], object],
    kind: str,
    variants: list[Variant],
    num_pairs: int,
    note: str,
) -> Result:
    """Times the loading of variants in order, alternated with copies; the ratio is of the sums."""
    ratios, shown = [], ""
    for _ in range(num_pairs):
        loading = copying = 0.0
        load(variants[0])
        for variant in variants[1:]:
            copying += time_call(copy)[0]
            loading += time_call(partial(load, variant))[0]
        ratios.append(loading / copying)
        shown = f"{loading / (len(variants) - 1):.2f} s, a copy {copying / (len(variants) - 1):.2f} s{note}"
    return Result(f"{ALIKE}: {kind}", "≤ 1.5", ratios, shown)


def copy_weights(model: nn.Module, copies: dict[str, Tensor]) -> None:
    """Copies weights into a model, which is the least that setting a variant takes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(copies[name])
