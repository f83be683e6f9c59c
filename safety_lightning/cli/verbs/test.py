"""The verb `test`: evaluates a model's utility, harmfulness and over-refusal."""

from __future__ import annotations

from typing import Any, ClassVar

from safety_lightning.checkpoints import check_model
from safety_lightning.cli.verbs.base import VerbCLI, place_judges
from safety_lightning.cli.verbs.resuming import PROCESSES
from safety_lightning.errors import UserError
from safety_lightning.evaluation.callbacks.progress import AnswerProgressBar
from safety_lightning.evaluation.datamodule import EvaluationData
from safety_lightning.evaluation.disagreement import print_disagreements
from safety_lightning.evaluation.judges import (
    HarmBenchJudge,
    JudgementCache,
    LabJudge,
    LlamaGuardJudge,
    LocalJudge,
    OpenAIJudge,
    Qwen3GuardJudge,
    RuleJudge,
    StrongREJECTJudge,
    StrongREJECTRubric,
    WildGuardJudge,
    find_cache_file,
)
from safety_lightning.evaluation.judges.command import describe_judge
from safety_lightning.evaluation.judges.self_test import check_judges
from safety_lightning.evaluation.module import EvaluationModule
from safety_lightning.evaluation.report import print_comparisons, print_summary
from safety_lightning.files import expand, find_parent
from safety_lightning.printing import open_console
from safety_lightning.profiles import EVALUATION_SETTINGS, name_profile, read_settings

JUDGES = (
    OpenAIJudge,
    LocalJudge,
    RuleJudge,
    LabJudge,
    StrongREJECTJudge,
    StrongREJECTRubric,
    HarmBenchJudge,
    WildGuardJudge,
    Qwen3GuardJudge,
    LlamaGuardJudge,
)  # imported here, which makes their short names known
_SETTINGS_OF = {"data.harmful": "harmful", "data.judge": "harmful", "data.gsm8k": "gsm8k"}


class TestCLI(VerbCLI):
    """Evaluates."""

    __test__ = False  # no test class, whatever pytest makes of its name
    verb = "test"
    outputs = ("model.folder",)
    may_change: ClassVar[tuple[str, ...]] = (  # how many processes work, what it is compared with, who waits how long
        *PROCESSES,
        "model.baseline",
        "model.judgement_cache",
        "model.num_samples",
        "model.show_harmful",
        "data.max_unjudged_share",
        *(f"data.{one}.init_args.{group}" for one in ("judge", "second_judge") for group in ("delivery", "budget")),
    )
    before_test, after_test = VerbCLI.prepare_run, VerbCLI.finish_run
    module_class = EvaluationModule
    data_class = EvaluationData
    trainer_options: ClassVar[dict[str, Any]] = {
        "use_distributed_sampler": False,
        "precision": "32-true",  # `model.dtype` says what is computed in
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }

    def place_outputs(self, config: Any) -> None:
        """Puts answers, scores and results into the run folder."""
        config.verbose = False  # the table that is printed at the end says more than Lightning's own
        config.model.folder = config.model.folder or str(self.run.path)
        self.check_last(config)
        if config.trainer.precision not in ("32-true", "32", 32):
            raise UserError(f"--trainer.precision must be 32-true (use --model.dtype), got {config.trainer.precision}")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Shows answers unless told otherwise."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("enable_progress_bar") is not False:
            trainer_config["callbacks"] = [*(trainer_config.get("callbacks") or []), AnswerProgressBar()]
        return super().instantiate_trainer(**kwargs)

    def check(self) -> None:
        """Checks engine, run folder, weights, prompts, the baseline and that the judges can be reached."""
        self.model.check_trainer(self.trainer)
        self.model.check_engine()
        self.model.checkpoint = check_model(self.model.model_name)
        if self.model.reference_name is not None:
            check_model(self.model.reference_name)
        self.check_folder()
        self.datamodule.prepare()
        self.check_folder(num_bytes=self.datamodule.plan.estimate_bytes())
        self.model.check_measures(self.datamodule)
        self.model.check_baseline(self.datamodule)
        self._check_cache()
        place_judges(self.datamodule.suite.judges, self.trainer)
        self.datamodule.check_judges()

    def _check_cache(self) -> None:
        """Checks that judgements can be kept, before anything is generated."""
        file = expand(self.model.judgement_cache or find_cache_file(), what="model.judgement_cache")
        find_parent(file, what="model.judgement_cache")
        if file.exists():
            JudgementCache(file).close()

    def describe_inputs(self) -> dict[str, Any]:
        """Returns hashes of weights and prompts, the engine, the judges and the profile."""
        settings = self._read_settings()
        return {
            "profile": name_profile(settings),
            "settings": settings,
            "inputs": {
                "weights": self._hash_weights(),
                "data": self.datamodule.input_hashes(),
                "engine": {"name": self.model.engine_name, "dtype": self.model.weights_dtype},
            },
            "data": self.datamodule.summary(),
            "judges": [describe_judge(one) for one in self.datamodule.suite.judges],
        }

    def finish(self) -> None:
        """Prints the table, and what judging took."""
        print_summary(self.run.path, settings=self._read_settings())
        print_comparisons(self.run.path)
        print_disagreements(self.run.path, console=open_console())
        self._test_judges()
        for judge in self.datamodule.suite.judges:
            if usage := judge.describe_usage():
                print(f"Judge {judge.name} {judge.model}: {', '.join(f'{n} {v}' for n, v in usage.items())}")

    def _test_judges(self) -> None:
        """Prints whether each judge passed the self-test."""
        specs = [spec for task in self.datamodule.plan.tasks for spec in task.metrics if spec.kind == "judged"]
        judges = [spec.judge for spec in specs if spec.judge is not None]
        if judges:
            with JudgementCache(self.model.judgement_cache or find_cache_file()) as cache:
                print(*check_judges(judges, folder=self.run.path, cache=cache), sep="\n")

    def _hash_weights(self) -> dict[str, Any]:
        """Hashes the files of the model, and of the reference where the drift from it is measured."""
        hashes = {"model": self.model.checkpoint.hash_files()}
        if self.model.reference_name is not None and self.datamodule.plan.needs_reference:
            hashes["reference"] = self.model.reference_hashes
        return hashes

    def _read_settings(self) -> dict[str, Any]:
        """Reads the settings of the tasks that are run."""
        tasks = self.datamodule.suite.tasks
        among = [one for one in EVALUATION_SETTINGS if _SETTINGS_OF[".".join(one.key.split(".")[:2])] in tasks]
        return read_settings(self.read_config(), among)
