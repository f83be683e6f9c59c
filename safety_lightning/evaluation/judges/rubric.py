"""A judge's rubric: its text, its placeholders and its hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import JudgeRequest

RUBRIC_FOLDER = Path(__file__).resolve().parent / "rubrics"
_REQUIRED = ("prompt", "answer")
_PLACEHOLDER = re.compile(r"\{(prompt|answer|fence)\}")


@dataclass(frozen=True)
class Rubric:
    """What a judge is told, with places for the prompt and the answer.

    ``{prompt}`` and ``{answer}`` must be in the text. ``{fence}`` may be: it becomes eight hexadecimal digits that
    depend on both texts, so that neither can hold the line that ends it. Other braces stand for themselves.

    Args:
        text: The rubric.
        name: What it is called in errors.

    Raises:
        UserError: If a placeholder is absent.
    """

    text: str
    name: str = "rubric"

    def __post_init__(self) -> None:
        absent = [f"{{{name}}}" for name in _REQUIRED if f"{{{name}}}" not in self.text]
        if absent:
            raise UserError(f"{self.name} must hold {{prompt}} and {{answer}}, there is no {' and no '.join(absent)}")

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text."""
        return hash_text(self.text)

    def fill(self, request: JudgeRequest) -> str:
        """Returns the text with the prompt and the answer in their places, whatever braces they hold themselves.

        Lone surrogates, which no server and no tokenizer takes, become question marks.

        Example:
            >>> Rubric("Q: {prompt} A: {answer}").fill(JudgeRequest(prompt="{answer}?", answer="{0}"))
            'Q: {answer}? A: {0}'
        """
        values = {
            "prompt": request.prompt,
            "answer": request.answer,
            "fence": hash_text(f"{self.hash} {len(request.prompt)} {request.prompt} {request.answer}")[:8],
        }
        filled = _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)
        return filled.encode("utf-8", "replace").decode("utf-8")


def read_rubric(rubric: str) -> Rubric:
    """Reads a rubric.

    Args:
        rubric: The name of one that comes with the package (``harmfulness``, ``levels``), or a text file.

    Raises:
        UserError: If there is no such rubric, or it has not both placeholders.
    """
    known = {file.stem: file for file in sorted(RUBRIC_FOLDER.glob("*.txt"))}
    file = known.get(rubric) or Path(rubric).expanduser()
    return Rubric(read_text(file, what="rubric", known=list(known)), name=f"rubric {rubric}")


def read_text(file: Path, *, what: str, known: list[str]) -> str:
    """Reads a text file in UTF-8 with ``\\n`` at the ends of its lines.

    Raises:
        UserError: If it cannot be read; it says which names are known besides files.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} must be {', '.join(known)} or a readable text file, got {file}: {error}") from error


def hash_text(text: str) -> str:
    """Returns the first 16 hexadecimal digits of a text's SHA-256; lone surrogates count as they are.

    Example:
        >>> hash_text("")
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
