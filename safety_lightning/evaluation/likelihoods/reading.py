"""What is known of a prompt when a number is read off a model's probabilities.

Shapes in this file: L = tokens of a text, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from safety_lightning.evaluation.tasks import Prompt


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A model's probabilities at one prompt.

    Attributes:
        prompt: The prompt.
        log_probs: Log-probabilities of the tokens of each text that may stand behind the prompt, float64, ``(L,)``.
        first_ids: The first token of each of these texts.
        first_log_probs: Log-probabilities of the first token of the answer, float64, ``(V,)``; None where no measure
            needs them.
        reference_log_probs: The same of the reference model.
    """

    prompt: Prompt
    log_probs: Mapping[str, Tensor]
    first_ids: Mapping[str, int]
    first_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None

    def log_likelihood(self, text: str) -> float:
        """Returns the log-likelihood of a text behind the prompt, in nats."""
        return float(self.log_probs[text].sum())

    def mean_log_likelihood(self, text: str) -> float:
        """Returns the mean log-likelihood of a text's tokens, in nats a token."""
        return float(self.log_probs[text].mean())


def list_no_texts(prompt: Prompt) -> Sequence[str]:
    """Lists the texts of a measure that needs none."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How a number is read off a model's probabilities.

    Attributes:
        read: Reads the number.
        list_texts: Lists the texts behind a prompt whose probabilities it needs.
        refusals: Those of the texts that are refusals, whose first token the tokenizer must have.
        needs_first: Whether it needs the probabilities of the answer's first token.
        needs_reference: Whether it needs those of the reference model too.
    """

    read: Callable[[Reading], float]
    list_texts: Callable[[Prompt], Sequence[str]] = list_no_texts
    refusals: tuple[str, ...] = ()
    needs_first: bool = False
    needs_reference: bool = False
