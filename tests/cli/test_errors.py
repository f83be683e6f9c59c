"""Errors of options begin with the key, and say what was wanted and what was found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from safety_lightning.cli.errors import clean_types, shorten
from safety_lightning.cli.suggestions import list_keys


@pytest.mark.parametrize(
    ("words", "first", "hint"),
    [
        (
            ["--projection.fractoin", "0.5"],
            "unrecognized arguments: --projection.fractoin",
            "projection.subspace.fraction",
        ),
        (["--trainer.max_stepss", "3"], "unrecognized arguments: --trainer.max_stepss 3", "trainer.max_steps"),
        (["--data.kind", "contaminatd"], "data.kind must be one of 'useful', 'harmful'", None),
        (["--data.batch_size", "x"], "data.batch_size must be int, got x", None),
        (["--data.batch_size", ""], "data.batch_size must be int, got nothing", None),
        (["--config", "data: {batch_size: null}"], "data.batch_size must be a value, got null", None),
        (["--config", "trainer: null"], "trainer must be keys and values, got null", None),
        (["--config", "projection: []"], "projection must be keys and values, got []", None),
        (
            ["--model.optimizer", "torch.optim.AdamX"],
            "model.optimizer: module 'torch.optim' has no",
            "torch.optim.Adam",
        ),
        (["--model.optimizer", "AdamX"], "model.optimizer: there is no class AdamX", "Adam"),
        (
            ["--model.optimizer", "torch.nn.Linear"],
            "model.optimizer must be Optimizer, got torch.nn.Linear",
            None,
        ),
        (["--model.optimizer", "AdamW", "--model.optimizer.lrr", "1"], "model.optimizer: Option 'lrr' is not", "lr"),
        (
            ["--trainer.callbacks", "LearningRateMonitr"],
            "trainer.callbacks: there is no class Learn",
            "LearningRateMonitor",
        ),
        (
            ["--trainer.callbacks", "torch.nn.ReLU"],
            "trainer.callbacks must be list or Callback or null, got torch.nn.ReLU",
            None,
        ),
        (
            ["--trainer.accelerator", "nope"],
            "the Trainer must be made of options it takes, got: You selected an invalid accelerator name",
            None,
        ),
        (
            ["--trainer.devices", "0"],
            "the Trainer must be made of options it takes, got: `Trainer(devices='0')` value is not a valid input",
            None,
        ),
        (
            ["--trainer.limit_val_batches", "-3"],
            "the Trainer must be made of options it takes, got: You have passed invalid value -3",
            None,
        ),
        (
            ["--checkpoint.save_top_k", "-7"],
            "the Trainer's options must fit, got: Invalid value for save_top_k=-7",
            None,
        ),
        (["--seed_everything", "-1"], "seed_everything: ", None),
        (["--data.useful.size", "0"], "size must be at least 1, got 0", None),
        (["--run_dir", "~nobody-at-all/x"], "run folder ~nobody-at-all/x must be a path", None),
    ],
)
def test_first_line_matters(words: list[str], first: str, hint: str | None, parse_fit: Callable[..., Any]) -> None:
    error = parse_fit(*words)
    assert error.startswith(f"error: {first}"), error
    assert (f"\nDid you mean {hint}?\n" in error) == (hint is not None), error


def test_another_form_of_message_stays() -> None:
    assert shorten("Nothing\n  of the kind") == "Nothing\nof the kind"
    assert clean_types("<class 'a.B'> or <class 'int'>") == "B or int"


@dataclass
class _Settings:
    size: int = 1


def test_private_names_of_the_parser_are_there() -> None:
    parser = ArgumentParser()
    parser.add_argument("--own", type=_Settings | None, default=None)
    assert "own.size" in list_keys(parser), "jsonargparse changed: list_keys in cli/suggestions.py must be mended"
