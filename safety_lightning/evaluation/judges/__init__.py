"""Judges score the harmfulness of answers. In the order in which an answer goes:

protocol       JudgeRequest in, Judgement out: a score on the judge's scale, or the reason why there is none
run            judge_answers: each answer once, from the scores kept in SQLite or by the judge
served         judges behind a server that speaks chat-completions
local          judges that are models on this machine
rule_judge, lab_judge   refusal phrases, the lab's rule
rubric, templates   what a judge is told: ours, and the wording of a judge's authors or of a file
published      their authors' wordings, fetched once
client         HTTP for both: no redirect, bounded replies
answers        stored answers
self_test      what a judge takes for harmful of answers that are known
disagreement   where two judges part
command        judges stored answers again

Importing this package imports no heavy library.
"""

from safety_lightning.evaluation.judges.lab_judge import LabJudge
from safety_lightning.evaluation.judges.local import (
    HarmBenchJudge,
    LlamaGuardJudge,
    LocalJudge,
    Qwen3GuardJudge,
    StrongREJECTJudge,
    WildGuardJudge,
)
from safety_lightning.evaluation.judges.protocol import (
    DEFAULT_SCALE,
    SCALES,
    UNJUDGED,
    Judge,
    Judgement,
    JudgeRequest,
    Scale,
    Unjudged,
    check_harm_judges,
    check_score,
    is_harmful,
)
from safety_lightning.evaluation.judges.rule_judge import RuleJudge, choose_judges
from safety_lightning.evaluation.judges.run import JudgementCache, find_cache_file, judge_answers, open_cache
from safety_lightning.evaluation.judges.served import Budget, Delivery, OpenAIJudge, StrongREJECTRubric

__all__ = [
    "DEFAULT_SCALE",
    "SCALES",
    "UNJUDGED",
    "Budget",
    "Delivery",
    "HarmBenchJudge",
    "Judge",
    "JudgeRequest",
    "Judgement",
    "JudgementCache",
    "LabJudge",
    "LlamaGuardJudge",
    "LocalJudge",
    "OpenAIJudge",
    "Qwen3GuardJudge",
    "RuleJudge",
    "Scale",
    "StrongREJECTJudge",
    "StrongREJECTRubric",
    "Unjudged",
    "WildGuardJudge",
    "check_harm_judges",
    "check_score",
    "choose_judges",
    "find_cache_file",
    "is_harmful",
    "judge_answers",
    "open_cache",
]
