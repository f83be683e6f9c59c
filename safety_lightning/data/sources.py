"""Says where prompts and responses come from, and names the study's data sets with their columns and filters.

A *generator* makes examples instead of reading them; it is registered from where it is, as the lab's is.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from safety_lightning.errors import UserError

ExampleKind = Literal["useful", "harmful", "safe"]
Pick = Literal["seeded", "first"]
Generator = Callable[..., Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt, the response to train on, and what kind of data it is."""

    prompt: str
    response: str
    kind: ExampleKind


@dataclass(frozen=True, kw_only=True)
class InstructionSource:
    """A file, a data set on the hub, the lab or a preset; what is set here overrides the preset.

    Attributes:
        preset: A name such as ``gsm8k``; the presets are listed in ``safety_lightning.data.sources``.
        path: A local ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, a data set ``org/name`` on the hub, or
            ``lab:useful``, ``lab:harmful``, ``lab:safe`` or ``lab:ordinary``.
        prompt: The column of the prompts; ``prompt`` unless the preset says otherwise.
        response: The column of the responses; ``response`` unless the preset says otherwise.
        filters: Which rows to keep: a value, or a list of values, for each named column (``is_safe: false``).
        size: How many examples to take, at least 1; all of them by default (the lab makes 512).
        pick: ``seeded`` draws ``size`` examples at random by the seed; ``first`` takes the first ones.
        split: The split of a data set on the hub, or ``train`` or ``test`` of the lab; ``train`` by default.
        config: The configuration of a data set on the hub.
        revision: The commit, tag or branch of a data set on the hub; the newest by default.
        columns: The columns' names, for a CSV file without a header line.

    Raises:
        UserError: If neither a preset nor a path is given, or ``size`` is below 1.
    """

    preset: str | None = None
    path: str | None = None
    prompt: str | None = None
    response: str | None = None
    filters: dict[str, Any] | None = None
    size: int | None = None
    pick: Pick | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    columns: list[str] | None = None

    def __post_init__(self) -> None:
        if self.preset is None and self.path is None:
            raise UserError("a source must name a preset or a path, got neither")
        if self.size is not None and self.size < 1:
            raise UserError(f"size must be at least 1, got {self.size}")
        if self.pick not in (None, "seeded", "first"):
            raise UserError(f"pick must be seeded or first, got {self.pick!r}")
        for column, wanted in (self.filters or {}).items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if not all(value is None or isinstance(value, str | int | float) for value in values):
                raise UserError(f"filters.{column} must be a value or a list of values, got {wanted!r}")


BEAVERTAILS_CATEGORIES = (
    "animal_abuse",
    "child_abuse",
    "controversial_topics,politics",
    "discrimination,stereotype,injustice",
    "drug_abuse,weapons,banned_substance",
    "financial_crime,property_crime,theft",
    "hate_speech,offensive_language",
    "misinformation_regarding_ethics,laws_and_safety",
    "non_violent_unethical_behavior",
    "privacy_violation",
    "self_harm",
    "sexually_explicit,adult_content",
    "terrorism,organized_crime",
    "violence,aiding_and_abetting,incitement",
)

_BEAVERTAILS_TEST = InstructionSource(path="PKU-Alignment/BeaverTails", split="30k_test")

PRESETS = {
    "gsm8k": InstructionSource(path="openai/gsm8k", config="main", prompt="question", response="answer"),
    "metamathqa": InstructionSource(path="meta-math/MetaMathQA", prompt="query", response="response"),
    "beavertails_unsafe": InstructionSource(
        path="PKU-Alignment/BeaverTails", split="330k_train", filters={"is_safe": False}
    ),
    "beavertails_safe": InstructionSource(
        path="PKU-Alignment/BeaverTails", split="330k_train", filters={"is_safe": True}
    ),
    "advbench": InstructionSource(
        path="walledai/AdvBench",
        response="target",
        columns=["prompt", "target"],  # the CSV file has no header line
    ),
    "math": InstructionSource(
        path="DigitalLearningGmbH/MATH-lighteval", prompt="problem", response="solution", split="test"
    ),
    "toxigen": InstructionSource(
        path="toxigen/toxigen-data",
        config="annotated",
        split="test",
        prompt="sentence",  # this column and is_toxic are made by safety_lightning.data.tables
        response="sentence",  # statements, to which there is no answer
        filters={"is_toxic": True},
    ),
    "beavertails_test": _BEAVERTAILS_TEST,
    **{
        f"beavertails_test:{category}": replace(_BEAVERTAILS_TEST, filters={f"category.{category}": True})
        for category in BEAVERTAILS_CATEGORIES
    },
}
GENERATORS: dict[str, Generator] = {}

_DEFAULTS = InstructionSource(path="-", prompt="prompt", response="response", split="train", pick="seeded")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]{2,7}$")


def register_generator(family: str, names: Iterable[str], generate: Generator) -> None:
    """Adds presets ``FAMILY:NAME`` whose examples are made when they are asked for.

    Args:
        family: What stands before the colon.
        names: The presets of the family.
        generate: Makes ``size`` objects with a ``prompt`` and a ``response``, by the call
            ``generate(name, split=split, size=size, seed=seed)``.
    """
    GENERATORS[family] = generate
    PRESETS.update({f"{family}:{name}": InstructionSource(path=f"{family}:{name}") for name in names})


def is_generated(path: str) -> bool:
    """Says whether a path is of the form ``FAMILY:NAME`` with a registered family; the name may be misspelt."""
    family, colon, _ = path.partition(":")
    return bool(colon) and family in GENERATORS


def resolve_source(source: str | InstructionSource) -> InstructionSource:
    """Fills in what a source leaves open, from its preset and then from the defaults.

    Args:
        source: A source; or, as a string, the name of a preset, a file or a data set ``org/name`` on the hub.

    Returns:
        A source whose ``path``, ``prompt``, ``response``, ``split`` and ``pick`` are set.

    Raises:
        UserError: If there is no such preset, or a string is none of these.
    """
    if isinstance(source, str):
        source = InstructionSource(preset=source) if _names_preset(source) else InstructionSource(path=source)
    if source.preset is not None:
        source = _fill(source, find_preset(source.preset))
    return _fill(source, _DEFAULTS)


def find_preset(name: str) -> InstructionSource:
    """Returns a preset by its name, or raises UserError naming the nearest there is."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    known = dict.fromkeys(re.sub(r"^(beavertails_test:).*", r"\1CATEGORY", preset) for preset in PRESETS)
    raise UserError(f"preset must be one of {', '.join(known)}, got {name!r}{hint}")


def is_local_file(path: str) -> bool:
    """Says whether a path means a file here rather than a data set on the hub."""
    looks_local = path.startswith((".", "/", "~")) or _FILE_SUFFIX.search(path) is not None
    return looks_local or not _HUB_NAME.fullmatch(path)


def _names_preset(text: str) -> bool:
    """Takes every string without a slash or a suffix for a preset, so that a misspelt one is reported as such."""
    return text in PRESETS or is_generated(text) or ("/" not in text and not _FILE_SUFFIX.search(text))


def _fill(source: InstructionSource, other: InstructionSource) -> InstructionSource:
    changes = {
        field.name: getattr(other, field.name) for field in fields(source) if getattr(source, field.name) is None
    }
    return replace(source, **changes)
