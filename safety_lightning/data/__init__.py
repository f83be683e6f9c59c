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

from typing import TYPE_CHECKING

from safety_lightning.lazy import import_lazily, list_names

if TYPE_CHECKING:
    from safety_lightning.data.batching import (
        LengthGroupedBatchSampler,
        Padding,
        collate_examples,
        find_positions,
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
        encode_texts,
        find_stop_ids,
        render_prompt,
        render_reply,
    )
    from safety_lightning.data.datamodule import InstructionData
    from safety_lightning.data.reading import (
        AdvBenchPrompts,
        filter_rows,
        open_table,
        read_advbench_prompts,
        read_examples,
        read_prompts,
        read_source,
        take_rows,
    )
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
    "batching": "LengthGroupedBatchSampler Padding collate_examples find_positions pad_rows pad_sequences",
    "chat": "IGNORED_LABEL EncodedExample Template check_template encode_pairs encode_prompt encode_texts "
    "find_stop_ids render_prompt render_reply",
    "datamodule": "InstructionData",
    "reading": "AdvBenchPrompts filter_rows open_table read_advbench_prompts read_examples read_prompts read_source "
    "take_rows",
    "sources": "Example InstructionSource is_generated is_local_file register_generator resolve_source",
    "tables": "check_column read_table",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
