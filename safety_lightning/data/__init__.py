"""Reads, mixes, encodes and batches what is trained on, in the order in which data goes.

sources     where examples come from: presets, files, data sets of the hub, registered generators such as the lab's
tables      files and data sets as named columns; reading takes the right rows and columns of them as text
mixing      a contaminated mix with exact counts; examples held back for validation
chat        a prompt and its response as tokens, and which of them are trained; encoding checks and counts them
dataset     encoded examples in flat tensors, kept on disk
batching    padding, and batches of similar length; loader gives them out in an order that survives a resume
datamodule  `InstructionData`, which ties it together
"""
# ruff: noqa: F401 (the names are for other rooms)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_lightning.data.batching import (
        LengthGroupedBatchSampler,
        Padding,
        collate_examples,
        pad_rows,
        pad_sequences,
    )
    from safety_lightning.data.chat import (
        IGNORED_LABEL,
        EncodedExample,
        Template,
        check_template,
        encode_pairs,
        encode_prompt,
        find_stop_ids,
    )
    from safety_lightning.data.datamodule import InstructionData
    from safety_lightning.data.reading import AdvBenchPrompts, read_advbench_prompts, read_examples, read_prompts
    from safety_lightning.data.sources import (
        Example,
        InstructionSource,
        is_generated,
        is_local_file,
        register_generator,
        resolve_source,
    )
    from safety_lightning.data.tables import check_column, read_table

_PLACES = {
    "AdvBenchPrompts": "reading",
    "EncodedExample": "chat",
    "Example": "sources",
    "IGNORED_LABEL": "chat",
    "InstructionData": "datamodule",
    "InstructionSource": "sources",
    "LengthGroupedBatchSampler": "batching",
    "Padding": "batching",
    "Template": "chat",
    "check_column": "tables",
    "check_template": "chat",
    "collate_examples": "batching",
    "encode_pairs": "chat",
    "encode_prompt": "chat",
    "find_stop_ids": "chat",
    "is_generated": "sources",
    "is_local_file": "sources",
    "pad_rows": "batching",
    "pad_sequences": "batching",
    "read_advbench_prompts": "reading",
    "read_examples": "reading",
    "read_prompts": "reading",
    "read_table": "tables",
    "register_generator": "sources",
    "resolve_source": "sources",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    """Imports a name on first use: where examples come from can be said without torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
