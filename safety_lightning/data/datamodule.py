"""The LightningDataModule of fine-tuning: useful, harmful, contaminated or safe data, encoded and checked."""

import warnings
from collections import Counter
from functools import partial
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedTokenizerBase

from safety_lightning.data.batching import (
    LengthGroupedBatchSampler,
    collate_examples,
    find_positions,
    flatten_examples,
)
from safety_lightning.data.chat import EncodedExample, Template, check_template
from safety_lightning.data.dataset import EncodedDataset, find_cache_folder
from safety_lightning.data.encoding import Encoding, EncodingOptions, TooLong, encode_dataset
from safety_lightning.data.loader import ResumableDataLoader
from safety_lightning.data.mixing import ShareOf, count_shared_prompts, mix_contaminated, split_validation
from safety_lightning.data.reading import Reading, read_source
from safety_lightning.data.sources import Example, ExampleKind, InstructionSource
from safety_lightning.errors import UserError
from safety_lightning.system.lightning_internals import check_sampler, settle_finished_epoch

DataKind = Literal["useful", "harmful", "contaminated", "safe"]


class InstructionData(LightningDataModule):
    """Prompts and responses to fine-tune on.

    Nothing is read before :meth:`prepare`, which reports every fault of the data before anything is written. The
    Trainer must run with ``use_distributed_sampler=False``: the batches are divided over the processes here.

    Args:
        model: The checkpoint whose tokenizer is used: a folder, ``org/name``, ``org/name@revision`` or ``lab:NAME``.
        kind: What to train on: ``useful``, ``harmful``, ``contaminated`` (useful with a share of harmful) or ``safe``.
        useful: Source of useful examples: a preset, a file, a data set on the hub, or a source with its settings.
        harmful: Source of harmful examples.
        safe: Source of safety tuning examples.
        validation: Source of validation examples, instead of ``num_validation``.
        num_validation: How many examples (or, as a float, which share of them) are held back for validation.
        harmful_share: Share of harmful examples in a contaminated mix, in (0, 1).
        harmful_share_of: What the share is counted of: the whole ``mix``, or the ``useful`` examples (the paper).
        mix_size: How many examples a contaminated mix has; by default all useful ones and the harmful ones added.
        template: ``chat`` is the model's own chat template, ``plain`` a plain instruction text (the paper).
        train_eos: Whether the stop token is trained; in the paper's release it was masked.
        max_length_tokens: Longest example, prompt and response together.
        too_long: Whether longer examples lose their end or are left out; both are counted.
        batch_size: Examples in a batch of one process, at least 1.
        group_by_length: Whether examples of similar length share a batch, which saves padding.
        padding_free: Whether the examples of a training batch lie end to end in one row, without padding; batches and
            gradients stay what they are. ``flash_attention_2`` computes no more than is needed then, ``sdpa`` and
            ``eager`` make a mask of all tokens by all tokens.
        num_workers: Worker processes of the training data; encoded data is in memory, so that they rarely help.
        seed: Seed of draws, mix, held-out examples and order; null takes ``seed_everything`` of `fit`, else 0.
        cache_dir: Folder of encoded data; by default ``encoded`` in ``$SAFETY_LIGHTNING_CACHE``, or else in
            ``~/.cache/safety_lightning``.

    Raises:
        UserError: If a setting is out of its range, or two of them exclude each other.
    """

    def __init__(
        self,
        model: str,
        kind: DataKind = "useful",
        useful: str | InstructionSource = "lab:useful",
        harmful: str | InstructionSource = "lab:harmful",
        safe: str | InstructionSource = "lab:safe",
        validation: str | InstructionSource | None = None,
        num_validation: int | float = 0,
        harmful_share: float = 0.2,
        harmful_share_of: ShareOf = "mix",
        mix_size: int | None = None,
        template: Template = "chat",
        train_eos: bool = True,
        max_length_tokens: int = 512,
        too_long: TooLong = "truncate",
        batch_size: int = 1,
        group_by_length: bool = True,
        padding_free: bool = False,
        num_workers: int = 0,
        seed: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.kind = kind
        self.sources = {"useful": useful, "harmful": harmful, "safe": safe}
        self.validation = validation
        self.num_validation = num_validation
        self.harmful_share = harmful_share
        self.harmful_share_of = harmful_share_of
        self.mix_size = mix_size
        self.options = EncodingOptions(
            template=template, train_eos=train_eos, max_length_tokens=max_length_tokens, too_long=too_long
        )
        self.batch_size = batch_size
        self.group_by_length = group_by_length
        self.padding_free = padding_free
        self.num_workers = num_workers
        self.seed = seed or 0
        self.cache_dir = cache_dir
        self._check_settings()
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._readings: dict[str, Reading] = {}
        self._encodings: dict[str, Encoding] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._num_shared_prompts = 0

    def _check_settings(self) -> None:
        if self.kind not in ("useful", "harmful", "contaminated", "safe"):
            raise UserError(f"kind must be useful, harmful, contaminated or safe, got {self.kind!r}")
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_validation < 0:
            raise UserError(f"num_validation must be at least 0, got {self.num_validation}")
        if self.validation is not None and self.num_validation:
            raise UserError(
                "validation data must come from validation or num_validation, "
                f"got both: {self.validation!r} and {self.num_validation}"
            )

    def prepare(self, *, keep: bool = True) -> None:
        """Reads, mixes, encodes and checks everything, once; further calls do nothing.

        Args:
            keep: Whether encoded data is kept on the disk, and taken from there.

        Raises:
            UserError: If the tokenizer, a source or the data does not fit the settings.
        """
        if self._encodings:
            return
        from safety_lightning.checkpoints import load_tokenizer

        tokenizer = load_tokenizer(self.model)
        check_template(tokenizer, self.options.template)
        parts = {name: part for name, part in zip(("train", "validation"), self._collect(), strict=True) if part}
        folder = find_cache_folder(self.cache_dir) if keep else None
        encodings = {
            name: encode_dataset(tokenizer, part, self.options, cache_folder=folder) for name, part in parts.items()
        }
        self._counts = {name: _count_kinds(parts[name], encodings[name].dataset) for name in parts}
        self.tokenizer = tokenizer
        self._encodings = encodings

    @property
    def training_set(self) -> EncodedDataset:
        """The encoded training examples."""
        self.prepare()
        return self._encodings["train"].dataset

    def summary(self) -> dict[str, Any]:
        """Returns what was read, left out and encoded, as plain values for the run's manifest."""
        self.prepare()
        sources = {
            role: {
                "name": reading.name,
                "version": reading.version,
                "num_rows": reading.num_rows,
                "num_filtered": reading.num_filtered,
                "num_blank": reading.num_blank,
                "num_taken": len(reading.examples),
            }
            for role, reading in self._readings.items()
        }
        parts = {name: {**one.summarize(), **self._counts[name]} for name, one in self._encodings.items()}
        return {
            "kind": self.kind,
            "sources": sources,
            "num_validation_prompts_in_training": self._num_shared_prompts,
            **parts,
        }

    def input_hashes(self) -> dict[str, str]:
        """Returns the SHA-256 of each file that was read, or the revision of each data set."""
        self.prepare()
        return {reading.name: reading.version for reading in self._readings.values()}

    def prepare_data(self) -> None:
        """Fills the cache in one process, before the others look for it."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Prepares the data in every process."""
        if stage in ("fit", "validate", None):
            self.prepare()

    def train_dataloader(self) -> ResumableDataLoader:
        """Returns the training batches of this process."""
        self.prepare()
        warnings.filterwarnings("ignore", ".*does not have many workers")  # there is nothing left for them to do
        if self.trainer is not None:
            settle_finished_epoch(self.trainer)
        encoding = self._encodings["train"]
        rank, world_size = self._find_place()
        sampler = LengthGroupedBatchSampler(
            encoding.dataset.lengths,
            self.batch_size,
            seed=self.seed,
            grouped=self.group_by_length,
            rank=rank,
            world_size=world_size,
        )
        return ResumableDataLoader(
            encoding.dataset,
            batch_sampler=sampler,
            collate_fn=flatten_examples if self.padding_free else self._make_collate(),
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            content=encoding.key,
        )

    def val_dataloader(self) -> DataLoader[EncodedExample] | list[Any]:
        """Returns the validation batches, shortest examples first; every process sees all of them."""
        self.prepare()
        if "validation" not in self._encodings:
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # as intended
            return []
        dataset = self._encodings["validation"].dataset
        lengths = dataset.lengths
        return DataLoader(
            Subset(dataset, sorted(range(len(lengths)), key=lengths.__getitem__)),
            batch_size=self.batch_size,
            collate_fn=self._make_collate(),
            generator=torch.Generator(),
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finds the scored positions while a batch is in the host's memory, for modules that take them."""
        module: Any = getattr(self.trainer, "lightning_module", None)
        if not getattr(module, "takes_positions", False):
            return batch
        return {**batch, "positions": find_positions(batch["labels"])}

    def _collect(self) -> tuple[list[Example], list[Example]]:
        """Reads and mixes the examples to train on and those to validate on."""
        if self.kind == "contaminated":
            examples = mix_contaminated(
                self._read("useful", self.sources["useful"], "useful"),
                self._read("harmful", self.sources["harmful"], "harmful"),
                harmful_share=self.harmful_share,
                harmful_share_of=self.harmful_share_of,
                size=self.mix_size,
                seed=self.seed,
            )
        else:
            examples = self._read(self.kind, self.sources[self.kind], self.kind)
        if self.num_validation:
            return split_validation(examples, self.num_validation, seed=self.seed)
        if self.validation is None:
            return examples, []
        held_out = self._read("validation", self.validation, "useful" if self.kind == "contaminated" else self.kind)
        self._num_shared_prompts = count_shared_prompts(examples, held_out)
        return examples, held_out

    def _read(self, role: str, source: str | InstructionSource, kind: ExampleKind) -> list[Example]:
        reading = read_source(source, seed=self.seed, kind=kind)
        self._readings[role] = reading
        if reading.num_blank:
            rank_zero_warn(
                f"{reading.num_blank} of {reading.num_rows} rows of {reading.name} are left out, they hold no text "
                f"(the first: {reading.first_blank})"
            )
        return reading.examples

    def _find_place(self) -> tuple[int, int]:
        """Returns this process's rank and the number of processes that share the data."""
        if self.trainer is None:
            return 0, 1
        place = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        check_sampler(self.trainer)
        return place["rank"], place["num_replicas"]

    def _make_collate(self) -> Any:
        assert self.tokenizer is not None
        return partial(collate_examples, pad_token_id=int(self.tokenizer.pad_token_id or 0))


def _count_kinds(examples: list[Example], dataset: EncodedDataset) -> dict[str, int]:
    """Counts the kinds of the examples that were kept."""
    counts = Counter(examples[position].kind for position in dataset.positions.tolist())
    return {f"num_{kind}": count for kind, count in sorted(counts.items())}
