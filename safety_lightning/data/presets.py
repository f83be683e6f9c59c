"""Names the data sets of the study, with their columns and filters."""

import difflib
import re
from dataclasses import fields, replace

from safety_lightning.data.sources import InstructionSource
from safety_lightning.errors import UserError

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
        prompt="sentence",  # this column and is_toxic are made by safety_lightning.data.hub
        response="sentence",  # statements, to which there is no answer
        filters={"is_toxic": True},
    ),
    "beavertails_test": _BEAVERTAILS_TEST,
    **{
        f"beavertails_test:{category}": replace(_BEAVERTAILS_TEST, filters={f"category.{category}": True})
        for category in BEAVERTAILS_CATEGORIES
    },
    "lab:useful": InstructionSource(path="lab:useful"),
    "lab:harmful": InstructionSource(path="lab:harmful"),
    "lab:safe": InstructionSource(path="lab:safe"),
    "lab:ordinary": InstructionSource(path="lab:ordinary"),
}

_DEFAULTS = InstructionSource(path="-", prompt="prompt", response="response", split="train", pick="seeded")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]{2,7}$")


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
    return text in PRESETS or text.startswith("lab:") or ("/" not in text and not _FILE_SUFFIX.search(text))


def _fill(source: InstructionSource, other: InstructionSource) -> InstructionSource:
    changes = {
        field.name: getattr(other, field.name) for field in fields(source) if getattr(source, field.name) is None
    }
    return replace(source, **changes)
