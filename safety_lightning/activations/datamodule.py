"""The LightningDataModule of `predict`: sets of prompts, matched in length where asked, padded on either side.

Shapes in this file: B = batch, T = tokens.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from safety_lightning.activations.matching import Matching, match_lengths
from safety_lightning.activations.prompts import EncodedPrompt, PromptSet, check_set_names, read_set
from safety_lightning.activations.shards import PlannedBatches, Shard, plan_shards
from safety_lightning.checkpoints import load_tokenizer
from safety_lightning.data import (
    AdvBenchPrompts,
    InstructionSource,
    Padding,
    Template,
    check_template,
    pad_rows,
    pad_sequences,
)
from safety_lightning.errors import UserError


@dataclass(kw_only=True)
class PromptBatch:
    """A padded batch.

    Attributes:
        indices: Where its prompts stand in `PromptData.prompts`.
        input_ids: int64, shape ``(B, T)``.
        attention_mask: 1 where a token is attended to, shape ``(B, T)``.
        response_mask: 1 on the sets' own responses, shape ``(B, T)``; None where there are only prompts.
        pad_token_id: What fills ``input_ids``.
        padding: On which side.
        special_tokens_end: Whether a special token ends a response, as a turn of a chat ends; see `AnswerLimits`.
    """

    indices: list[int]
    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor | None
    pad_token_id: int
    padding: Padding
    special_tokens_end: bool


class PromptData(LightningDataModule):
    """Sets of prompts to capture activations of.

    Nothing is read before :meth:`prepare`, which reports every fault of the data before anything is written. The
    Trainer must run with ``use_distributed_sampler=False``: the shards are divided over the processes here.

    Args:
        model: The checkpoint whose tokenizer is used: a folder, ``org/name``, ``org/name@revision`` or ``lab:NAME``.
        sets: Prompt sets by name: a preset, a file, a data set on the hub, or a source with its settings.
        num_prompts: How many distinct prompts of each set, for sets whose source has no ``size``; with
            ``match_lengths``, how many of the matched ones. All by default (the lab makes 512).
        template: ``chat`` is the model's own chat template, ``plain`` a plain instruction text (the paper).
        advbench_prompts: ``whole``, or ``cut`` at the first comma with the last dropped (the paper's release).
        with_responses: Whether the sets' own responses are read and given to the model behind the prompts.
        match_lengths: Whether to keep only prompts that have counterparts of their length in every other set.
        match_tolerance_tokens: How far the lengths of counterparts may lie apart, at least 0.
        batch_size: Prompts in a batch of one process, at least 1.
        sort_by_length: Whether prompts of similar length share a batch, which saves padding.
        padding: On which side batches are padded.
        seed: Seed of draws, of matching and of what the lab makes.

    Raises:
        UserError: If a setting is out of its range, or two of them exclude each other.
    """

    def __init__(
        self,
        model: str,
        sets: dict[str, str | InstructionSource],
        num_prompts: int | None = None,
        template: Template = "chat",
        advbench_prompts: AdvBenchPrompts = "whole",
        with_responses: bool = False,
        match_lengths: bool = False,
        match_tolerance_tokens: int = 0,
        batch_size: int = 32,
        sort_by_length: bool = True,
        padding: Padding = "right",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a process may have no shard left to capture
        self.model = model
        self.sources = sets
        self.num_prompts = num_prompts
        self.template: Template = template
        self.advbench_prompts: AdvBenchPrompts = advbench_prompts
        self.with_responses = with_responses
        self.match_lengths = match_lengths
        self.match_tolerance_tokens = match_tolerance_tokens
        self.batch_size = batch_size
        self.sort_by_length = sort_by_length
        self.padding: Padding = padding
        self.seed = seed
        self._check_settings()
        self.prompts: list[EncodedPrompt] = []
        self._sets: list[PromptSet] = []
        self._matching: Matching | None = None
        self._batches: list[list[int]] | None = None
        self._pad_token_id = 0

    def _check_settings(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("num_prompts", self.num_prompts)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.match_tolerance_tokens < 0:
            raise UserError(f"match_tolerance_tokens must be at least 0, got {self.match_tolerance_tokens}")
        if self.padding not in ("left", "right"):
            raise UserError(f"padding must be left or right, got {self.padding!r}")
        if self.match_lengths and len(self.sources) < 2:
            raise UserError(f"match_lengths must have at least two sets to match, got {len(self.sources)}")

    def prepare(self) -> None:
        """Reads, encodes and matches the prompts, once, and checks them; writes nothing.

        Raises:
            UserError: If a set cannot be read, is empty or has fewer prompts than asked for, or the model has no
                chat template and ``template`` is ``chat``.
        """
        if self.prompts:
            return
        tokenizer = load_tokenizer(self.model)
        check_template(tokenizer, self.template)
        self._pad_token_id = int(tokenizer.pad_token_id or 0)
        self._sets = self._read(tokenizer)
        if self.match_lengths:
            lengths = {one.name: [prompt.num_tokens for prompt in one.prompts] for one in self._sets}
            self._matching = match_lengths(
                lengths, tolerance_tokens=self.match_tolerance_tokens, num_prompts=self.num_prompts, seed=self.seed
            )
            members = self._matching.members
            self._sets = [replace(one, prompts=[one.prompts[at] for at in members[one.name]]) for one in self._sets]
        self.prompts = [prompt for one in self._sets for prompt in one.prompts]

    def setup(self, stage: str) -> None:
        """Prepares the prompts; Lightning calls this in every process."""
        self.prepare()

    def plan(self, shard_prompts: int) -> list[Shard]:
        """Divides the prompts into shards; see `safety_lightning.activations.shards.plan_shards`."""
        return plan_shards(
            self.prompts,
            batch_size=self.batch_size,
            shard_prompts=shard_prompts,
            sort_by_length=self.sort_by_length,
        )

    def choose(self, shards: Sequence[Shard]) -> None:
        """Says which shards this process captures; all batches, where nobody says so."""
        self._batches = [batch for shard in shards for batch in shard.batches]

    def predict_dataloader(self) -> Any:
        """Returns the loader of this process's batches."""
        if self._batches is None:
            self.choose(self.plan(len(self.prompts)))
        if not self._batches:
            warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")  # as intended
            return []
        return DataLoader(
            range(len(self.prompts)),  # type: ignore[arg-type]  # a sequence of indices
            batch_sampler=PlannedBatches(range(0), self._batches),
            collate_fn=self.collate,
            generator=torch.Generator(),  # of its own: making an iterator must not disturb the model's random numbers
        )

    def collate(self, indices: list[int]) -> PromptBatch:
        """Pads the prompts of some indices to a batch."""
        chosen = [self.prompts[index] for index in indices]
        whole = [one.input_ids + (one.response_ids or []) for one in chosen]
        input_ids, attention_mask = pad_sequences(whole, pad_token_id=self._pad_token_id, padding=self.padding)
        marks = [[0] * one.num_tokens + [1] * (one.length - one.num_tokens) for one in chosen]
        return PromptBatch(
            indices=indices,
            input_ids=input_ids,
            attention_mask=attention_mask,
            response_mask=pad_rows(marks, fill=0, padding=self.padding) if self.with_responses else None,
            pad_token_id=self._pad_token_id,
            padding=self.padding,
            special_tokens_end=self.template == "chat",
        )

    def summary(self) -> dict[str, Any]:
        """Returns counts of every set: what was read, left out, matched and taken, and the lengths in tokens."""
        return {one.name: {**_describe_set(one), **self._describe_matching(one.name)} for one in self._sets}

    def input_hashes(self) -> dict[str, str]:
        """Returns the SHA-256 of each set's prompts as they are given to the model."""
        return {one.name: _hash_prompts(one.prompts) for one in self._sets}

    def describe(self) -> dict[str, Any]:
        """Returns the settings that the activations depend on, as JSON values."""
        return {
            "template": self.template,
            "advbench_prompts": self.advbench_prompts,
            "match_lengths": self.match_lengths,
            "match_tolerance_tokens": self.match_tolerance_tokens if self.match_lengths else None,
            "batch_size": self.batch_size,
            "sort_by_length": self.sort_by_length,
            "padding": self.padding,
            "seed": self.seed,
        }

    def _read(self, tokenizer: PreTrainedTokenizerBase) -> list[PromptSet]:
        check_set_names(self.sources)
        return [
            read_set(
                name,
                source,
                tokenizer,
                template=self.template,
                num_prompts=None if self.match_lengths else self.num_prompts,
                with_responses=self.with_responses,
                advbench_prompts=self.advbench_prompts,
                seed=self.seed,
            )
            for name, source in self.sources.items()
        ]

    def _describe_matching(self, name: str) -> Mapping[str, int]:
        if self._matching is None:
            return {}
        return {"num_matched": self._matching.num_matched, "num_unmatched": self._matching.num_unmatched[name]}


def _describe_set(prompt_set: PromptSet) -> dict[str, Any]:
    lengths = [prompt.num_tokens for prompt in prompt_set.prompts]
    return {
        "num_read": prompt_set.num_read,
        "num_repeated": prompt_set.num_repeated,
        "num_blank": prompt_set.num_blank,
        "num_prompts": len(lengths),
        "shortest_tokens": min(lengths),
        "mean_tokens": sum(lengths) / len(lengths),
        "longest_tokens": max(lengths),
    }


def _hash_prompts(prompts: Sequence[EncodedPrompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, prompt.text, prompt.input_ids, prompt.response_ids]).encode() + b"\n")
    return digest.hexdigest()
