"""Tiny tokenizers: one letter a token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from safety_lightning.data.sources import Example

LETTERS = [chr(number) for number in range(32, 127)] + ["\n", "é"]
SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<|user|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)


def make_tokenizer(
    *,
    pad: str = "<pad>",
    eos: str = "<|end|>",
    chat_template: str | None = CHAT_TEMPLATE,
    merges: bool = False,
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of single letters; with ``merges``, two line breaks become one token."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS])}
    if merges:
        vocabulary["\n\n"] = len(vocabulary)
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\n", "\n")], unk_token="<unk>"))
    else:
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    backend.decoder = decoders.Fuse()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=["<|user|>", "<|end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """With a chat template and a padding token of its own."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(pad="<|end|>").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def examples() -> list[Example]:
    """Twelve examples, each longer than the one before."""
    return [Example(prompt=f"Q{number}?", response="x" * (number + 1), kind="useful") for number in range(12)]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(rows: list[dict[str, Any]], name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def make_rows(count: int, prefix: str = "p") -> list[dict[str, Any]]:
    return [{"prompt": f"{prefix}{number}", "response": "r" * (1 + number % 7)} for number in range(count)]
