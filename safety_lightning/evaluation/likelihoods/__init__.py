"""Numbers that are read off a model's probabilities, without an answer being generated: smooth where answers jump.

reading    what is known of a prompt when a number is read: log-probabilities of texts behind it, its first token
learning   how probable solutions are: solution_probability, solution_token_probability
harm       how probable compliance and refusals are; expected_harmfulness; refusal_log_odds; compliance_margin
drift      how far next-token distributions are from those of a reference model
refusals   versioned lists of how refusals begin
encoding   texts behind a prompt as tokens
probing    asks an engine for the probabilities at many prompts, and reads the numbers
"""

from safety_lightning.evaluation.likelihoods.drift import DRIFT
from safety_lightning.evaluation.likelihoods.encoding import encode_continuations, encode_openings
from safety_lightning.evaluation.likelihoods.harm import (
    TARGET_TOKEN_PROBABILITY,
    compliance_margin,
    expected_harmfulness,
    refusal_log_odds,
    refusal_token_probabilities,
)
from safety_lightning.evaluation.likelihoods.learning import SOLUTION_PROBABILITY, SOLUTION_TOKEN_PROBABILITY
from safety_lightning.evaluation.likelihoods.reading import Likelihood, Reading
from safety_lightning.evaluation.likelihoods.refusals import DEFAULT_REFUSALS, read_refusals

__all__ = [
    "DEFAULT_REFUSALS",
    "DRIFT",
    "SOLUTION_PROBABILITY",
    "SOLUTION_TOKEN_PROBABILITY",
    "TARGET_TOKEN_PROBABILITY",
    "Likelihood",
    "Reading",
    "compliance_margin",
    "encode_continuations",
    "encode_openings",
    "expected_harmfulness",
    "read_refusals",
    "refusal_log_odds",
    "refusal_token_probabilities",
]
