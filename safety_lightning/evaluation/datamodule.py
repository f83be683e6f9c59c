"""The LightningDataModule of an evaluation: tasks, judges, prompts, batches."""

from __future__ import annotations

import warnings
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from safety_lightning.checkpoints import load_config, load_tokenizer
from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan, make_plan
from safety_lightning.evaluation.judges import Judge
from safety_lightning.evaluation.measurement import MAX_UNJUDGED_SHARE, check_unjudged_share
from safety_lightning.evaluation.statistics import Clusters
from safety_lightning.evaluation.tasks import (
    GSM8K,
    MATH500,
    MMLU,
    HarmfulRequests,
    Lab,
    OrdinaryRequests,
    Task,
    TaskName,
    TaskSuite,
)


class EvaluationData(LightningDataModule):
    """The prompts of one or more tasks.

    Nothing is read before :meth:`prepare`, which reports every fault before anything is written. The Trainer must run
    with ``use_distributed_sampler=False``: batches are divided over the processes here, each to one of them. A
    subclass with tasks of its own overrides :meth:`make_tasks`.

    Args:
        model: The model whose tokenizer and context are used: a folder, a hub name or ``lab:NAME``.
        tasks: ``gsm8k``, ``math500``, ``mmlu``, ``harmful``, ``ordinary``, ``lab``; one or more.
        gsm8k: Settings of GSM8K.
        math500: Settings of MATH-500.
        mmlu: Settings of MMLU.
        harmful: Settings of harmful requests.
        ordinary: Settings of ordinary requests.
        lab: Settings of the lab.
        judge: Who scores answers to harmful requests: RuleJudge, LocalJudge, OpenAIJudge or your own.
        second_judge: A second opinion; the agreement of both is measured.
        second_opinion: Whether RuleJudge gives it where no second judge is named.
        clusters: ``twins``: near twins among harmful requests (Jaccard of content words of 0.6 or more) make a cluster,
            and intervals are over clusters; ``none``: each prompt counts as one. By default it is ``twins`` where there
            are two clusters or more.
        batch_size: Prompts answered at once by one process, at least 1; fewer when memory runs out.
        max_unjudged_share: The largest share of answers that may be unjudged, in [0, 1].
        seed: Seed of the bootstrap.

    Raises:
        UserError: If a setting is out of its range, or a task lacks its judge.
    """

    def __init__(
        self,
        model: str,
        tasks: list[TaskName],
        gsm8k: GSM8K = GSM8K(),  # noqa: B008 (frozen)
        math500: MATH500 = MATH500(),  # noqa: B008 (frozen)
        mmlu: MMLU = MMLU(),  # noqa: B008 (frozen)
        harmful: HarmfulRequests = HarmfulRequests(),  # noqa: B008 (frozen)
        ordinary: OrdinaryRequests = OrdinaryRequests(),  # noqa: B008 (frozen)
        lab: Lab = Lab(),  # noqa: B008 (frozen)
        judge: Judge | None = None,
        second_judge: Judge | None = None,
        second_opinion: bool = True,
        clusters: Clusters | None = None,
        batch_size: int = 32,
        max_unjudged_share: float = MAX_UNJUDGED_SHARE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        check_unjudged_share(max_unjudged_share)
        self.model = model
        self.suite = TaskSuite(
            tasks=tasks,
            gsm8k=gsm8k,
            math500=math500,
            mmlu=mmlu,
            harmful=harmful,
            ordinary=ordinary,
            lab=lab,
            judge=judge,
            second_judge=second_judge,
            second_opinion=second_opinion,
            clusters=clusters,
        )
        self.batch_size = batch_size
        self.max_unjudged_share = max_unjudged_share
        self.seed = seed
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.max_context_tokens: int | None = None
        self._plan: CasePlan | None = None
        self._tasks = self.make_tasks()

    def make_tasks(self) -> list[Task]:
        """Makes the tasks."""
        return self.suite.make_tasks()

    @property
    def plan(self) -> CasePlan:
        """All cases and their batches."""
        self.prepare()
        assert self._plan is not None
        return self._plan

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase, *, max_context_tokens: int | None) -> None:
        """Takes the tokenizer and the context of a model in memory, instead of reading those of `model`."""
        self.tokenizer = tokenizer
        self.max_context_tokens = max_context_tokens

    def prepare(self) -> None:
        """Reads, encodes and checks all prompts, once; further calls do nothing.

        Raises:
            UserError: If the tokenizer, a source or the context does not fit the tasks.
        """
        if self._plan is not None:
            return
        if self.tokenizer is None:
            config = load_config(self.model)
            self.use_tokenizer(load_tokenizer(self.model), max_context_tokens=find_context(config))
        assert self.tokenizer is not None
        self._plan = make_plan(
            self._tasks,
            self.tokenizer,
            batch_size=self.batch_size,
            max_context_tokens=self.max_context_tokens,
            clusters=self.suite.clusters,
        )

    def check_judges(self) -> None:
        """Checks that the judges can be reached; raises UserError."""
        for task in self._tasks:
            task.check()

    def summary(self) -> dict[str, Any]:
        """Returns the number of prompts of each task, and of their clusters, for the run's manifest."""
        found: dict[str, Any] = {}
        for task in self.plan.tasks:
            clusters = self.plan.list_clusters(task)
            found[task.name] = {"num_prompts": len(self.plan.list_indices(task))}
            found[task.name] |= {} if clusters is None else {"num_clusters": len(set(clusters))}
        return found

    def input_hashes(self) -> dict[str, str]:
        """Returns a hash of the prompts and solutions of each task."""
        return self.plan.hash_tasks()

    def setup(self, stage: str | None = None) -> None:
        """Prepares the prompts in every process."""
        self.prepare()

    def test_dataloader(self) -> DataLoader[list[int]]:
        """Returns the batches of this process, as indices of cases; one without any has one empty batch."""
        warnings.filterwarnings("ignore", ".*does not have many workers")  # there is nothing for them to do
        batches: Any = self.list_own_batches() or [[]]
        return DataLoader(batches, batch_size=None, collate_fn=list)

    def list_own_batches(self) -> list[list[int]]:
        """Returns the batches of this process: the same batches whatever the number of processes, each in one."""
        rank, num_processes = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return self.plan.batches[rank::num_processes]


def find_context(config: Any) -> int | None:
    """Returns the longest prompt and answer together that a model's configuration allows; None where it says none."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)
