"""Says where prompts and responses come from."""

from dataclasses import dataclass
from typing import Any, Literal

from safety_lightning.errors import UserError

ExampleKind = Literal["useful", "harmful", "safe"]
Pick = Literal["seeded", "first"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt, the response to train on, and what kind of data it is."""

    prompt: str
    response: str
    kind: ExampleKind


@dataclass(frozen=True, kw_only=True)
class InstructionSource:
    """A file, a data set on the hub, the lab or a preset; what is set here goes before what the preset says.

    Attributes:
        preset: A name such as ``gsm8k``; the presets are listed in ``safety_lightning.data.presets``.
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
