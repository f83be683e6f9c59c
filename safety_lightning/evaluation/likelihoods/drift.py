"""How far a model has drifted from its reference on ordinary prompts: one that is merely broken is seen as such."""

from __future__ import annotations

from safety_lightning.evaluation.likelihoods.reading import Likelihood, Reading
from safety_lightning.evaluation.measurement import MetricSpec


def _read_divergence(reading: Reading) -> float:
    r"""Returns :math:`\sum_t r_t (\log r_t - \log p_t)`, r being the reference's distribution, in nats."""
    own_V, reference_V = reading.first_log_probs, reading.reference_log_probs
    assert own_V is not None
    assert reference_V is not None
    terms_V = reference_V.exp() * (reference_V - own_V)
    terms_V = terms_V.masked_fill(reference_V.isneginf(), 0.0)  # what the reference never says counts for nothing
    return float(terms_V.sum().clamp(min=0))  # clamp leaves NaN as it is: a model that diverged has no drift


#: Mean over prompts of KL(reference || model) in nats, between the two distributions of the answer's first token: the
#: one right behind the prompt, which in a chat ends with the template's call for an answer.
DRIFT = MetricSpec(
    name="drift",
    kind="mean",
    span=(0.0, float("inf")),
    likelihood=Likelihood(read=_read_divergence, needs_first=True, needs_reference=True),
)
