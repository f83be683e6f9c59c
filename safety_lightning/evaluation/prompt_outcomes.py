"""The torchmetrics metric behind every number: the outcome of each prompt, added up over processes.

Shapes in this file: P = prompts of a task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from safety_lightning.evaluation.judges import UNJUDGED
from safety_lightning.evaluation.measurement import Outcome

_HAS_VALUE = 1  # code of an outcome with a value; the reasons of the others come after it


class PromptOutcomes(Metric):
    """Holds one outcome per prompt at the prompt's own place, so that sums over processes lose and double none.

    Means, intervals and counts are made of the whole afterwards, the same ones whatever the number of processes.

    Args:
        num_prompts: P, the prompts of the task over all processes.
    """

    full_state_update = False
    values_P: Tensor
    weights_P: Tensor
    codes_P: Tensor
    counts_P: Tensor

    def __init__(self, num_prompts: int) -> None:
        super().__init__()
        for name, dtype in (
            ("values_P", torch.float64),
            ("weights_P", torch.float64),
            ("codes_P", torch.int64),
            ("counts_P", torch.int64),
        ):
            self.add_state(name, torch.zeros(num_prompts, dtype=dtype), dist_reduce_fx="sum")

    def update(self, places: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Adds the outcomes of some prompts.

        Args:
            places: Each prompt's place in the task, in [0, P).
            outcomes: What came of them.
        """
        for place, outcome in zip(places, outcomes, strict=True):
            self.values_P[place] += 0.0 if outcome.value is None else outcome.value
            self.weights_P[place] += outcome.weight
            self.codes_P[place] += _HAS_VALUE if outcome.unjudged is None else 2 + UNJUDGED.index(outcome.unjudged)
            self.counts_P[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """Returns values, weights and codes, each ``(P,)``, of all processes.

        Raises:
            RuntimeError: If a prompt was counted twice, or not at all.
        """
        if bool((self.counts_P != 1).any()):
            wrong = int((self.counts_P != 1).sum())
            raise RuntimeError(f"each prompt must be counted once, {wrong} of {len(self.counts_P)} are not")
        return {"values": self.values_P, "weights": self.weights_P, "codes": self.codes_P}

    def collect(self) -> list[Outcome]:
        """Returns the outcomes of all processes in the prompts' order, without the judges' words."""
        found = {name: tensor.reshape(-1).tolist() for name, tensor in self.compute().items()}  # one value comes bare
        return [
            Outcome(value=value, weight=weight)
            if code == _HAS_VALUE
            else Outcome(value=None, weight=weight, unjudged=UNJUDGED[code - 2])
            for value, weight, code in zip(found["values"], found["weights"], found["codes"], strict=True)
        ]
