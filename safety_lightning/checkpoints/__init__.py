"""Reads and writes weights: references, lazy tensors, matrix views, which tensors take part, the shard writer."""

from safety_lightning.checkpoints.dtypes import StorageDtype, choose_dtype, make_rounding, resolve_dtype
from safety_lightning.checkpoints.finetuned import Finetuned, find_mixed_dtypes, open_finetuned
from safety_lightning.checkpoints.matrices import MatrixSlot, find_slots
from safety_lightning.checkpoints.reader import CheckpointReader, TensorInfo
from safety_lightning.checkpoints.references import (
    load_config,
    load_model,
    load_tokenizer,
    resolve_reference,
    split_revision,
)
from safety_lightning.checkpoints.selection import (
    check_pair,
    iterate_deltas,
    read_delta,
    select_names,
    select_slots,
    subtract_base,
    tied_output,
)
from safety_lightning.checkpoints.writer import ShardWriter, TensorLayout

__all__ = [
    "CheckpointReader",
    "Finetuned",
    "MatrixSlot",
    "ShardWriter",
    "StorageDtype",
    "TensorInfo",
    "TensorLayout",
    "check_pair",
    "choose_dtype",
    "find_mixed_dtypes",
    "find_slots",
    "iterate_deltas",
    "load_config",
    "load_model",
    "load_tokenizer",
    "make_rounding",
    "open_finetuned",
    "read_delta",
    "resolve_dtype",
    "resolve_reference",
    "select_names",
    "select_slots",
    "split_revision",
    "subtract_base",
    "tied_output",
]
