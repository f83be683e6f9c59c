"""Which judges of a study cost money, and what a judgement of each costs at most by its list price."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from safety_lightning.errors import UserError
from safety_lightning.evaluation import judges
from safety_lightning.evaluation.judges import Budget, OpenAIJudge
from safety_lightning.evaluation.judges.rubric import read_rubric
from safety_lightning.evaluation.judges.served.openai_judge import DEFAULT_URL
from safety_lightning.evaluation.judges.served.requests import Tokens
from safety_lightning.evaluation.judges.served.scheduling import LIST_PRICES


@dataclass(frozen=True, kw_only=True)
class PaidJudge:
    """A judge behind a server, or one of the user's own, which may cost as much.

    Attributes:
        place: The option that names it.
        model: Its model.
        key_variable: The environment variable that must hold its key; None where none is known to.
        rubric: The name of its rubric.
        reply_tokens: Its longest reply.
        prices: US dollars for a million tokens, sent and received; None where nobody knows.
    """

    place: str
    model: str
    key_variable: str | None
    rubric: str
    reply_tokens: int
    prices: tuple[float, float] | None

    @property
    def task(self) -> str:
        """The task whose answers it judges."""
        return "ordinary" if self.place.startswith("ordinary") else "harmful"

    @property
    def has_key(self) -> bool:
        """Whether its key is in the environment, where it needs one."""
        return self.key_variable is None or bool(os.environ.get(self.key_variable, "").strip())

    def price(self, answer_tokens: float) -> float | None:
        """Returns what judging an answer costs at most, in US dollars.

        Args:
            answer_tokens: Tokens of the prompt and of the longest answer.
        """
        try:
            told = len(read_rubric(self.rubric).text.encode()) / 3  # a token of English has about four bytes
        except UserError:  # the judge's own check says so
            return None
        return Budget(prices=self.prices).price(Tokens(round(told + answer_tokens), self.reply_tokens))


def list_paid_judges(data: Mapping[str, Any]) -> list[PaidJudge]:
    """Lists the judges of a study's tasks that cost money, whether or not there is a key for them.

    Args:
        data: The options of the tasks, as `test` takes them under ``data``.
    """
    return [judge for judge in (_read(place, options) for place, options in _list_options(data)) if judge]


def _list_options(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    tasks = data.get("tasks", [])
    harmful = data.get("harmful") or {}
    if "harmful" in tasks and "harmfulness" in harmful.get("measures", ["harmfulness"]):
        yield from ((name, data.get(name)) for name in ("judge", "second_judge"))
    if "ordinary" in tasks:
        yield "ordinary.judge", (data.get("ordinary") or {}).get("judge")


def _read(place: str, options: Any) -> PaidJudge | None:
    given: dict[str, Any] = {"class_path": options} if isinstance(options, str) else dict(options or {})
    name = str(given.get("class_path", ""))
    kind = getattr(judges, name.rpartition(".")[2], None)
    if not name or (kind is not None and not issubclass(kind, OpenAIJudge)):
        return None
    own = dict(given.get("init_args") or {})
    if kind is None:  # one of the user's own, of which nothing is known
        return PaidJudge(place=place, model=name, key_variable=None, rubric="", reply_tokens=0, prices=None)
    model = str(own.get("model", "gpt-4o-mini"))
    url = own.get("base_url") or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    listed = LIST_PRICES.get(model) if str(url).rstrip("/") == DEFAULT_URL else None
    prices = (own.get("budget") or {}).get("prices")
    return PaidJudge(
        place=place,
        model=model,
        key_variable=str(own.get("api_key_variable", "OPENAI_API_KEY")),
        rubric=str(own.get("rubric", "harmfulness")),
        reply_tokens=int(own.get("max_tokens", signature(kind).parameters["max_tokens"].default)),
        prices=(float(prices[0]), float(prices[1])) if prices else listed,
    )
