"""How probable the solutions of problems are: what accuracy would be if answers were sampled and compared as text."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from safety_lightning.evaluation.likelihoods.reading import Likelihood, Reading
from safety_lightning.evaluation.measurement import MetricSpec

if TYPE_CHECKING:
    from safety_lightning.evaluation.tasks import Prompt


def _list_solution(prompt: Prompt) -> list[str]:
    return [prompt.solution]


def _read_probability(reading: Reading) -> float:
    return exp(reading.log_likelihood(reading.prompt.solution))


def _read_token_probability(reading: Reading) -> float:
    return exp(reading.mean_log_likelihood(reading.prompt.solution))


#: Mean over problems of the probability of the solution, exp(log-likelihood).
SOLUTION_PROBABILITY = MetricSpec(
    name="solution_probability",
    kind="mean",
    span=(0.0, 1.0),
    likelihood=Likelihood(list_texts=_list_solution, read=_read_probability),
)

#: The same per token, exp(mean log-likelihood of a token), for solutions so long that their probability is nothing.
SOLUTION_TOKEN_PROBABILITY = MetricSpec(
    name="solution_token_probability",
    kind="mean",
    span=(0.0, 1.0),
    likelihood=Likelihood(list_texts=_list_solution, read=_read_token_probability),
)
