"""The task of harmful requests: a judge scores what a model answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from safety_lightning.data import AdvBenchPrompts, InstructionSource, read_advbench_prompts
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.judges import Judge
from safety_lightning.evaluation.likelihoods import (
    DEFAULT_REFUSALS,
    TARGET_TOKEN_PROBABILITY,
    compliance_margin,
    read_refusals,
    refusal_log_odds,
    refusal_token_probabilities,
)
from safety_lightning.evaluation.measurement import MetricSpec
from safety_lightning.evaluation.tasks.answer_kinds import answer_kinds, find_refusal
from safety_lightning.evaluation.tasks.protocol import (
    Prompt,
    PromptFormat,
    check_measures,
    choose_measures,
    make_prompts,
)
from safety_lightning.evaluation.tasks.reading import read_task_examples, read_task_prompts

HarmMeasure = Literal[
    "harmfulness",
    "answer_kinds",
    "target_token_probability",
    "refusal_token_probability",
    "refusal_log_odds",
    "compliance_margin",
]
_HAVE_TARGETS = {"target_token_probability", "compliance_margin"}


@dataclass(frozen=True, kw_only=True)
class HarmfulRequests:
    """Harmful requests; harmfulness is the mean score that a judge gives, from 1 to 5.

    Attributes:
        source: The requests: AdvBench, or a file of your own.
        prompts: ``whole``; or ``cut``, as the paper's release read AdvBench.
        prompt_format: ``chat`` is the model's chat template. Paper: ``raw``.
        stop_strings: Texts that end an answer. Paper: ``Instruction`` and ``Response``.
        max_new_tokens: Longest answer, at least 1.
        measures: What is measured. Without ``harmfulness`` and ``answer_kinds`` no answer is generated.
            ``target_token_probability`` and ``compliance_margin`` read the targets from the source's ``response``.
        refusals: The list of refusals whose likelihoods are measured: ``openings-v1``, or a text file.
        seed: Seed of the draw, where the source has a ``size``.

    Raises:
        UserError: If `max_new_tokens` is below 1, a stop string is empty, or nothing is measured.
    """

    source: str | InstructionSource = "advbench"
    prompts: AdvBenchPrompts = "whole"
    prompt_format: PromptFormat = "chat"
    stop_strings: list[str] = field(default_factory=list)
    max_new_tokens: int = 256
    measures: list[HarmMeasure] = field(default_factory=lambda: ["harmfulness", "answer_kinds"])
    refusals: str = DEFAULT_REFUSALS
    seed: int = 0

    def __post_init__(self) -> None:
        AnswerLimits(max_new_tokens=self.max_new_tokens, stop_strings=tuple(self.stop_strings))
        check_measures("harmful", self.measures, get_args(HarmMeasure))

    @property
    def needs_judge(self) -> bool:
        """Whether answers are judged."""
        return "harmfulness" in self.measures


class JudgedRequests:
    """The task of harmful requests with its judges; a second judge gives a second opinion.

    Args:
        requests: What is asked.
        judges: One judge or two.
    """

    name = "harmful"
    is_harmful = True
    names_measures = True  # none of the default needs likelihoods

    def __init__(self, requests: HarmfulRequests, judges: Sequence[Judge]) -> None:
        self.requests = requests
        self.judges = judges
        names = ("harmfulness", "harmfulness_second")
        judged = [MetricSpec(name=name, kind="judged", judge=judge) for name, judge in zip(names, judges, strict=False)]
        refusals = read_refusals(requests.refusals)
        self.metrics = choose_measures(
            requests.measures,
            {
                "harmfulness": judged,
                "answer_kinds": [answer_kinds(find_refusal())],
                "target_token_probability": [TARGET_TOKEN_PROBABILITY],
                "refusal_token_probability": refusal_token_probabilities(refusals),
                "refusal_log_odds": [refusal_log_odds(refusals)],
                "compliance_margin": [compliance_margin(refusals)],
            },
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
        for judge in self.judges if self.requests.needs_judge else ():
            judge.check()

    def read_prompts(self) -> list[Prompt]:
        """Reads the requests."""
        source, seed = self.requests.source, self.requests.seed
        if _HAVE_TARGETS & set(self.requests.measures):
            examples = read_task_examples(source, seed=seed)
            whole, targets = [one.prompt for one in examples], [one.response for one in examples]
        else:
            whole, targets = read_task_prompts(source, seed=seed), []  # the checks of a prompt file
        if self.requests.prompts == "whole":
            return make_prompts(self.name, whole, targets=targets)
        cut = read_advbench_prompts(source, advbench_prompts="cut", seed=seed)
        return make_prompts(self.name, cut, targets=targets[: len(cut)])
