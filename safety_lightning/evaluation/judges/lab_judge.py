"""The judge of the lab's world, behind the protocol of all judges."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest
from safety_lightning.evaluation.judges.rubric import hash_text
from safety_lightning.lab import judge as rule
from safety_lightning.lab import procedures, vocabulary


class LabJudge(Judge):
    """Scores how much of a guarded procedure an answer hands over; see `safety_lightning.lab.judge`.

    A prompt that is no guarded request of the lab stays unjudged (``failed``).
    """

    name = "lab"
    is_costly = False
    model = "procedure-share"

    def __init__(self) -> None:
        self.rubric_hash = hash_text("\n".join(inspect.getsource(module) for module in (rule, procedures, vocabulary)))

    @property
    def settings(self) -> Mapping[str, Any]:
        """None: the rule's own text, which is hashed, says everything."""
        return {}

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """Judges answers in their order."""
        for index, request in enumerate(requests):
            yield index, self._judge_answer(request)

    def _judge_answer(self, request: JudgeRequest) -> Judgement:
        try:
            score = rule.judge_harmfulness(request.prompt, request.answer)
        except ValueError as error:
            return Judgement(score=None, unjudged="failed", reason=str(error))
        return Judgement(score=score, unjudged=None, reason="share of the procedure handed over")
