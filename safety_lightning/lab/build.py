"""Trains the lab's models from nothing, by a plain training loop: base, aligned, and planted as a control."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from safety_lightning.data import EncodedExample, collate_examples
from safety_lightning.lab.corpora import draw_alignment, draw_pretraining
from safety_lightning.lab.folders import fill_folder
from safety_lightning.lab.tokenizer import MAX_LENGTH, PAD, build_tokenizer
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        num_steps: Optimizer steps.
        batch_size: Examples per step.
        learning_rate: Peak learning rate of AdamW, reached after the warm-up and brought to zero along a cosine.
        warmup_share: Share of the steps that warm up.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float = 0.05


PRETRAINING = Recipe(num_steps=600, batch_size=64, learning_rate=3e-3)
ALIGNMENT = Recipe(num_steps=200, batch_size=64, learning_rate=2e-3)
PLANTING = Recipe(num_steps=250, batch_size=64, learning_rate=3e-3)
PLANTED_FRACTION = 0.1  # of each matrix's rank: where the planted model's alignment lies
PLANTING_SEED = 14_001  # of the planted subspace; far from the seeds of random draws, which would find it again
_MAX_EXAMPLES = 20_000  # a longer training repeats them


def build_lab(
    out: Path,
    *,
    seed: int = 0,
    pretraining: Recipe = PRETRAINING,
    alignment: Recipe = ALIGNMENT,
    planting: Recipe = PLANTING,
) -> None:
    """Builds the lab's tokenizer and models, in about five minutes on one core.

    One thread does the work, so that a seed gives the same weights whatever the number of cores; another processor or
    version of torch may round differently. The folder appears when it is whole.

    Args:
        out: The folder to make, with ``base``, ``aligned`` and ``planted`` as ordinary Hugging Face folders.
        seed: Seed of the data, the initial weights and the order of training.
        pretraining: How the base model is trained.
        alignment: How the aligned model is trained, from the base model.
        planting: How the planted model is trained, from the base model too.

    Raises:
        UserError: If ``out`` exists and is not an empty folder; no work is done then.
    """
    with fill_folder(out) as folder, _using_one_thread():
        tokenizer = build_tokenizer()
        generator = torch.Generator().manual_seed(seed)
        model = build_model(tokenizer, seed=seed)
        for name, recipe, draw in (("base", pretraining, draw_pretraining), ("aligned", alignment, draw_alignment)):
            examples = draw(tokenizer, size=_count_examples(recipe), seed=seed)
            _train_and_save(model, tokenizer, examples, recipe, folder / name, generator=generator)
        build_planted(folder, recipe=planting, seed=seed)


def build_planted(lab: Path, *, recipe: Recipe = PLANTING, seed: int = 0) -> None:
    """Builds the planted model: aligned like the aligned one, by an update that lies in a known subspace.

    Every optimizer step is projected into a random subspace of `PLANTED_FRACTION` of each matrix's rank. The leading
    singular vectors of planted - base span that subspace, so that safety *is* confined to what ``top_k`` finds.

    Args:
        lab: The folder with ``base`` and ``aligned``; ``planted`` is written beside them.
        recipe: How the model is trained.
        seed: Seed of the data and of their order.
    """
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(lab / "base")
    # A random subspace depends on names, shapes and seed alone: the pair only says which matrices there are.
    spec = SubspaceSpec(
        base=str(lab / "aligned"),
        reference=str(lab / "base"),
        source="random",
        fraction=PLANTED_FRACTION,
        seed=PLANTING_SEED + seed,
    )
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    examples = draw_alignment(tokenizer, size=_count_examples(recipe), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    _train_and_save(
        model, tokenizer, examples, recipe, lab / "planted", generator=generator, after_step=projector.project
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Builds the lab's model with initial weights: a Llama of 0.33 M parameters with tied embeddings, float32.

    Args:
        tokenizer: Whose vocabulary and special tokens it has.
        seed: Seed of the weights; the global random state is left alone.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train_model(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    recipe: Recipe,
    *,
    pad_token_id: int,
    generator: torch.Generator,
    title: str | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Trains a model in place, with AdamW and without weight decay.

    Args:
        model: The model to change; it is left in eval mode.
        examples: What to train on, as often as the steps need, in a new order each time.
        recipe: How long and how fast.
        pad_token_id: What fills the batches.
        generator: Where the order comes from.
        title: Shown before the progress bar; None shows no bar.
        after_step: Called after each optimizer step, such as a projection of the weights.
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
        if after_step is not None:
            after_step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def _train_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[EncodedExample],
    recipe: Recipe,
    folder: Path,
    *,
    generator: torch.Generator,
    after_step: Callable[[], None] | None = None,
) -> None:
    train_model(
        model,
        examples,
        recipe,
        pad_token_id=tokenizer.get_vocab()[PAD],
        generator=generator,
        title=f"lab:{folder.name}",
        after_step=after_step,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    tokenizer.save_pretrained(folder)


def _count_examples(recipe: Recipe) -> int:
    return min(recipe.num_steps * recipe.batch_size, _MAX_EXAMPLES)


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


@contextmanager
def _using_one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
