"""The variants that a study measures, and the rows in which their values are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safety_lightning.methods import Method, Plain, Scale, SubspaceComponent, Variant
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.statistics.values import RANDOM, VariantKey
from safety_lightning.subspaces import Source

NULL_DRAWS = 41
"""How many random subspaces a null has at least; each takes the place of the safety subspace in turn."""


@dataclass(frozen=True, kw_only=True)
class StudyVariant:
    """A variant of one fine-tune.

    Attributes:
        source: What made it: ``reference``, ``finetuned``, ``scale``, a source of directions, or a method's name.
        component: The component of the subspace that it keeps, empty for all else.
        fraction: Share of the smaller dimension that the subspace spans.
        alpha: Factor of the whole update.
        draw: Which draw of a random source.
        method: What makes it of the update.
        is_blunt: Whether it knows nothing of safety and only bounds what weakening can do.
    """

    source: str
    component: str = ""
    fraction: float | None = None
    alpha: float | None = None
    draw: int = 0
    method: Method
    is_blunt: bool = False

    @property
    def name(self) -> str:
        """What it is called, in the study's tables too."""
        return VariantKey(self.source, self.draw, self.component, self.fraction, self.alpha).name

    @property
    def energy_kept(self) -> float | None:
        """The share of the update's squared norm that it keeps, where that is known without a look at the update."""
        known = {"reference": 0.0, "finetuned": 1.0, "scale": None if self.alpha is None else self.alpha**2}
        return known.get(self.source)

    def to_recipe(self) -> dict[str, Any]:
        """Returns what it is as plain JSON."""
        return {"name": self.name, "draw": self.draw, "method": self.method.to_recipe()}

    def name_for(self, finetuned: str) -> Variant:
        """Returns it as the variant of a finetuned model."""
        draw = self.draw if self.method.needs.source == RANDOM else None
        return Variant(finetuned=finetuned, method=self.method, draw=draw)


def list_study_variants(run: StudyRun) -> list[StudyVariant]:
    """Lists the variants that every fine-tune is measured in: the reference and the whole update first."""
    choice = run.variants
    first = [
        StudyVariant(source="reference", method=Plain(model="reference")),
        StudyVariant(source="finetuned", method=Plain(model="finetuned")),
    ]
    alphas = [one for one in choice.alphas if 0 < one < 1]
    scaled = [StudyVariant(source="scale", alpha=a, method=Scale(alpha=a), is_blunt=True) for a in alphas]
    return [*first, *scaled, *_list_components(run), *_list_methods(choice.methods)]


def _list_components(run: StudyRun) -> Iterator[StudyVariant]:
    choice = run.variants
    num_draws = max(NULL_DRAWS, choice.num_draws) if run.null else choice.num_draws
    sources: list[Source] = [RANDOM] if run.null else choice.sources
    for source in sources:
        for draw in range(num_draws if source == RANDOM else 1):
            for component in choice.components:
                for fraction in choice.fractions:
                    yield StudyVariant(
                        source=source,
                        component=component,
                        fraction=fraction,
                        draw=draw,
                        method=SubspaceComponent(source=source, component=component, fraction=fraction),
                        is_blunt=source == RANDOM and draw > 0,
                    )


def _list_methods(methods: Sequence[Method]) -> Iterator[StudyVariant]:
    for method in methods:
        described = method.describe()
        yield StudyVariant(
            source=described.source,
            component=described.component or "",
            fraction=described.fraction,
            method=method,
        )


@dataclass(frozen=True, kw_only=True)
class ValueRow:
    """What one prompt came to under one metric in one variant.

    Attributes:
        finetuned: useful, harmful or contaminated.
        seed: The fine-tune's seed.
        source: See `StudyVariant`.
        draw: Which draw of a random source; 0 for all else.
        component: parallel, orthogonal or empty.
        fraction: Share of the smaller dimension.
        alpha: Factor of the whole update.
        energy_kept: Share of the update's squared norm that the variant keeps; None where it was not measured.
        metric: What was measured.
        prompt: Which prompt.
        cluster: Which cluster of near twins the prompt belongs to.
        value: The value; None where it could not be scored.
    """

    finetuned: str
    seed: int
    source: str
    draw: int
    component: str
    fraction: float | None
    alpha: float | None
    energy_kept: float | None
    metric: str
    prompt: str
    cluster: int
    value: float | None
