"""The activations command: values against the reference, null and intervals, profiles, resume, bad input."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from safety_lightning import compare_activations
from safety_lightning.activations.storage import ActivationFolder, save_index
from safety_lightning.cli import main
from safety_lightning.overlap import ActivationRow, AngleRow, AverageRow
from safety_lightning.tables import read_parquet
from tests import reference
from tests.overlap.conftest import HIDDEN_SIZE, NUM_LAYERS, draw_hidden, interrupt, save_activations

ETAS = [0.5, 0.9]
pytestmark = pytest.mark.usefixtures("without_figures")


def run(folders: dict[str, str], out: Path, *names: str, **options: object) -> Path:
    sets = {name: folders[name] for name in names or ("first", "alike", "other")}
    given = {"etas": ETAS, "num_permutations": 8, "num_resamples": 4, "console": Console(quiet=True)} | options
    return compare_activations(sets, out=out, device="cpu", **given)


def read_rows(out: Path) -> list[ActivationRow]:
    return read_parquet(out / "overlap.parquet", ActivationRow)


def read_average(out: Path) -> dict[tuple[str, str, float], AverageRow]:
    return {(row.profile, row.pair, row.eta): row for row in read_parquet(out / "average.parquet", AverageRow)}


def test_rows_hold_what_the_reference_finds(activation_folders: dict[str, str], tmp_path: Path) -> None:
    rows = read_rows(run(activation_folders, tmp_path / "out"))
    assert {row.pair for row in rows} == {"first vs alike", "first vs other", "alike vs other"}
    assert len(rows) == 3 * len(ETAS) * (NUM_LAYERS + 1)
    for row in rows:
        hidden = [
            ActivationFolder(activation_folders[name]).read_layer(row.layer).double().numpy()
            for name in row.pair.split(" vs ")
        ]
        assert [row.num_a, row.num_b] == [len(one) for one in hidden]
        centred = [one - one.mean(0) for one in hidden]
        plain = reference.overlap(*hidden, row.eta, "right")
        assert row.mso_uncentred == pytest.approx(plain, abs=1e-5)
        if row.layer == 0:  # one and the same token for all
            assert (row.mso, row.k_a, row.low, row.null_low) == (None, 0, None, None)
            continue
        assert row.mso == pytest.approx(reference.overlap(*centred, row.eta, "right"), abs=1e-5)
        assert (row.dimension, row.chance) == (HIDDEN_SIZE, max(row.k_a, row.k_b) / HIDDEN_SIZE)


def test_centring_null_and_interval_tell_sets_apart(activation_folders: dict[str, str], tmp_path: Path) -> None:
    average = read_average(run(activation_folders, tmp_path / "out", num_permutations=20, num_resamples=10))
    alike, other = (average["sound", f"first vs {name}", 0.9] for name in ("alike", "other"))
    assert alike.mso > alike.null_low
    assert other.mso < other.null_low
    assert other.p_value == pytest.approx(1 / 21)
    assert other.mso_uncentred > 0.99  # the mean that both share is all that uncentred modes see
    for row in average.values():
        assert row.low <= row.mso <= row.high
        assert row.null_low <= row.null_high


def test_average_is_over_the_layers_in_range(activation_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(activation_folders, tmp_path / "out", "first", "other", depth=[0, 0.5])
    row = read_average(out)["sound", "first vs other", 0.5]
    assert (row.first_layer, row.last_layer, row.num_layers, row.num_excluded) == (0, 2, 2, 1)
    layers = [one for one in read_rows(out) if one.eta == 0.5 and one.layer in (1, 2)]
    assert row.mso == pytest.approx(sum(one.mso for one in layers) / 2)
    assert row.excess == pytest.approx(sum(one.excess for one in layers) / 2)


def test_profiles_part_in_centring(
    activation_folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(activation_folders, tmp_path / "out", compare_profiles=True, console=Console(width=100))
    average = read_average(out)
    for pair in ("first vs alike", "first vs other"):
        sound, paper = average["sound", pair, 0.9], average["paper", pair, 0.9]
        assert paper.mso == paper.mso_uncentred == sound.mso_uncentred
        assert sound.mso < paper.mso
    printed = capsys.readouterr().out
    assert "overlap, sound" in printed
    assert "overlap, paper" in printed
    assert (
        "Profile paper (activation centring: False, token: prompt, activation token position: last_attended)" in printed
    )
    assert "A set does not vary in layer 0" in printed


def test_sets_of_the_papers_capture_are_its_side_of_the_comparison(
    activation_folders: dict[str, str], tmp_path: Path
) -> None:
    sets = {"first": activation_folders["first"], "second": activation_folders["other"]}
    papers = {"first": activation_folders["first"], "second": activation_folders["alike"]}
    given = {"etas": ETAS, "num_permutations": 0, "num_resamples": 0, "console": Console(quiet=True), "device": "cpu"}
    out = compare_activations(sets, paper_sets=papers, compare_profiles=True, out=tmp_path / "out", **given)
    average = read_average(out)
    direct = read_average(run(activation_folders, tmp_path / "direct", "first", "alike", num_permutations=0))
    wanted = direct["sound", "first vs alike", 0.9].mso_uncentred
    assert average["paper", "first vs second", 0.9].mso == wanted
    assert average["sound", "first vs second", 0.9].mso_uncentred != wanted
    with pytest.raises(ValueError, match=r"paper_sets must be the sets .* under compare_profiles"):
        compare_activations(sets, paper_sets=papers, out=tmp_path / "no", **given)
    with pytest.raises(ValueError, match=r"got \['first'\]"):
        compare_activations(sets, paper_sets={"first": ""}, compare_profiles=True, out=tmp_path / "no", **given)


def test_draws_can_be_left_out_or_kept_to_the_averaged_layers(
    activation_folders: dict[str, str], tmp_path: Path
) -> None:
    names = ("first", "other")
    every = read_average(run(activation_folders, tmp_path / "every", *names))
    some = run(activation_folders, tmp_path / "some", *names, draw_layers="averaged")
    assert read_average(some) == every
    assert {row.layer for row in read_rows(some) if row.null_low is not None} == {3}
    none = run(activation_folders, tmp_path / "none", *names, num_permutations=0, num_resamples=0)
    assert {(row.null_low, row.p_value, row.low) for row in read_rows(none)} == {(None, None, None)}


def test_folder_of_several_prompt_sets_is_told_apart(tmp_path: Path) -> None:
    hidden = torch.cat([draw_hidden(9, seed=0), draw_hidden(8, seed=1, directions=[9])])
    both = save_activations(tmp_path / "both", hidden, sets=["useful"] * 9 + ["harmful"] * 8)
    for name in ("useful", "harmful"):
        rows = slice(0, 9) if name == "useful" else slice(9, 17)
        save_activations(tmp_path / name, hidden[rows])
    folders = {name: str(tmp_path / name) for name in ("useful", "harmful")}
    alone = read_rows(run(folders, tmp_path / "a", "useful", "harmful"))
    by_name = read_rows(run(dict.fromkeys(folders, str(both)), tmp_path / "b", "useful", "harmful"))
    marked = {"one": f"{both}#useful", "two": f"{both}#harmful"}
    by_mark = read_rows(run(marked, tmp_path / "c", "one", "two", num_permutations=0, num_resamples=0))
    assert [row.mso for row in alone] == [row.mso for row in by_name] == [row.mso for row in by_mark]
    assert {(row.num_a, row.num_b) for row in by_mark} == {(9, 8)}
    with pytest.raises(ValueError, match=r"set one must be one of the prompt sets of .* \(useful, harmful\), got no"):
        run({"one": f"{both}#no", "two": str(both)}, tmp_path / "d", "one", "two")


def test_prompts_of_both_sets_are_counted(
    activation_folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"first": activation_folders["first"], "again": activation_folders["first"]}
    run(sets, tmp_path / "out", "first", "again", console=Console(width=100))
    assert "first vs again: 40 prompts are in both sets" in capsys.readouterr().out
    rows = [row for row in read_rows(tmp_path / "out") if row.layer > 0]
    assert all(row.mso == pytest.approx(1) for row in rows)


def test_angles_are_written_where_asked_for(activation_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(activation_folders, tmp_path / "out", "first", "other", angle_etas=[0.9])
    angles = read_parquet(out / "angles.parquet", AngleRow)
    assert [row.where for row in angles] == [f"layer {layer}" for layer in range(1, NUM_LAYERS + 1)]
    values = {f"layer {row.layer}": row.mso for row in read_rows(out) if row.eta == 0.9}
    assert all(row.mso == pytest.approx(values[row.where], abs=1e-5) for row in angles)


def test_killed_run_resumes_and_equals_one_that_was_not(activation_folders: dict[str, str], tmp_path: Path) -> None:
    whole = run(activation_folders, tmp_path / "whole", angle_etas=[0.9])
    killed = tmp_path / "killed"
    kept = interrupt(whole, killed, num_parts=2)
    run(activation_folders, killed, angle_etas=[0.9])
    assert all(part.stat().st_mtime_ns == written for part, written in kept.items())
    assert len(list(killed.glob("parts/*.json"))) == NUM_LAYERS + 1
    for name in ("overlap.csv", "average.csv", "angles.csv", "config.yaml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(ValueError, match="differs in settings"):
        run(activation_folders, killed, seed=1)


def test_manifest_knows_the_inputs(activation_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(activation_folders, tmp_path / "out", "first", "other")
    inputs = json.loads((out / "manifest.json").read_text())["recipe"]["inputs"]["sound"]
    assert len(inputs["first"]["prompts"]) == 40
    assert list(inputs["first"]["files"]) == [f"activations-{number:05d}.safetensors" for number in range(6)]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("first",), {}, r"sets must be at least two, got \['first'\]"),
        (("first", "other"), {"etas": [0.0]}, r"etas must be in \(0, 1\], got 0.0"),
        (("first", "other"), {"etas": [0.5, 0.5]}, "etas must be different, got 0.5 twice"),
        (("first", "other"), {"num_resamples": -1}, "num_resamples must be 0 or more, got -1"),
        (("first", "other"), {"depth": [0.9, 0.5]}, r"depth must be two rising numbers in \[0, 1\], got \[0.9, 0.5\]"),
        (("first", "other"), {"angle_etas": [0.7]}, "angle_etas must be among the etas"),
    ],
)
def test_bad_settings_are_one_error_and_nothing_written(
    activation_folders: dict[str, str], tmp_path: Path, names: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(activation_folders, tmp_path / "out", *names, **options)
    assert not (tmp_path / "out").exists()


def make_bad(tmp_path: Path, what: str) -> str:
    hidden = draw_hidden(9, seed=3)
    overrides = {
        "model": {"model": "other", "model_hashes": {"model.safetensors": "2"}},
        "token": {"token": "mean"},
    }.get(what, {})
    if what == "layers":
        hidden = hidden[:, :-1]
    elif what == "size":
        hidden = hidden[..., :-1]
    elif what == "single":
        hidden = hidden[:1]
    elif what == "nan":
        hidden[4, 3, 2] = math.nan
    folder = save_activations(tmp_path / what, hidden, **overrides)
    if what == "empty":
        save_index(folder, dataclasses.replace(ActivationFolder(folder).index, prompts=[]))
    elif what == "shard":
        (folder / "activations-00001.safetensors").unlink()
    return str(folder)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("model", "sets first and bad must be of one model, got lab:aligned and other, whose weights differ"),
        ("token", "sets first and bad must have the same token, got prompt and mean"),
        ("layers", "sets first and bad must have the same num_layers, got 4 and 3"),
        ("size", "sets first and bad must have the same hidden_size, got 16 and 15"),
        ("single", "set bad must have at least two prompts, got 1"),
        ("empty", "must list at least one prompt, got none"),
        ("shard", "shard .*activations-00001.safetensors must exist, it is missing"),
        ("nan", r"set bad .* activations must be finite, got NaN or infinity in layer 3 of prompt nan-4"),
    ],
)
def test_bad_folders_are_one_error_and_nothing_written(
    activation_folders: dict[str, str], tmp_path: Path, what: str, message: str
) -> None:
    folders = activation_folders | {"bad": make_bad(tmp_path, what)}
    with pytest.raises(ValueError, match=message):
        run(folders, tmp_path / "out", "first", "bad")
    assert not (tmp_path / "out").exists()


def test_command_line_takes_names_and_folders(
    activation_folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sets", *(f"{name}={activation_folders[name]}" for name in ("first", "other"))]
    draws = ["--num_permutations", "5", "--num_resamples", "5", "--draw_layers", "averaged"]
    main(["overlap", "activations", *words, "--out", str(tmp_path / "o"), *draws, "--depth", "0.5", "0.8"])
    printed = capsys.readouterr().out
    assert "mean over layers 2 to 3" in printed
    assert "null band" in printed
    with pytest.raises(SystemExit) as stopped:
        main(["overlap", "activations", *words, words[-1]])
    assert stopped.value.code == 2
    assert "each name once, got 'other' twice" in capsys.readouterr().err
