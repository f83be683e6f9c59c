"""Profiles choose what is not given, and each of their settings is one of the commands'."""

import dataclasses

import pytest

from safety_lightning.overlap.depth import find_averaged_layers, mark_layers
from safety_lightning.overlap.settings import (
    ActivationRun,
    ActivationSettings,
    WeightRun,
    WeightSettings,
    choose_profiles,
)
from safety_lightning.profiles import OVERLAP_SETTINGS, SETTINGS, name_profile

RUNS = {
    WeightSettings: WeightRun(reference="lab:aligned", updates={}),
    ActivationSettings: ActivationRun(sets={}),
}


def test_profile_settings_are_settings_of_a_command_and_part() -> None:
    sound, paper = (
        {name: value for one in RUNS for name, value in vars(one().resolve(profile)).items()}
        for profile in ("sound", "paper")
    )
    for setting in OVERLAP_SETTINGS:
        prefix, _, name = setting.key.partition(".")
        assert prefix == "overlap"
        assert (sound[name], paper[name]) == (setting.sound, setting.paper)
        assert setting.sound != setting.paper
    assert len({setting.name for setting in OVERLAP_SETTINGS}) == len(OVERLAP_SETTINGS)


@pytest.mark.parametrize("settings_class", RUNS)
def test_resolved_settings_have_nothing_open(settings_class: type) -> None:
    open_settings = settings_class(**{field.name: None for field in dataclasses.fields(settings_class)})
    assert open_settings.resolve("sound") == settings_class().resolve("sound")
    assert None not in vars(settings_class().resolve("paper")).values()


def test_settings_of_one_name_agree_among_commands() -> None:
    by_name = {setting.name: setting for setting in SETTINGS}
    for setting in OVERLAP_SETTINGS:
        if setting.name in by_name:  # `name_profile` knows settings by their names alone
            assert (setting.paper, setting.sound) == (by_name[setting.name].paper, by_name[setting.name].sound)


@pytest.mark.parametrize("settings_class", RUNS)
def test_profiles_choose_what_is_not_given(settings_class: type) -> None:
    for profile in ("sound", "paper"):
        run = dataclasses.replace(RUNS[settings_class], profile=profile)
        [(name, settings)] = choose_profiles(settings_class, run).items()
        assert type(settings) is settings_class
        assert name == settings.find_profile() == name_profile(settings.read_departures()) == profile
    run = dataclasses.replace(RUNS[settings_class], profile="paper", compare_profiles=True, seed=3)
    both = choose_profiles(settings_class, run)
    assert list(both) == ["paper", "sound"]
    assert {settings.seed for settings in both.values()} == {3}


def test_given_settings_outweigh_the_profile() -> None:
    run = dataclasses.replace(RUNS[WeightSettings], profile="paper", tied="once")
    [(name, settings)] = choose_profiles(WeightSettings, run).items()
    assert (name, settings.tied, settings.zero_updates) == ("mixed", "once", "one")


@pytest.mark.parametrize("num_layers", [1, 2, 3, 12, 28, 30, 36])
def test_marked_and_averaged_layers_exist(num_layers: int) -> None:
    marked = mark_layers(num_layers)
    assert sorted(one for found in marked.values() for one in found) == [70, 80, 85]
    assert all(1 <= layer <= num_layers for layer in marked)
    averaged = find_averaged_layers(num_layers, (0.65, 0.9))
    assert averaged == list(range(averaged[0], averaged[-1] + 1))
    if num_layers >= 12:
        assert all(0.65 <= layer / num_layers <= 0.9 for layer in averaged)
        assert set(marked) <= set(averaged)
