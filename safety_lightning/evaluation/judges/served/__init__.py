"""Judges behind a server that speaks chat-completions, from one request to many:

requests       one request, its reply, and what can go wrong
scheduling     many requests: concurrency, tries, budget
reply          the score in what comes back
openai_judge   any chat model by a rubric; strongreject_rubric by StrongREJECT's
"""

from safety_lightning.evaluation.judges.served.openai_judge import OpenAIJudge
from safety_lightning.evaluation.judges.served.scheduling import Budget, Delivery
from safety_lightning.evaluation.judges.served.strongreject_rubric import StrongREJECTRubric

__all__ = ["Budget", "Delivery", "OpenAIJudge", "StrongREJECTRubric"]
