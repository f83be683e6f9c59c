"""The verb `predict`: captures activations of prompt sets."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from safety_lightning.activations import ActivationModule, ActivationWriter, PromptData, check_trainer
from safety_lightning.checkpoints import check_model
from safety_lightning.cli.errors import PROGRAM
from safety_lightning.cli.verbs.base import VerbCLI
from safety_lightning.cli.verbs.resuming import PROCESSES
from safety_lightning.profiles import CAPTURE_SETTINGS, name_profile, read_settings


class PredictCLI(VerbCLI):
    """Captures activations; a group of its own: `writer`."""

    verb = "predict"
    outputs = ("writer.folder",)
    may_change: ClassVar[tuple[str, ...]] = PROCESSES
    before_predict, after_predict = VerbCLI.prepare_run, VerbCLI.finish_run
    module_class = ActivationModule
    data_class = PromptData
    trainer_options: ClassVar[dict[str, Any]] = {
        "use_distributed_sampler": False,
        "precision": "32-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the writer; the data reads responses when the model is to be given them."""
        parser.add_lightning_class_args(ActivationWriter, "writer")
        parser.link_arguments("model.response", "data.with_responses", compute_fn=lambda response: response == "given")

    def place_outputs(self, config: Any) -> None:
        """Puts activations into the run folder; the Trainer keeps none of them."""
        config.writer.folder = config.writer.folder or str(self.run.path / "activations")
        config.return_predictions = False
        self.check_last(config)

    def check(self) -> None:
        """Checks Trainer, run folder, prompts and weights."""
        check_trainer(self.trainer)
        self.check_folder()
        self.model.checkpoint = check_model(self.model.reference)
        self._find_writer().prepare(self.model, self.datamodule)
        self.check_folder(num_bytes=self._find_writer().estimate_bytes())

    def describe_inputs(self) -> dict[str, Any]:
        """Returns hashes of weights, prompts and settings, and counts of prompts."""
        weights = self.model.checkpoint.hash_files()
        settings = self._read_settings()
        return {
            "profile": name_profile(settings),
            "settings": settings,
            "inputs": {
                "weights": {"model": weights},
                "data": self.datamodule.input_hashes(),
                "settings": self._find_writer().recipe_hash,
            },
            "data": self.datamodule.summary(),
        }

    def finish(self) -> None:
        """Prints the folders that hold the activations, and what is in them."""
        folder = self._find_writer().folder
        summary = self.datamodule.summary()
        for name, counts in summary.items():
            left_out = [f"{counts['num_repeated']} repeated", f"{counts['num_blank']} without text"]
            if "num_unmatched" in counts:
                left_out.append(f"{counts['num_unmatched']} without a match in length")
            print(
                f"{name}: {counts['num_prompts']} prompts of {counts['shortest_tokens']} to {counts['longest_tokens']} "
                f"tokens (left out: {', '.join(left_out)}) in {folder}/{name}"
            )
        print(f"Profile {name_profile(self._read_settings())}. {_name_next(f'{folder}/{name}' for name in summary)}")

    def _read_settings(self) -> dict[str, Any]:
        return read_settings(self.read_config(), CAPTURE_SETTINGS)

    def _find_writer(self) -> ActivationWriter:
        (writer,) = [one for one in self.trainer.callbacks if isinstance(one, ActivationWriter)]  # type: ignore[attr-defined]
        return writer


def _name_next(folders: Iterable[str]) -> str:
    """Returns the command that compares the sets, as it is typed."""
    sets = [f"{Path(folder).name}={folder}" for folder in folders]
    if len(sets) < 2:
        sets.append("OTHER=DIR")
    words = shlex.join(["overlap", "activations", "--sets", *sets])
    return f"Next: {PROGRAM} {words}"
