"""The loss over response tokens, and what is kept of it from step to step without waiting for the device.

Shapes in this file: B = batch, T = tokens, S = scored positions, V = vocabulary.
"""

from __future__ import annotations

import inspect
import time

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from safety_lightning.data import IGNORED_LABEL, find_positions
from safety_lightning.data.batching import flatten_examples
from safety_lightning.data.chat import EncodedExample
from safety_lightning.errors import UserError

_ENDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")  # as `flatten_examples` tells them
ADVICE = "a lower learning rate, gradient_clip_val or a wider precision may help"


def sum_token_losses(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sums the negative log-likelihood over the response tokens of a batch.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (−100 where nothing is scored), int64, ``(B, T)``; or
            what `flatten_examples` returns.

    Returns:
        The sum in nats, a float32 scalar, and the number of scored tokens, an int64 scalar.
    """
    losses_BS, scored_BS = compute_token_losses(model, batch)
    return losses_BS.sum(), scored_BS.sum()


def compute_token_losses(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Computes the negative log-likelihood of each response token.

    Logits are made only for positions at which some example of the batch is scored: prompts cost no output layer.

    Args:
        model: A causal language model.
        batch: As for `sum_token_losses`; ``positions``, where given, are what `find_positions` returns.

    Returns:
        Losses in nats, float32, ``(B, S)``, zero where nothing is scored, and the mask of scored entries, ``(B, S)``.
    """
    targets_BT = batch["labels"][:, 1:]
    positions_S = batch["positions"] if "positions" in batch else find_positions(batch["labels"])
    targets_BS = targets_BT[:, positions_S]
    inputs = {name: batch[name] for name in _list_inputs(model, batch)} | {"use_cache": False}
    if _keeps_logits(model):
        logits_BSV = model(**inputs, logits_to_keep=positions_S).logits
    else:
        logits_BSV = model(**inputs).logits[:, positions_S]
    losses = nn.functional.cross_entropy(
        logits_BSV.float().flatten(0, 1), targets_BS.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.view_as(targets_BS), targets_BS != IGNORED_LABEL


def _list_inputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> list[str]:
    """Lists what of a batch a model takes; of examples that lie end to end, their ends for flash attention alone."""
    if "position_ids" not in batch:
        return ["input_ids", "attention_mask"]
    takes_ends = str(model.config._attn_implementation).startswith("flash")
    return ["input_ids", "position_ids", *(_ENDS if takes_ends else ())]


@torch.no_grad()
def check_apart(model: PreTrainedModel) -> None:
    """Checks on two short sequences that a model keeps apart what lies in one row, as if each were alone.

    Raises:
        UserError: If the model takes no positions, or one sequence sees the other.
    """
    is_training, attention = model.training, model.config._attn_implementation
    told = (
        "data.padding_free must have a model that keeps the examples of a row apart by their positions, "
        f"{model.config.model_type} with attention {attention} does not"
    )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UserError(told)
    rows = [[5, 6, 7, 8, 9], [9, 7, 5, 8]]
    device, vocabulary = model.device, model.config.get_text_config().vocab_size
    examples = [EncodedExample(input_ids=[one % vocabulary for one in row], num_prompt_tokens=1) for row in rows]
    model.eval()
    found = []
    for group in (examples, examples[:1], examples[1:]):
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in flatten_examples(group).items()}
        found.append(model(**{name: batch[name] for name in _list_inputs(model, batch)}, use_cache=False).logits)
    model.train(is_training)
    together, alone = found[0].double(), torch.cat(found[1:], dim=1).double()
    bound = 1e-3 if found[0].element_size() >= 4 else 5e-2  # of what 16 bits round off
    if float((together - alone).norm() / alone.norm()) > bound:
        raise UserError(told)


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def scale_gradient(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies a gradient by a number on its device, in place, computing in float32 where it is narrower.

    Args:
        gradient: The gradient; of one that is sharded, this process's part is multiplied.
        factor: A float32 scalar.
    """
    own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    row = own.unsqueeze(0)
    torch.mul(row, factor.view(1), out=row)  # by a scalar tensor, it would be computed in the gradient's own dtype


class Window:
    """What the micro-batches of one optimizer step add up to.

    Attributes:
        loss_sum: Summed losses in nats, a float32 scalar.
        num_tokens: Scored tokens, a float32 scalar.
        num_micro_batches: How many there were.
    """

    def __init__(self) -> None:
        self.loss_sum = torch.zeros(())
        self.num_tokens = torch.zeros(())
        self.num_micro_batches = 0

    def add(self, loss_sum: Tensor, num_tokens: Tensor) -> None:
        """Adds a micro-batch."""
        self.loss_sum = self.loss_sum.to(loss_sum.device) + loss_sum
        self.num_tokens = self.num_tokens.to(num_tokens.device) + num_tokens
        self.num_micro_batches += 1


class Pace:
    """Counts what a process trains on from now on."""

    def __init__(self) -> None:
        self._num_tokens = torch.zeros((), dtype=torch.int64)
        self._num_samples = 0
        self._started_seconds = time.perf_counter()

    def add(self, batch: dict[str, Tensor]) -> None:
        """Adds a micro-batch."""
        if "position_ids" in batch:
            self._num_tokens = self._num_tokens + batch["input_ids"].numel()
            self._num_samples += len(batch["cu_seq_lens_q"]) - 1
            return
        seen = batch["attention_mask"].sum()  # on its device: a number on the host would have to be waited for
        self._num_tokens = self._num_tokens.to(seen.device) + seen
        self._num_samples += len(batch["input_ids"])

    def measure(self) -> dict[str, float]:
        """Returns tokens and examples a second; waits for the device, whose work is behind the host's."""
        num_tokens = int(self._num_tokens)
        seconds = max(time.perf_counter() - self._started_seconds, 1e-9)
        return {"tokens_per_second": num_tokens / seconds, "samples_per_second": self._num_samples / seconds}


class FiniteLosses:
    """Watches on the device whether losses are finite; to ask for it waits, to watch does not."""

    def __init__(self) -> None:
        self._first = torch.zeros(())  # the first step whose loss was not finite; 0 for none

    def see(self, loss: Tensor, step: int) -> None:
        """Takes the loss of an optimizer step."""
        first = self._first.to(loss.device)
        self._first = first.where(loss.isfinite() | (first > 0), step)

    def check(self, step: int) -> None:
        """Raises UserError if a loss was not finite; the step is the next one that will be taken."""
        first = int(self._first)
        if first > 0:
            taken = ", which was not taken" if first == step else ""
            raise UserError(f"the loss must be finite, got NaN or infinity in optimizer step {first}{taken}: {ADVICE}")
