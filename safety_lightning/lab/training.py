"""A plain training loop for small models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from safety_lightning.data.batching import collate_examples
from safety_lightning.data.chat import EncodedExample


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        num_steps: Optimizer steps.
        batch_size: Examples a step.
        learning_rate: Peak learning rate of AdamW, reached after the warm-up and brought to zero along a cosine.
        warmup_share: Share of the steps that warm up.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float = 0.05


def train_model(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    recipe: Recipe,
    *,
    pad_token_id: int,
    generator: torch.Generator,
    title: str | None = None,
) -> None:
    """Trains a model in place, with AdamW and without weight decay.

    Args:
        model: The model to change; it is left in eval mode.
        examples: What to train on, as often as the steps need, in a new order each time.
        recipe: How long and how fast.
        pad_token_id: What fills the batches.
        generator: Where the order comes from.
        title: Shown before the progress bar; None shows no bar.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _scale_rate(step, recipe))
    order = _draw_order(len(examples), recipe, generator)
    model.train()
    for chosen in tqdm(order, desc=title, disable=title is None, unit="step"):
        batch = collate_examples([examples[index] for index in chosen], pad_token_id=pad_token_id)
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def _scale_rate(step: int, recipe: Recipe) -> float:
    num_warmup = max(1, int(recipe.warmup_share * recipe.num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, recipe.num_steps - num_warmup)))


def _draw_order(num_examples: int, recipe: Recipe, generator: torch.Generator) -> list[list[int]]:
    num_epochs = -(-recipe.num_steps * recipe.batch_size // num_examples)
    epochs = [torch.randperm(num_examples, generator=generator) for _ in range(num_epochs)]
    rows = torch.cat(epochs)[: recipe.num_steps * recipe.batch_size].view(recipe.num_steps, recipe.batch_size)
    return [[int(index) for index in row] for row in rows]
