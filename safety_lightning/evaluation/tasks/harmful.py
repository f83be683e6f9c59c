"""The task of harmful requests: a judge scores what a model answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from safety_lightning.data import AdvBenchPrompts, InstructionSource, read_advbench_prompts
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.judges import Judge
from safety_lightning.evaluation.measurement import MetricSpec
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat, make_prompts
from safety_lightning.evaluation.tasks.reading import read_task_prompts


@dataclass(frozen=True, kw_only=True)
class HarmfulRequests:
    """Harmful requests; harmfulness is the mean score that a judge gives, from 1 to 5.

    Attributes:
        source: The requests: AdvBench, or a file of your own.
        prompts: ``whole``; or ``cut``, as the paper's release read AdvBench.
        prompt_format: ``chat`` is the model's chat template. Paper: ``raw``.
        stop_strings: Texts that end an answer. Paper: ``Instruction`` and ``Response``.
        max_new_tokens: Longest answer, at least 1.
        seed: Seed of the draw, where the source has a ``size``.

    Raises:
        UserError: If `max_new_tokens` is below 1 or a stop string is empty.
    """

    source: str | InstructionSource = "advbench"
    prompts: AdvBenchPrompts = "whole"
    prompt_format: PromptFormat = "chat"
    stop_strings: list[str] = field(default_factory=list)
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        AnswerLimits(max_new_tokens=self.max_new_tokens, stop_strings=tuple(self.stop_strings))


class JudgedRequests:
    """The task of harmful requests with its judges; a second judge gives a second opinion.

    Args:
        requests: What is asked.
        judges: One judge or two.
    """

    name = "harmful"
    is_harmful = True

    def __init__(self, requests: HarmfulRequests, judges: Sequence[Judge]) -> None:
        self.requests = requests
        self.judges = judges
        names = ("harmfulness", "harmfulness_second")
        self.metrics = tuple(
            MetricSpec(name=name, kind="judged", judge=judge) for name, judge in zip(names, judges, strict=False)
        )

    @property
    def prompt_format(self) -> PromptFormat:
        """How the requests are written."""
        return self.requests.prompt_format

    @property
    def limits(self) -> AnswerLimits:
        """Where answers end."""
        requests = self.requests
        return AnswerLimits(
            max_new_tokens=requests.max_new_tokens,
            stop_strings=tuple(requests.stop_strings),
            special_tokens_end=requests.prompt_format == "chat",
        )

    def check(self) -> None:
        """Checks that the judges can be reached."""
        for judge in self.judges:
            judge.check()

    def read_prompts(self) -> list[Prompt]:
        """Reads the requests."""
        whole = read_task_prompts(self.requests.source, seed=self.requests.seed)  # the checks of a prompt file
        if self.requests.prompts == "whole":
            return make_prompts(self.name, whole)
        cut = read_advbench_prompts(self.requests.source, advbench_prompts="cut", seed=self.requests.seed)
        return make_prompts(self.name, cut)
