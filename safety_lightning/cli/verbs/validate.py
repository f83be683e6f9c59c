"""The verb `validate`: measures loss and perplexity on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from safety_lightning.cli.verbs.base import VerbCLI
from safety_lightning.cli.verbs.training import TrainingCLI
from safety_lightning.evaluation.callbacks.compare_models import check_validation
from safety_lightning.evaluation.loss import summarise_loss
from safety_lightning.evaluation.records.results import ResultFile
from safety_lightning.evaluation.report import print_summary
from safety_lightning.profiles import read_settings


class ValidateCLI(TrainingCLI):
    """Measures held-out loss."""

    verb = "validate"
    before_validate, after_validate = VerbCLI.prepare_run, VerbCLI.finish_run
    can_resume = False  # it takes no longer than a validation

    def find_seed(self, config: Any) -> int:
        """Returns the seed of the fit that left the model in its run folder: its held-out examples are validated on."""
        file = Path(str(config.model.model)).parent / "config.yaml"
        try:
            return int(yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["seed"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # none, or of something else
            return super().find_seed(config)

    def check(self) -> None:
        """Checks run folder and data."""
        self.measure_model_bytes()
        self.check_folder()
        self.datamodule.prepare()
        self.check_batches()
        check_validation(self.datamodule, wanted_by="validate")

    def finish(self) -> None:
        """Writes the loss with its interval, and prints it."""
        results = ResultFile(self.run.path / "results.jsonl")
        results.add("reference", [summarise_loss(*self.model.val_examples)])
        print_summary(self.run.path, settings=read_settings(self.read_config()))
