"""The variants of a finetuned model that a sweep makes: which directions, which component, how many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from safety_lightning.errors import UserError
from safety_lightning.methods.rivals import Rivals
from safety_lightning.projection.operators import Component
from safety_lightning.subspaces import Source, check_fraction

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to treat the update of one finetuned model.

    Attributes:
        finetuned: Name of the finetuned model.
        source: Where the directions come from, or the name of a rival method.
        component: Which part is kept; None for a method that keeps no part of a split.
        fraction: Share of the smaller dimension that the subspace spans; for ``energy`` the share of the delta's
            energy; None for a method without either.
    """

    finetuned: str
    source: str
    component: Component | None = None
    fraction: float | None = None

    @property
    def name(self) -> str:
        """Its name, which is also its folder: ``FINETUNED/SOURCE/COMPONENT/FRACTION`` as far as they apply."""
        parts = [self.finetuned, self.source, self.component, self.fraction]
        return "/".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts if part is not None)


def list_variants(
    finetuned: Iterable[str],
    *,
    sources: Sequence[Source],
    components: Sequence[Component],
    fractions: Sequence[float],
    rivals: Rivals,
) -> list[Variant]:
    """Lists every variant, model by model; fractions rise.

    Raises:
        UserError: If a list has an entry twice, a fraction is outside (0, 1], or there is no variant.
    """
    for label, entries in (("sources", sources), ("components", components), ("fractions", fractions)):
        _check_distinct(label, entries)
    for fraction in fractions:
        check_fraction(fraction)
    variants = []
    for name in finetuned:
        variants += [
            Variant(finetuned=name, source=source, component=component, fraction=float(fraction))
            for source in sources
            for component in components
            for fraction in sorted(fractions)
        ]
        variants += [Variant(finetuned=name, source=method) for method in rivals.methods if method != "energy"]
        variants += [
            Variant(finetuned=name, source="energy", component="orthogonal", fraction=share)
            for share in (sorted(rivals.energy.shares) if "energy" in rivals.methods else ())
        ]
    if not variants:
        raise UserError("sources, components, fractions and rivals must make at least one variant, they make none")
    return variants


def match_variants(variants: Sequence[Variant], patterns: Sequence[str]) -> list[Variant]:
    """Returns the variants that patterns name.

    Args:
        variants: All variants.
        patterns: ``none``, ``all``, or shell patterns of variants' names such as ``*/top_k/orthogonal/0.25``.

    Raises:
        UserError: If a pattern names no variant, or ``none`` and ``all`` are mixed with others.
    """
    if list(patterns) in ([], ["none"]):
        return []
    if list(patterns) == ["all"]:
        return list(variants)
    for pattern in patterns:
        if not any(fnmatchcase(variant.name, pattern) for variant in variants):
            raise UserError(
                f"save_models must be none, all or patterns of variants, {pattern!r} matches none of "
                f"{len(variants)} (there is {variants[0].name})"
            )
    return [one for one in variants if any(fnmatchcase(one.name, pattern) for pattern in patterns)]


def _check_distinct(label: str, entries: Sequence[object]) -> None:
    twice = next((entry for entry in entries if list(entries).count(entry) > 1), None)
    if twice is not None:
        raise UserError(f"{label} must be different, got {twice} twice")
