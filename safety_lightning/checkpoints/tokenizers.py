"""Loads tokenizers: as their files say, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safety_lightning.checkpoints.folders import blame, find_file, read_json, read_json_of
from safety_lightning.checkpoints.references import locate_model
from safety_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_OTHERS = ("tokenizer.model", "spiece.model", "vocab.txt", "merges.txt", "chat_template.jinja")
_MAX_TEMPLATE_BYTES = 2**20
_PROBE = "How many apples are left? 17"


def load_tokenizer(reference: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model; one without a padding token pads with its end token.

    Masks are made from lengths throughout, so that padding with the end token masks no end token out.

    Raises:
        UserError: If a file of it is absent, lies outside the folder or cannot be read, two tokens have one id, ids
            are outside the model's vocabulary, it makes no tokens of a text, or it has neither a padding nor an end
            token.
    """
    from transformers import AutoTokenizer

    folder = locate_model(reference)
    _check_files(folder)
    with blame(f"the tokenizer of {folder} must be one that transformers reads"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        _check_ids(folder, tokenizer)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {reference} must have a padding or an end token, it has neither")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_files(folder: Path) -> None:
    files = {name: find_file(folder, name) for name in (*_JSON, *_OTHERS)}
    if not any(
        files[name] for name in ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    ):
        raise UserError(f"{folder} must hold a tokenizer (tokenizer.json or tokenizer.model), it holds none")
    for name in _JSON:
        file = files[name]
        if file is not None:
            read_json(file)
    template = files["chat_template.jinja"]
    if template is not None and template.stat().st_size > _MAX_TEMPLATE_BYTES:
        raise UserError(f"{template} must have at most {_MAX_TEMPLATE_BYTES} bytes, it has {template.stat().st_size}")


def _check_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that ids are the model's: the model would stop at others, or take them for what they are not."""
    ids = sorted(tokenizer.get_vocab().values())
    if not ids or ids[0] < 0 or len(set(ids)) != len(ids):
        raise UserError(f"the tokenizer of {folder} must have an id of its own for each token, it does not")
    vocabulary = _find_vocabulary(folder)
    probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if not probe or (len(set(probe)) == 1 and len(ids) > 2):
        raise UserError(
            f"the tokenizer of {folder} must make tokens of a text, it makes {len(set(probe))} of {_PROBE!r}"
        )
    if vocabulary is None:
        return
    special = {name: getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    added = set(tokenizer.added_tokens_decoder)
    largest = max((one for one in ids if one not in added), default=0)
    for name, one in {**special, "largest token": largest}.items():
        if one is not None and one >= vocabulary:
            raise UserError(
                f"the tokenizer of {folder} must have ids below the model's {vocabulary}, its {name} has {one}"
            )


def _find_vocabulary(folder: Path) -> int | None:
    """Returns the number of rows of the model's embedding, as its config says; None where it says none."""
    config = read_json_of(folder, "config.json")
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("vocab_size")
    return found if isinstance(found, int) and not isinstance(found, bool) else None
