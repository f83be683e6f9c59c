"""What a method is: it says what it needs, keeps a part of each matrix's update, and describes itself."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.methods.update import Kept, MatrixUpdate
from safety_lightning.projection import Component
from safety_lightning.subspaces import Source

DRAWN: tuple[Source, ...] = ("random_k", "random")
"""The sources whose directions depend on a seed."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What must be at hand before a method can treat a matrix.

    Attributes:
        source: Where its directions come from; None for a method without directions.
        fraction: Share of the smaller dimension that it takes of them; None for all directions.
        safety_tuned: Whether it needs the update of a safety-tuned model.
        unaligned: The checkpoint that its safety vector points away from; None for base.
        untrained: Whether it treats matrices too that were not trained.
        num_worst: How many matrices of the smallest score it treats; None for a method that knows without the others.
        numbers: Whether it looks at the numbers of the update or of the delta. A method that asks for ranks alone
            (``matrix.delta.choose_rank`` or ``choose_energy_rank``) says no, and `VariantLoader` loads it quickly: it
            is then given matrices on the meta device, which have shapes only.
    """

    source: Source | None = None
    fraction: float | None = None
    safety_tuned: bool = False
    unaligned: str | None = None
    untrained: bool = False
    num_worst: int | None = None
    numbers: bool = True


@dataclass(frozen=True, kw_only=True)
class Description:
    """How a method is called in tables, folders and model cards.

    Attributes:
        source: Its name; of a subspace, where the directions come from.
        component: Which component of a subspace it keeps, None for another method.
        fraction: Its number: the fraction of a subspace, a factor, None for a method without one.
        text: What it does, in one line.
        fraction_name: What the fraction is called where tables list several side by side.
        keeps_rank: Whether an adapter that it treats stays an adapter of the same rank: the method acts on one of the
            two factors.
    """

    source: str
    component: Component | None = None
    fraction: float | None = None
    text: str
    fraction_name: str = "fraction"
    keeps_rank: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(metaclass=ABCMeta):  # not ABC: jsonargparse leaves the options of its subclasses out of the help
    """A way to treat the update of a finished fine-tune, matrix by matrix.

    A method of your own is a frozen dataclass on this one whose fields are its settings; `project --methods` takes it
    by its class path.
    """

    @property
    def needs(self) -> Needs:
        """What must be at hand."""
        return Needs()

    def check(self, slots: Sequence[MatrixSlot]) -> None:  # noqa: B027 (most methods have nothing to check)
        """Checks what the method reads besides the checkpoints, before work starts.

        Args:
            slots: The matrices that take part.

        Raises:
            UserError: If a file of its own is absent, or does not fit the matrices.
        """

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of files of its own by their setting: other contents make another sweep."""
        return {}

    def score(self, matrix: MatrixUpdate) -> float | None:
        """Returns what the method chooses matrices by, for the tables; None for a method that does not choose."""
        return None

    @abstractmethod
    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Says what is kept of the update of one matrix."""

    @abstractmethod
    def describe(self) -> Description:
        """Returns its names and its description."""

    def to_recipe(self) -> dict[str, Any]:
        """Returns class path and settings: two methods of equal settings and different classes are different."""
        place = type(self)
        return {"class_path": f"{place.__module__}.{place.__qualname__}", "init_args": asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One method on the update of one finetuned model.

    Attributes:
        finetuned: Name of the finetuned model.
        method: The method.
        draw: Which draw of a random source it stands for, from 0, for `VariantLoader`: the seed of its directions is
            that of the settings plus the draw. None is the seed itself, without a number in the name.

    Raises:
        UserError: If a draw is below 0, or the method draws nothing.
    """

    finetuned: str
    method: Method
    draw: int | None = None

    def __post_init__(self) -> None:
        if self.draw is not None and (self.draw < 0 or self.method.needs.source not in DRAWN):
            raise UserError(
                f"draw must be at least 0, of a method that takes directions from {' or '.join(DRAWN)}, "
                f"got {self.draw} of {self.method.describe().source}"
            )

    @property
    def key(self) -> tuple[str, str, str | None, float | None]:
        """What tables name it by: finetuned, source, component, fraction."""
        described = self.method.describe()
        source = described.source if self.draw is None else f"{described.source}@{self.draw}"
        return self.finetuned, source, described.component, described.fraction

    @property
    def name(self) -> str:
        """Its name, which is also its folder: ``FINETUNED/SOURCE/COMPONENT/FRACTION`` as far as they apply."""
        return "/".join(f"{part:g}" if isinstance(part, float) else str(part) for part in self.key if part is not None)


def list_variants(
    finetuned: Iterable[str], methods: Sequence[Method], *, num_draws: int | None = None
) -> list[Variant]:
    """Lists every method on every finetuned model, model by model.

    Args:
        finetuned: Names of finetuned models.
        methods: The methods.
        num_draws: How many draws of every method with a random source, for `VariantLoader`: ``random@0``, ``random@1``,
            and so on; None for the one of the seed.

    Raises:
        UserError: If there is no variant, or two have the same name.
    """
    variants = [
        Variant(finetuned=name, method=method, draw=draw)
        for name in finetuned
        for method in methods
        for draw in (range(num_draws) if num_draws is not None and method.needs.source in DRAWN else [None])
    ]
    if not variants:
        raise UserError("sources, components, fractions, rivals and methods must make at least one variant")
    names = [variant.name for variant in variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"methods must have different names, got {twice} twice")
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
