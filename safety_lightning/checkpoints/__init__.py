"""Reads and writes weights, in the order in which data goes.

references           the folder behind a folder's path, a hub name or ``lab:NAME``
folders              what a model folder may hold: files inside it, JSON with finite numbers
loading, tokenizers  a folder's config and model, whole or refused; its tokenizer
reader, matrices     a checkpoint's tensors, read by name; the matrices in a tensor, with the output side on the left
selection            which tensors take part; whether two checkpoints fit each other, and their difference
adapters, finetuned  LoRA adapters; adapters and whole checkpoints as updates from a reference
dtypes, writer       the dtype that weights are stored in; safetensors files filled tensor by tensor
"""

from safety_lightning.checkpoints.adapters import ADAPTER_CONFIG, ADAPTER_FILE, AdapterReader
from safety_lightning.checkpoints.dtypes import StorageDtype, choose_dtype, make_rounding, resolve_dtype
from safety_lightning.checkpoints.finetuned import (
    Finetuned,
    FinetunedCheckpoint,
    find_mixed_dtypes,
    open_finetuned,
    open_one,
)
from safety_lightning.checkpoints.folders import blame
from safety_lightning.checkpoints.loading import check_model, load_config, load_model
from safety_lightning.checkpoints.matrices import MatrixSlot, find_slots
from safety_lightning.checkpoints.reader import CheckpointReader, TensorInfo
from safety_lightning.checkpoints.references import locate_model, split_revision
from safety_lightning.checkpoints.selection import (
    Vectors,
    check_pair,
    iterate_deltas,
    read_delta,
    select_named_slots,
    select_names,
    select_slots,
    subtract_base,
    tied_output,
)
from safety_lightning.checkpoints.tokenizers import load_tokenizer
from safety_lightning.checkpoints.writer import CODES, ShardWriter, TensorLayout, allocate

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_FILE",
    "CODES",
    "AdapterReader",
    "CheckpointReader",
    "Finetuned",
    "FinetunedCheckpoint",
    "MatrixSlot",
    "ShardWriter",
    "StorageDtype",
    "TensorInfo",
    "TensorLayout",
    "Vectors",
    "allocate",
    "blame",
    "check_model",
    "check_pair",
    "choose_dtype",
    "find_mixed_dtypes",
    "find_slots",
    "iterate_deltas",
    "load_config",
    "load_model",
    "load_tokenizer",
    "locate_model",
    "make_rounding",
    "open_finetuned",
    "open_one",
    "read_delta",
    "resolve_dtype",
    "select_named_slots",
    "select_names",
    "select_slots",
    "split_revision",
    "subtract_base",
    "tied_output",
]
