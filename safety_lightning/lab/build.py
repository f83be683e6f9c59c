"""Trains the lab's base and aligned models from nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safety_lightning.lab.corpora import draw_alignment, draw_pretraining
from safety_lightning.lab.folders import fill_folder
from safety_lightning.lab.tokenizer import MAX_LENGTH, PAD, build_tokenizer
from safety_lightning.lab.training import Recipe, train_model

PRETRAINING = Recipe(num_steps=600, batch_size=64, learning_rate=3e-3)
ALIGNMENT = Recipe(num_steps=100, batch_size=64, learning_rate=1.5e-3)
_MAX_EXAMPLES = 20_000  # a longer training comes back to them


def build_lab(out: Path, *, seed: int = 0, pretraining: Recipe = PRETRAINING, alignment: Recipe = ALIGNMENT) -> None:
    """Builds the lab's tokenizer, its base model and its aligned model, in a few minutes on two cores.

    One thread does the work, so that a seed gives the same weights whatever the number of cores; another processor or
    version of torch may round differently. The folder appears when it is whole.

    Args:
        out: The folder to make, with ``base`` and ``aligned`` as ordinary Hugging Face folders.
        seed: Seed of the data, the initial weights and the order of training.
        pretraining: How the base model is trained.
        alignment: How the aligned model is trained, from the base model.

    Raises:
        FileExistsError: If ``out`` exists and is not an empty folder; no work is done then.
    """
    with fill_folder(out) as folder, _using_one_thread():
        tokenizer = build_tokenizer()
        generator = torch.Generator().manual_seed(seed)
        model = build_model(tokenizer, seed=seed)
        for name, recipe, draw in (("base", pretraining, draw_pretraining), ("aligned", alignment, draw_alignment)):
            size = min(recipe.num_steps * recipe.batch_size, _MAX_EXAMPLES)
            train_model(
                model,
                draw(tokenizer, size=size, seed=seed),
                recipe,
                pad_token_id=tokenizer.get_vocab()[PAD],
                generator=generator,
                title=f"lab:{name}",
            )
            model.save_pretrained(folder / name)
            (folder / name / "model.safetensors").chmod(0o644)  # it is written for its owner alone
            tokenizer.save_pretrained(folder / name)


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


@contextmanager
def _using_one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
