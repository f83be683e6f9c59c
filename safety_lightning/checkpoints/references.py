"""Finds the folder behind a reference to a model: a local folder, a hub name or `lab:NAME`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from safety_lightning.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LAB_PREFIX = "lab:"
LAB_FOLDER = Path(__file__).resolve().parent.parent / "lab" / "assets"
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.bin.index.json"]


def resolve_reference(reference: str | Path) -> Path:
    """Returns the local folder that holds a model.

    Args:
        reference: A local folder, a hub name with an optional revision (``org/name@rev``) or ``lab:NAME``.
            A hub name is downloaded into the Hugging Face cache, without pickles and without code.

    Returns:
        An existing folder.

    Raises:
        UserError: If there is no such folder, no such lab model or no such model on the hub (or no hub).
    """
    text = str(reference)
    if text.startswith(LAB_PREFIX):
        return _resolve_lab(text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return find_model(folder)
    if folder.exists():
        raise UserError(f"a model must be a folder, a hub name or lab:NAME, got the file {text}")
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise UserError(f"model folder {text} does not exist (nor is it a hub name ORG/NAME or lab:NAME)")
    return _download(text)


def find_model(folder: Path) -> Path:
    """Returns a model's folder: the given one, or ``model`` in the run folder of a `fit`.

    Raises:
        UserError: If it is a run folder without a model, or that of a `project`, whose models are named.
    """
    if not (folder / "manifest.json").is_file() or (folder / "config.json").is_file():
        return folder
    found = sorted({file.parent for file in folder.glob("models/**/*config.json")})  # adapters too
    if (folder / "model").is_dir():
        return folder / "model"
    if found:
        listed = " or ".join(str(one) for one in found[:3]) + (", ..." if len(found) > 3 else "")
        raise UserError(f"a model must be a folder of weights, {folder} is a run folder of {len(found)}: name {listed}")
    raise UserError(f"a model must be a folder of weights, {folder} is a run folder that holds no model/")


def split_revision(reference: str) -> tuple[str, str | None]:
    """Splits ``org/name@rev`` into its name and its revision.

    Example:
        >>> split_revision("org/name@main")
        ('org/name', 'main')
        >>> split_revision("org/name")
        ('org/name', None)
    """
    name, _, revision = reference.partition("@")
    return name, revision or None


def load_config(reference: str | Path) -> PreTrainedConfig:
    """Loads the configuration of a model, never running code that came with it."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(resolve_reference(reference), trust_remote_code=False)
    return config


def load_tokenizer(reference: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model; one without a padding token pads with its end token.

    Masks are made from lengths throughout, so that padding with the end token masks no end token out.

    Raises:
        UserError: If the tokenizer has neither a padding nor an end token.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        resolve_reference(reference), trust_remote_code=False
    )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {reference} must have a padding or an end token, it has neither")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(reference: str | Path, *, dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """Loads a causal language model from safetensors, in evaluation mode.

    Args:
        reference: See `resolve_reference`.
        dtype: The dtype of the weights in memory, whatever the files hold.
        attention: The attention implementation of transformers: ``sdpa``, ``eager``, ``flash_attention_2``.

    Raises:
        UserError: If the folder holds no readable safetensors weights.
    """
    from transformers import AutoModelForCausalLM

    from safety_lightning.checkpoints.reader import CheckpointReader

    folder = resolve_reference(reference)
    CheckpointReader(folder)  # refuses pickles, absent shards and truncated files with an error that says so
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False
    )
    return model


def _resolve_lab(reference: str) -> Path:
    name = reference.removeprefix(LAB_PREFIX)
    known = sorted(path.name for path in LAB_FOLDER.iterdir() if path.is_dir()) if LAB_FOLDER.is_dir() else []
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean lab:{close[0]}?" if close else ""
        raise UserError(f"lab model must be one of {', '.join('lab:' + k for k in known)}, got {reference}{hint}")
    return LAB_FOLDER / name


def _download(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = split_revision(reference)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"model {reference} is no local folder, and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error
