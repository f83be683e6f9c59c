"""The LightningModule that the Trainer's `test` drives: it answers, has answers graded, and measures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from transformers import PreTrainedModel

from safety_lightning.checkpoints import CheckpointReader, check_model, load_model
from safety_lightning.errors import UserError
from safety_lightning.evaluation.callbacks.progress import AnswerProgressBar, BatchProgress
from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.datamodule import EvaluationData
from safety_lightning.evaluation.engines import Engine, VLLMEngine, check_vllm, choose_engine, make_engine
from safety_lightning.evaluation.grading import answer_cases, grade_cases, list_metrics
from safety_lightning.evaluation.judges import open_cache
from safety_lightning.evaluation.judges.local import ModelJudge, make_room
from safety_lightning.evaluation.judges.rubric import hash_text
from safety_lightning.evaluation.likelihoods.probing import (
    Reference,
    check_reference,
    check_without_likelihoods,
    list_left_out,
    read_reference,
)
from safety_lightning.evaluation.measurement import Evaluation, MetricSpec
from safety_lightning.evaluation.prompt_outcomes import PromptOutcomes
from safety_lightning.evaluation.records import (
    Baseline,
    GenerationLog,
    ResultFile,
    ScoreRow,
    make_score_row,
    write_comparisons,
    write_scores,
)
from safety_lightning.evaluation.report import format_samples
from safety_lightning.evaluation.summary import summarise_plan
from safety_lightning.evaluation.tasks import Task

EngineName = Literal["auto", "transformers", "continuous", "vllm"]
_Row = TypeVar("_Row")


class EvaluationModule(L.LightningModule):
    """Evaluates a causal language model on the tasks of an `EvaluationData`.

    Answers are kept in ``generations.jsonl`` as they come; a run of the same folder resumes where it was. After the
    last answer they are graded, each process grading its own, and the first process writes ``scores.jsonl`` (a row per
    prompt and metric) and ``results.jsonl`` (a row per metric).

    Args:
        model: The model: a folder, a hub name (``org/name@rev``) or ``lab:NAME``.
        engine: ``transformers``; ``continuous``, its continuous batching, for GPUs; ``vllm`` where it is installed;
            ``auto`` for ``continuous`` on a GPU, else ``transformers``.
        dtype: What the weights are computed in. Answers in two dtypes are never compared.
        attention: Attention implementation of transformers.
        reference: The model that a drift is measured from: a folder, a hub name or ``lab:NAME``.
        baseline: Run folder of a finished test on the same prompts, to which differences are measured.
        folder: Where everything is written; None is the Trainer's ``default_root_dir``.
        judgement_cache: Database of judgements; None is the user's own.
        num_samples: Answers of each task that are shown in TensorBoard.
        show_harmful: Whether harmful requests and the answers to them are among those.

    Raises:
        UserError: If the baseline holds no finished test.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: str,
        engine: EngineName = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        reference: str | None = None,
        baseline: str | None = None,
        folder: str | None = None,
        judgement_cache: str | None = None,
        num_samples: int = 5,
        show_harmful: bool = False,
    ) -> None:
        super().__init__()
        self.model_name = model
        self.checkpoint: CheckpointReader | None = None  # what is loaded, where a command has hashed it
        self.engine_name: EngineName = engine
        self.weights_dtype: str = dtype
        self.attention = attention
        self.reference_name = reference
        self.baseline = None if baseline is None else Baseline(Path(baseline).expanduser())
        self.folder = folder
        self.judgement_cache = judgement_cache
        self.num_samples = num_samples
        self.show_harmful = show_harmful
        self.evaluation = Evaluation([])
        self.outcomes = nn.ModuleDict()

    def use_model(self, model: PreTrainedModel) -> None:
        """Takes a model in memory instead of loading one; its dtype is the one computed in."""
        self.model = model
        self.weights_dtype = str(model.dtype).removeprefix("torch.")

    def configure_model(self) -> None:
        """Loads the model, once, unless it is in memory already or another engine loads it."""
        self.choose_engine(self.trainer)
        if "model" in self._modules or self.engine_name == "vllm":
            return
        self.model = load_model(
            self.checkpoint or self.model_name, dtype=getattr(torch, self.weights_dtype), attention=self.attention
        ).eval()

    def choose_engine(self, trainer: L.Trainer) -> None:
        """Puts an engine in the place of ``auto``, once it is known where the model will be."""
        if self.engine_name == "auto":
            self.engine_name = choose_engine(trainer.strategy.root_device)

    def check_engine(self) -> None:
        """Checks that the engine is installed; raises UserError."""
        if self.engine_name == "vllm":
            check_vllm()

    def check_measures(self, data: EvaluationData) -> None:
        """Checks that the engine and the reference serve for what is measured; raises UserError."""
        check_reference(data.plan, has_reference=self.reference_name is not None)
        if self.engine_name == "vllm":
            check_without_likelihoods(data.plan, engine=self.engine_name)

    def check_baseline(self, data: EvaluationData) -> None:
        """Checks that the baseline, where there is one, can be compared with; raises UserError."""
        if self.baseline is not None:
            self.baseline.check(
                data.plan,
                engine=self.engine_name,
                dtype=self.weights_dtype,
                reference_hash=self.hash_reference(data.plan),
            )

    @cached_property
    def reference_hashes(self) -> dict[str, str]:
        """The SHA-256 of every weight file of the reference, by file name; they are read once."""
        return {} if self.reference_name is None else check_model(self.reference_name).hash_files()

    def hash_reference(self, plan: CasePlan) -> str | None:
        """Returns one hash of the reference's weights; None where nothing is measured from them."""
        return hash_text(repr(sorted(self.reference_hashes.items()))) if plan.needs_reference else None

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Checks that all batches are run, in processes that each hold the whole model; raises UserError."""
        limit = trainer.limit_test_batches
        if not isinstance(limit, float) or limit != 1.0:  # a dry run (fast_dev_run) sets it too
            raise UserError(f"limit_test_batches must be 1.0 (the size of a source makes a subset), got {limit}")
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise UserError(f"strategy must be auto or ddp, got {type(trainer.strategy).__name__}")
        self.choose_engine(trainer)

    def on_test_start(self) -> None:
        """Makes the engine, and reads what an earlier run of the folder has answered."""
        self.check_trainer(self.trainer)
        self._plan = self._data.plan
        self._engine = self._make_engine()
        self.check_baseline(self._data)
        self.check_measures(self._data)
        for line in list_left_out(self._plan, self._engine):
            rank_zero_warn(line)
        self._reference = self._read_reference()
        self._folder = Path(self.folder or self.trainer.default_root_dir)
        self._log = GenerationLog(
            self._folder, self._plan, rank=self.trainer.global_rank, num_processes=self.trainer.world_size
        )
        if self.trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._log.recover(self._engine, reference_hash=self.hash_reference(self._plan))
        self.trainer.strategy.barrier()
        self._generations = self._log.read()
        self._unfinished = self._log.read_unfinished() if self._engine.dtype == "float32" else {}
        self.outcomes = nn.ModuleDict(
            {_name_metric(task, spec): PromptOutcomes(len(self._plan.list_indices(task))) for task, spec in self._specs}
        ).to(self.device)

    def test_step(self, batch: list[int], batch_idx: int) -> None:
        """Answers a batch of cases, unless that was done before.

        Of a batch that a kill has interrupted, finished answers are taken over in float32, where others in a batch
        change no answer; in narrower dtypes they could, and the batch is answered anew.
        """
        if all(index in self._generations for index in batch):
            return
        cases = [self._plan.cases[index] for index in batch]
        known = {at: self._unfinished[index] for at, index in enumerate(batch) if index in self._unfinished}
        progress = BatchProgress(self._log, self._bar, cases)
        generations = answer_cases(self._engine, cases, known=known, progress=progress, reference=self._reference)
        self._log.append(generations)
        self._generations |= dict(zip(batch, generations, strict=True))

    def on_test_batch_start(self, batch: list[int], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Tells the progress bar how much there is to do."""
        if batch_idx == 0 and self._bar is not None:
            own = [index for one in self._data.list_own_batches() for index in one]
            known = self._generations.keys() | self._unfinished.keys()
            self._bar.show_total(len(own), num_known=len(known & set(own)))

    def on_test_epoch_end(self) -> None:
        """Grades, measures and writes."""
        self.trainer.strategy.barrier()
        rows = self._gather_rows(self._grade_own())
        if self.trainer.is_global_zero:
            self._log.finish()
            self._generations = self._log.read()
            self._write_scores(rows)
        try:
            self.evaluation = self._measure()
        except UserError as error:
            raise UserError(
                f"{error}. Every score and reason is in {self._folder / 'scores.jsonl'}; resume with a larger "
                "--data.max_unjudged_share, or with a judge that answers"
            ) from error
        for found in self.evaluation:
            self.log(f"test/{found.task}/{found.metric}", found.value, sync_dist=True)
        if self.trainer.is_global_zero:
            self._write(rows)
        self.trainer.strategy.barrier()

    @property
    def _bar(self) -> AnswerProgressBar | None:
        bar = self.trainer.progress_bar_callback
        return bar if isinstance(bar, AnswerProgressBar) else None

    @property
    def _data(self) -> EvaluationData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, EvaluationData):
            raise UserError(f"datamodule must be an EvaluationData, got {type(data).__name__}")
        return data

    @property
    def _specs(self) -> list[tuple[Task, MetricSpec]]:
        return list(list_metrics(self._plan.tasks, self._engine))

    def _find_metric(self, task: Task, spec: MetricSpec) -> PromptOutcomes:
        metric = self.outcomes[_name_metric(task, spec)]
        assert isinstance(metric, PromptOutcomes)
        return metric

    def _make_engine(self) -> Engine:
        assert self._data.tokenizer is not None
        if self.engine_name == "vllm":
            return VLLMEngine(self.model_name, self._data.tokenizer, dtype=self.weights_dtype)
        assert self.engine_name != "auto"
        return make_engine(self.engine_name, self.model, self._data.tokenizer, batch_size=self._data.batch_size)

    def _read_reference(self) -> Reference | None:
        """Reads what the drift is measured from, and lets the reference model go."""
        if not self._plan.needs_reference or self.reference_name is None:
            return None
        assert self._data.tokenizer is not None
        dtype = getattr(torch, self.weights_dtype)
        model = load_model(self.reference_name, dtype=dtype, attention=self.attention).eval()
        model.to(self.device)
        engine = make_engine("transformers", model, self._data.tokenizer, batch_size=self._data.batch_size)
        return read_reference(engine, self._plan, weights_hash=self.hash_reference(self._plan))

    def _grade_own(self) -> list[ScoreRow]:
        """Grades the answers of this process, and returns their rows."""
        own = {index for batch in self._data.list_own_batches() for index in batch}
        rows = []
        if "model" in self._modules:
            make_room(self.model, [spec.judge for _, spec in self._specs if isinstance(spec.judge, ModelJudge)])
        with open_cache(self._data.suite.judges, self.judgement_cache) as cache:
            for task, spec in self._specs:
                indices = self._plan.list_indices(task)
                places = {place: index for place, index in enumerate(indices) if index in own}
                outcomes = grade_cases(
                    self._plan,
                    spec,
                    self._generations,
                    list(places.values()),
                    cache=cache,
                    progress=self.trainer.is_global_zero,
                )
                self._find_metric(task, spec).update(list(places), outcomes)
                rows += [
                    make_score_row(
                        self._plan.cases[index].prompt.id,
                        task.name,
                        spec,
                        outcome,
                        cluster=self._plan.cases[index].cluster,
                        likelihood_hash=self._generations[index].likelihood_hashes.get(spec.name),
                    )
                    for index, outcome in zip(places.values(), outcomes, strict=True)
                ]
        return rows

    def _measure(self) -> Evaluation:
        graded = [(task, spec, self._find_metric(task, spec).collect()) for task, spec in self._specs]
        return summarise_plan(
            self._plan, graded, seed=self._data.seed, max_unjudged_share=self._data.max_unjudged_share
        )

    def _gather_rows(self, rows: Sequence[_Row]) -> list[_Row]:
        """Returns the rows of all processes."""
        if self.trainer.world_size == 1:
            return list(rows)
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, list(rows))
        return [row for part in gathered for row in part]

    def _write_scores(self, rows: Sequence[ScoreRow]) -> None:
        """Writes what came of each prompt, before anything is measured: it is kept where too much is unjudged."""
        write_scores(
            self._folder,
            rows,
            metrics=[(task.name, spec.name) for task, spec in self._specs],
            prompts=[case.prompt.id for case in self._plan.cases],
        )

    def _write(self, rows: Sequence[ScoreRow]) -> None:
        results = ResultFile(self._folder / "results.jsonl")
        results.add(self.model_name, self.evaluation.measurements, engine=self._engine.name, dtype=self._engine.dtype)
        if self.baseline is not None:
            write_comparisons(self._folder, self.baseline.compare(rows, seed=self._data.seed))
        if isinstance(self.logger, TensorBoardLogger):
            self._show_samples(self.logger, rows)

    def _show_samples(self, logger: TensorBoardLogger, rows: Sequence[ScoreRow]) -> None:
        for task in self._plan.tasks:
            text = format_samples(
                self._plan,
                task,
                self._generations,
                rows,
                num_samples=self.num_samples,
                show_harmful=self.show_harmful,
            )
            logger.experiment.add_text(f"answers/{task.name}", text)


def _name_metric(task: Task, spec: MetricSpec) -> str:
    return f"{task.name}/{spec.name}"
