"""What judges of the field are asked, from a file of the user's.

The authors' wordings are not shipped: each judge says where its authors publish theirs.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import JudgeRequest
from safety_lightning.evaluation.judges.rubric import hash_text, read_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a judge's authors publish its template.

    Attributes:
        judge: The judge's class.
        place: Where the text is found.
        licence: The licence that it is published under.
        prompt: What the authors call the place of the prompt.
        answer: What they call the place of the answer.
        hash: What `hash_text` gives of their text; None where it is not known here.
    """

    judge: str
    place: str
    licence: str
    prompt: str
    answer: str
    hash: str | None = None


@dataclass(frozen=True)
class Template:
    """A text with a place for the prompt and one for the answer; other braces stand for themselves."""

    text: str
    published: Published

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text."""
        return hash_text(self.text)

    def fill(self, request: JudgeRequest) -> str:
        """Returns the text with prompt and answer in their places, whatever braces they hold themselves."""
        values = {self.published.prompt: request.prompt, self.published.answer: request.answer}
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.text)


def read_template(file: str | None, published: Published) -> Template:
    """Reads a template that the user has saved as its authors publish it.

    Args:
        file: The text file.
        published: Where it is to be had, and the names of its places.

    Raises:
        UserError: If there is none, it cannot be read, or it lacks a place.
    """
    places = f"{{{published.prompt}}} and {{{published.answer}}}"
    if file is None:
        raise UserError(
            f"{published.judge} must be given its template, a text file with {places}, got none: its authors publish "
            f"it in {published.place} ({published.licence})"
        )
    text = read_text(Path(file).expanduser(), what="template", known=["the authors' text"])
    if any(text.count(f"{{{name}}}") != 1 for name in (published.prompt, published.answer)):
        raise UserError(f"the template of {published.judge} must hold {places} once each, {file} does not")
    if published.hash not in (None, hash_text(text)):
        logger.warning("%s is not the wording that %s was trained on (%s)", file, published.judge, published.place)
    return Template(text, published)
