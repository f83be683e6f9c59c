"""A study that was never run, with its statistics, for the tests of its report."""

import dataclasses
from pathlib import Path

import pytest

from safety_lightning.study.statistics import StatisticsSettings, write_statistics
from tests.study.world import World, write_energies, write_overlaps, write_settings, write_values

PLANTED = World(
    learning=lambda fraction: 1 - 0.1 * fraction,
    harm=lambda fraction: max(0.0, 1 - 4 * fraction),
    blunt=lambda alpha: alpha**0.9,
    fractions=(0.01, 0.25, 0.5),
    rivals={"safe_lora": (0.8, 0.3)},
    num_prompts=40,
)


def make_study(study: Path, world: World = PLANTED) -> Path:
    """Writes values, overlaps, energies, settings and statistics."""
    write_values(study, world)
    write_overlaps(study)
    write_energies(study)
    write_settings(study, config={"base": "Qwen/Qwen2.5-1.5B", "reference": "Qwen/Qwen2.5-1.5B-Instruct"})
    write_statistics(study, StatisticsSettings(num_resamples=200))
    return study


@pytest.fixture(scope="session")
def planted_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("planted") / "study")


@pytest.fixture(scope="session")
def bare_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the contaminated fine-tune alone, without overlaps and settings."""
    study = tmp_path_factory.mktemp("bare") / "study"
    write_values(study, dataclasses.replace(PLANTED, kinds=("contaminated",)))
    write_statistics(study, StatisticsSettings(num_resamples=200))
    return study
