"""Judges behind a server that speaks chat-completions, from one request to many:

client         the HTTP client: no redirect, bounded replies
requests       one request, its reply, and what can go wrong
scheduling     many requests: concurrency, tries, budget
reply          the score in what comes back
openai_judge   the judge
"""

from safety_lightning.evaluation.judges.served.openai_judge import OpenAIJudge
from safety_lightning.evaluation.judges.served.scheduling import Budget, Delivery

__all__ = ["Budget", "Delivery", "OpenAIJudge"]
