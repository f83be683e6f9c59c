"""Loads configurations and models: whole, as their files say, or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_lightning.checkpoints.folders import blame, find_file, read_json, read_json_of, show
from safety_lightning.checkpoints.matrices import find_layer
from safety_lightning.checkpoints.reader import CheckpointReader, TensorInfo
from safety_lightning.checkpoints.references import locate_model
from safety_lightning.errors import NonFiniteError, UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_CONFIG = "config.json"
_GENERATION_CONFIG = "generation_config.json"
_UNWRAP = {r"_orig_mod\.": "", r"^module\.": ""}
_HARMLESS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")  # masks and angles that were once stored
_COUNTS = (
    *("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions"),
)
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rope_theta", "initializer_range")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_config(reference: str | Path) -> PreTrainedConfig:
    """Loads the configuration of a model, never running code that came with it.

    Raises:
        UserError: If it is absent, is no configuration of a model that transformers knows, holds numbers that no
            model has, names other files, or was made for another kind of model than it says.
    """
    from transformers import AutoConfig

    folder = locate_model(reference)
    file = find_file(folder, _CONFIG)
    if file is None:
        raise UserError(f"{folder} must hold {_CONFIG}, it does not: is it a model's folder?")
    content = read_json(file)
    _check_content(file, content)
    with blame(f"{file} must be the configuration of a model that transformers knows"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_numbers(file, config.get_text_config().to_dict())
    _check_architecture(file, config)
    return config


def check_model(reference: str | Path) -> CheckpointReader:
    """Checks by its headers that a folder holds the whole model that its configuration describes.

    The model is made without memory for its weights, and transformers compares it with the names and shapes in the
    files as it does when it loads them.

    Returns:
        The folder's tensors.

    Raises:
        UserError: As `load_config` and `CheckpointReader`, or if tensors are missing, left over or of other shapes.
    """
    return _check_weights(locate_model(reference))[0]


def load_model(
    reference: str | Path | CheckpointReader,
    *,
    dtype: torch.dtype,
    attention: str = "sdpa",
    num_shards: int = 1,
    zero3: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Loads a causal language model from safetensors, in evaluation mode.

    Args:
        reference: See `locate_model`; or what `check_model` returned, whose files must be as they were then.
        dtype: The dtype of the weights in memory, whatever the files hold.
        attention: The attention implementation of transformers: ``sdpa``, ``eager``, ``flash_attention_2``.
        num_shards: How many processes share the weights out by FSDP2, all that there are; each reads its own rows.
        zero3: DeepSpeed's configuration, where it is to share the weights out by ZeRO-3.

    Raises:
        UserError: As `check_model`, if a weight is NaN or infinite, a file changed while it was read, or the
            attention is none that the model has.
    """
    from transformers import AutoModelForCausalLM

    folder = reference.folder if isinstance(reference, CheckpointReader) else locate_model(reference)
    reader, config = _check_weights(folder)
    keeper = _announce_zero3(zero3)
    with blame(f"model {folder} must be one that transformers loads with attention {attention}"), _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            key_mapping=_UNWRAP if reader.is_wrapped else None,
            output_loading_info=True,
            **_share_out(num_shards),
        )
    model: PreTrainedModel = loaded[0]
    if reader.is_wrapped:  # or it would be saved under the wrapper's names again
        made: Any = model
        others = [one for one in made._weight_conversions or [] if not _UNWRAP.keys() & set(one.source_patterns)]
        made._weight_conversions = others or None
    model._zero3 = keeper  # transformers forgets of ZeRO-3 when nobody holds it
    _check_found(folder, loaded[1])
    (reference if isinstance(reference, CheckpointReader) else reader).check_unchanged()
    _check_finite(folder, model)
    if num_shards > 1:  # or embedding and norm stay whole after validation, and miss what is written to their shards
        model.set_reshard_after_forward(True)  # type: ignore[operator]
    return model


def _announce_zero3(config: Mapping[str, Any] | None) -> Any:
    if config is None:  # the import alone would load DeepSpeed
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(dict(config))


def _share_out(num_shards: int) -> dict[str, Any]:
    from transformers.distributed import DistributedConfig

    return {} if num_shards == 1 else {"distributed_config": DistributedConfig(fsdp_size=num_shards)}


def _check_weights(folder: Path) -> tuple[CheckpointReader, PreTrainedConfig]:
    if find_file(folder, "adapter_config.json") is not None:
        raise UserError(f"{folder} must be a whole model, it is an adapter: merge it with its model first")
    reader = CheckpointReader(folder)
    config = load_config(folder)
    _check_layers(folder, config, reader.infos)
    vocabulary = config.get_text_config().vocab_size
    _check_generation(folder, vocabulary)
    _check_tokens(folder / _CONFIG, config.get_text_config().to_dict(), vocabulary)
    with blame(f"{folder / _CONFIG} must describe a causal language model"), _quiet():
        found = _compare_headers(config, reader.infos)
    _check_found(folder, found)
    return reader, config


def _compare_headers(config: PreTrainedConfig, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Has transformers load tensors that have shapes and no numbers; returns what it says of them."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as progress

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        tensors = {info.name: torch.empty(info.shape, dtype=info.dtype or torch.int64) for info in infos.values()}
    has_bar = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        _, found = type(model).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        if has_bar:
            progress.enable_progress_bar()
    return dict(found)


def _check_found(folder: Path, found: Mapping[str, Any]) -> None:
    """Refuses a model of which transformers says that weights are missing, left over or of other shapes."""
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not _HARMLESS.search(name))
    mismatched = sorted(f"{name} {tuple(held)} for {tuple(wanted)}" for name, held, wanted in found["mismatched_keys"])
    kinds = {"missing": missing, "left over": unexpected, "of another shape": mismatched}
    wrong = [f"{len(names)} {kind} ({', '.join(names[:2])})" for kind, names in kinds.items() if names]
    if wrong:
        raise UserError(f"{folder} must hold the weights that its {_CONFIG} describes, tensors are {', '.join(wrong)}")


def _check_content(file: Path, content: Mapping[str, Any]) -> None:
    """Refuses what would lead to other files than the folder's safetensors, or to weights that are no numbers."""
    for key in ("transformers_weights", "quantization_config"):
        if content.get(key):
            raise UserError(f"{file} must describe plain weights in the folder's own files, got {key}")


def _check_numbers(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuses numbers that no model has: a count below 1, a denominator's share of zero."""
    flat = {**settings, **(settings.get("rope_parameters") or {})}
    for name, value in flat.items():
        if value is None or isinstance(value, list | dict):
            continue
        is_count, is_positive = name in _COUNTS, name in _POSITIVE
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (is_count or is_positive) and not (is_number and value > 0 and (is_positive or value == int(value))):
            wanted = "a whole number above 0" if is_count else "a number above 0"
            raise UserError(f"{name} of {file} must be {wanted}, got {show(value)}")
        if "drop" in name and not (is_number and 0 <= value < 1):
            raise UserError(f"{name} of {file} must be in [0, 1), got {show(value)}")


def _check_architecture(file: Path, config: PreTrainedConfig) -> None:
    """Refuses a config whose ``architectures`` belong to another ``model_type``, under which it would be loaded."""
    import transformers

    for name in config.architectures or []:
        known = getattr(transformers, name, None) if str(name).isidentifier() else None
        own = getattr(getattr(known, "config_class", None), "model_type", None)
        if own is not None and own not in (config.model_type, config.get_text_config().model_type):
            raise UserError(
                f"{file} must describe one kind of model, got model_type {config.model_type} and architecture "
                f"{name}, which is of {own}"
            )


def _check_layers(folder: Path, config: PreTrainedConfig, infos: Mapping[str, TensorInfo]) -> None:
    """Refuses more layers than there are weights for, before they are made: they may be a million."""
    wanted = getattr(config.get_text_config(), "num_hidden_layers", 0)
    held = max((layer + 1 for name in infos if (layer := find_layer(name)) is not None), default=wanted)
    if wanted > held:
        raise UserError(
            f"{folder} must hold the weights that its {_CONFIG} describes, it describes {wanted} layers and the "
            f"files hold {held}"
        )


def _check_generation(folder: Path, vocabulary: int) -> None:
    """Checks what transformers would pass over without a word, and generate to other ends."""
    from transformers import GenerationConfig

    file = folder / _GENERATION_CONFIG
    content = read_json_of(folder, _GENERATION_CONFIG)
    _check_tokens(file, content, vocabulary)
    with blame(f"{file} must hold settings of generation"):
        GenerationConfig.from_dict(content)


def _check_tokens(file: Path, settings: Mapping[str, Any], vocabulary: int) -> None:
    """Refuses special tokens outside the vocabulary; -1 stands for none in some models."""
    for name in _TOKENS:
        value = settings.get(name)
        for token in value if isinstance(value, list) else [value]:
            is_token = isinstance(token, int) and not isinstance(token, bool) and -1 <= token < vocabulary
            if token is not None and not is_token:
                raise UserError(f"{name} of {file} must be below the vocabulary's {vocabulary}, got {show(token)}")


def _check_finite(folder: Path, model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        weights = parameter.to_local() if hasattr(parameter, "to_local") else getattr(parameter, "ds_tensor", parameter)
        low, high = weights.detach().aminmax() if weights.numel() else (weights.sum(), weights.sum())
        if not (low.isfinite() and high.isfinite()):  # both are NaN where one number is
            raise NonFiniteError(f"tensor {name} of {folder} must be finite, it holds NaN or infinite numbers")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the loading report of transformers from the terminal: what it says is checked and said in one line."""
    logger = logging.getLogger("transformers.modeling_utils")
    before = logger.disabled
    logger.disabled = True  # its level would not do: transformers looks at it, and says more
    try:
        yield
    finally:
        logger.disabled = before
