"""What judges of the field are asked: their authors' wording, or that of a file of the user's."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import JudgeRequest
from safety_lightning.evaluation.judges.published import Published, fetch_text
from safety_lightning.evaluation.judges.rubric import hash_text, read_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Template:
    """A text with a place for the prompt and one for the answer, or with none; other braces stand for themselves."""

    text: str
    published: Published

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text."""
        return hash_text(self.text)

    def fill(self, request: JudgeRequest) -> str:
        """Returns the text with prompt and answer in their places, whatever braces they hold themselves."""
        values = dict(zip(self.published.places, (request.prompt, request.answer), strict=False))
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.text)


def read_template(file: str | None, published: Published) -> Template:
    """Reads what a judge is asked.

    Args:
        file: A text file of the user's; ``published`` or None is the authors' own, fetched once and kept.
        published: Where that is to be had, and the names of its places.

    Raises:
        UserError: If it cannot be read or fetched, or it lacks a place.
    """
    if file is None or file == "published":
        return Template(fetch_text(published), published)
    text = read_text(Path(file).expanduser(), what=published.option, known=["published"])
    if any(text.count(f"{{{name}}}") != 1 for name in published.places):
        places = " and ".join(f"{{{name}}}" for name in published.places)
        raise UserError(f"the {published.option} of {published.judge} must hold {places} once each, {file} does not")
    if hash_text(text) not in (published.hash, *published.other_hashes):
        logger.warning("%s is not the wording that %s's authors publish: %s", file, published.judge, published.place)
    return Template(text, published)
