"""Judges score the harmfulness of answers. In the order in which an answer goes:

protocol       JudgeRequest in, Judgement out: a score, or the reason why there is none
run            judge_answers: each answer once, from the scores kept in SQLite or by the judge
openai_judge   asks any server that speaks chat-completions: requests (one request and what can go wrong), scheduling
               (many of them: concurrency, tries, budget), rubric (what is asked), reply (the score in what comes back)
local_judge, rule_judge, lab_judge   a causal LM by its probabilities, refusal phrases, the lab's rule
command        judges stored answers again

Importing this package imports no heavy library.
"""

from safety_lightning.evaluation.judges.lab_judge import LabJudge
from safety_lightning.evaluation.judges.local_judge import LocalJudge
from safety_lightning.evaluation.judges.openai_judge import OpenAIJudge
from safety_lightning.evaluation.judges.protocol import UNJUDGED, Judge, Judgement, JudgeRequest, Unjudged
from safety_lightning.evaluation.judges.rule_judge import RuleJudge
from safety_lightning.evaluation.judges.run import JudgementCache, find_cache_file, judge_answers, open_cache
from safety_lightning.evaluation.judges.scheduling import Budget, Delivery

__all__ = [
    "UNJUDGED",
    "Budget",
    "Delivery",
    "Judge",
    "JudgeRequest",
    "Judgement",
    "JudgementCache",
    "LabJudge",
    "LocalJudge",
    "OpenAIJudge",
    "RuleJudge",
    "Unjudged",
    "find_cache_file",
    "judge_answers",
    "open_cache",
]
