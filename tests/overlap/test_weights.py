"""The weights command: values against the reference, what is left out, profiles, resume, bad input."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from safety_lightning import compare_weights
from safety_lightning.checkpoints import CheckpointReader, reader
from safety_lightning.cli import main
from safety_lightning.overlap import AngleRow, LayerRow, OverlapMatrixRow
from safety_lightning.overlap.weights import compare
from safety_lightning.tables import read_parquet
from tests import reference
from tests.conftest import copy_checkpoint, make_pico_llama
from tests.overlap.conftest import interrupt

ETAS = [0.5, 0.9]
pytestmark = pytest.mark.usefixtures("without_figures")


def run(folders: dict[str, str], out: Path, *names: str, **options: object) -> Path:
    updates = {name: folders[name] for name in names or ("useful", "harmful")}
    given = {"etas": ETAS, "console": Console(quiet=True), "device": "cpu"} | options
    return compare_weights(folders["reference"], updates, out=out, **given)


def read_rows(out: Path, pair: str | None = None) -> list[OverlapMatrixRow]:
    return [row for row in read_parquet(out / "overlap.parquet", OverlapMatrixRow) if pair in (None, row.pair)]


def read_layers(out: Path) -> list[LayerRow]:
    return read_parquet(out / "layers.parquet", LayerRow)


def test_rows_hold_what_the_reference_finds(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out", base=weight_folders["base"])
    names = {"base": "base", "start": "reference", "useful": "useful", "harmful": "harmful"}
    tensors = {key: load_file(Path(weight_folders[name]) / "model.safetensors") for key, name in names.items()}
    updates = {
        "useful": lambda name: tensors["useful"][name] - tensors["start"][name],
        "harmful": lambda name: tensors["harmful"][name] - tensors["start"][name],
        "delta": lambda name: tensors["start"][name] - tensors["base"][name],
    }
    rows = read_rows(out)
    assert {row.pair for row in rows} == {"useful vs harmful", "useful vs delta", "harmful vs delta"}
    assert len(rows) == 3 * len(ETAS) * len(tensors["base"])
    for row in rows:
        pair = [updates[name](row.tensor).float().numpy() for name in row.pair.split(" vs ")]
        first, second = (one.reshape(len(one), -1) for one in pair)
        assert row.mso == pytest.approx(reference.overlap(first, second, row.eta), abs=1e-4)
        ranks = [reference.modes(one, row.eta).shape[1] for one in (first, second)]
        assert ([row.k_a, row.k_b], row.dimension) == (ranks, len(first))
        assert row.chance == max(ranks) / len(first)
        assert row.is_forced == (sum(ranks) > len(first))


def test_each_file_is_read_twice(
    weight_folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 0

    def count_tensor(self: CheckpointReader, name: str, index: int | None) -> torch.Tensor:
        nonlocal num_bytes
        tensor = read_part(self, name, index)
        num_bytes += tensor.numel() * tensor.element_size()
        return tensor

    def count_file(file: Path) -> Iterator[tuple[str, bytearray]]:
        nonlocal num_bytes
        for key, data in read_pieces(file):
            num_bytes += len(data)
            yield key, data

    read_part, read_pieces = CheckpointReader.read_part, reader._read_pieces
    monkeypatch.setattr(CheckpointReader, "read_part", count_tensor)
    monkeypatch.setattr(reader, "_read_pieces", count_file)
    run(weight_folders, tmp_path / "out", base=weight_folders["base"])
    opened = [weight_folders[name] for name in ("base", "reference", "useful", "harmful")]
    size = sum((Path(folder) / "model.safetensors").stat().st_size for folder in opened)
    assert 1.8 * size < num_bytes < 2.02 * size


def test_csv_holds_the_columns_that_were_promised(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out")
    with (out / "overlap.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    wanted = ["pair", "tensor", "layer", "eta", "k_a", "k_b", "dimension", "mso", "chance", "excess"]
    assert set(wanted) <= set(rows[0])
    parquet = read_rows(out)
    assert [float(row["mso"]) for row in rows] == [row.mso for row in parquet]
    assert [row["layer"] for row in rows] == ["" if row.layer is None else str(row.layer) for row in parquet]


def test_layers_are_means_over_matrices_and_marked(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out")
    rows, layers = read_rows(out), read_layers(out)
    assert {row.layer for row in layers} == {None, 0, 1, 2, 3}
    for layer in layers:
        found = [r for r in rows if (r.layer, r.eta) == (layer.layer, layer.eta) and "norm" not in r.tensor]
        assert layer.num_tensors == len(found) == (1 if layer.layer is None else 7)
        assert layer.mso == pytest.approx(sum(r.mso for r in found) / len(found))
        assert layer.excess == pytest.approx(sum(r.excess for r in found) / len(found))
    marks = {row.layer: row.percentile for row in layers if row.percentile}
    assert marks == {2: "70/80/85 %"}


def test_zero_updates_are_excluded_and_counted(
    weight_folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(weight_folders, tmp_path / "out", "useful", "partial", console=Console(width=200))
    undefined = [row for row in read_rows(out) if row.mso is None]
    assert {row.kind for row in undefined} == {"q_proj", "norm"}
    assert all((row.k_b, row.chance, row.excess) == (0, None, None) for row in undefined)
    layers = [row for row in read_layers(out) if row.layer is not None]
    assert {(row.num_tensors, row.num_excluded) for row in layers} == {(6, 1)}
    assert "updates are zero in: 5 of partial" in capsys.readouterr().out


def test_ceilings_are_the_overlap_of_two_seeds(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out", ceilings={"useful": weight_folders["useful2"]})
    rows = read_rows(out)
    assert {row.pair for row in rows} == {"useful vs harmful"}
    assert {row.ceiling_b for row in rows} == {None}
    direct = read_rows(run(weight_folders, tmp_path / "direct", "useful", "useful2"))
    assert [row.ceiling_a for row in rows] == [row.mso for row in direct]
    [mean, ceiling] = [
        sum(getattr(row, name) for row in rows if row.eta == 0.5) / (len(rows) / 2) for name in ("mso", "ceiling_a")
    ]
    assert ceiling > 2 * mean


def test_profiles_part_where_they_should(
    weight_folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "LARGE_ROWS", 40)  # the embedding of 48 rows is large, as are the up projections
    out = run(weight_folders, tmp_path / "out", "useful", "partial", compare_profiles=True)
    rows = read_rows(out)
    sound, paper = ({(r.tensor, r.eta): r for r in rows if r.profile == name} for name in ("sound", "paper"))
    assert {tensor for tensor, _ in set(paper) - set(sound)} == {"lm_head.weight"}
    assert paper["lm_head.weight", 0.9].mso == paper["model.embed_tokens.weight", 0.9].mso
    for key, row in sound.items():
        if row.mso is None:
            assert (paper[key].mso, paper[key].chance) == (1.0, None)
        elif row.dimension > 40 and "norm" not in row.tensor:
            assert paper[key].k_a <= row.k_a
        else:
            assert paper[key].mso == row.mso
    assert any(paper[key].mso != row.mso for key, row in sound.items() if row.dimension > 40)


def test_single_settings_make_a_mixed_profile(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out", zero_updates="one")
    assert {row.profile for row in read_rows(out)} == {"mixed"}
    paper = run(weight_folders, tmp_path / "paper", profile="paper")
    assert {row.profile for row in read_rows(paper)} == {"paper"}
    both = run(weight_folders, tmp_path / "both", compare_profiles=True, tied="once")
    assert not any(row.tensor == "lm_head.weight" for row in read_rows(both))


def test_selection_side_and_vectors(weight_folders: dict[str, str], tmp_path: Path) -> None:
    rows = read_rows(run(weight_folders, tmp_path / "a", include=["*mlp.up_proj*"], side="right"))
    assert {(row.kind, row.dimension) for row in rows} == {("up_proj", 32)}
    rows = read_rows(run(weight_folders, tmp_path / "b", exclude=["*mlp*"], vectors="skip"))
    assert {row.kind for row in rows} == {"q_proj", "k_proj", "v_proj", "o_proj", "embed_tokens"}
    outside = run(weight_folders, tmp_path / "c", include=["model.embed*"])
    assert [row.layer for row in read_layers(outside)] == [None, None]


def test_angles_are_written_where_asked_for(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out", "useful", "partial", angle_etas=[0.9])
    angles = {row.where: row for row in read_parquet(out / "angles.parquet", AngleRow)}
    for row in read_rows(out):
        if row.mso is None:
            assert row.tensor not in angles
        elif row.eta == 0.9:
            assert angles[row.tensor].mso == pytest.approx(row.mso, abs=1e-5)
            assert angles[row.tensor].num_angles == min(row.k_a, row.k_b)
            assert 0 <= angles[row.tensor].smallest <= angles[row.tensor].median <= angles[row.tensor].largest <= 90


def test_folder_says_what_is_needed_to_repeat_the_run(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    hashes = manifest["recipe"]["inputs"]["useful"]["end"]
    assert list(hashes) == ["model.safetensors"]
    assert len(hashes["model.safetensors"]) == 64
    assert manifest["recipe"]["settings"]["sound"]["zero_updates"] == "exclude"
    assert "torch" in manifest["versions"]
    assert weight_folders["useful"] in (out / "config.yaml").read_text()
    assert not list(out.rglob("*.partial"))


def test_killed_run_resumes_and_equals_one_that_was_not(weight_folders: dict[str, str], tmp_path: Path) -> None:
    whole = run(weight_folders, tmp_path / "whole")
    killed = tmp_path / "killed"
    kept = interrupt(whole, killed, num_parts=5)
    run(weight_folders, killed)
    assert all(part.stat().st_mtime_ns == written for part, written in kept.items())
    for name in ("overlap.csv", "layers.csv", "config.yaml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    parts = {part: part.stat().st_mtime_ns for part in killed.glob("parts/*.json")}
    assert len(parts) == len(read_rows(whole)) / len(ETAS)
    run(weight_folders, killed)  # a finished run measures nothing anew
    assert {part: part.stat().st_mtime_ns for part in killed.glob("parts/*.json")} == parts
    assert (killed / "overlap.csv").read_bytes() == (whole / "overlap.csv").read_bytes()


def test_folder_of_something_else_is_left_alone(weight_folders: dict[str, str], tmp_path: Path) -> None:
    out = run(weight_folders, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    with pytest.raises(ValueError, match=r"the run in .* differs in settings: nothing is overwritten"):
        run(weight_folders, out, etas=[0.7])
    with pytest.raises(ValueError, match="differs in inputs"):
        run(weight_folders, out, "useful", "partial")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other holds something else"):
        run(weight_folders, other)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert [file.name for file in other.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("useful", "reference"), {}, "update reference must not be zero, .* identical in all"),
        (("useful",), {}, r"updates must be at least two \(base adds one\), got \['useful'\]"),
        (("useful", "harmful"), {"etas": [0.5, 1.2]}, r"etas must be in \(0, 1\], got 1.2"),
        (("useful", "harmful"), {"etas": [0.5, 0.5]}, "etas must be different, got 0.5 twice"),
        (("useful", "harmful"), {"angle_etas": [0.7]}, r"angle_etas must be among the etas \[0.5, 0.9\], got 0.7"),
        (("useful", "harmful"), {"ceilings": {"x": "y"}}, "ceilings must be of the updates .* got x"),
        (("useful", "harmful"), {"include": ["nothing*"]}, "pattern 'nothing\\*' must match a tensor"),
        (("useful", "harmful"), {"device": "nowhere"}, "device must be one that torch finds"),
    ],
)
def test_bad_input_is_one_error_and_nothing_written(
    weight_folders: dict[str, str], tmp_path: Path, names: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(weight_folders, tmp_path / "out", *names, **options)
    assert not (tmp_path / "out").exists()


def test_updates_that_do_not_fit_are_named(weight_folders: dict[str, str], tmp_path: Path) -> None:
    folders = dict(weight_folders)
    folders["wider"] = str(make_pico_llama(tmp_path / "wider", num_hidden_layers=4, intermediate_size=64))
    folders["deeper"] = str(make_pico_llama(tmp_path / "deeper", num_hidden_layers=5))
    with pytest.raises(ValueError, match=r"reference and update wider must have equal shapes, 12 tensors differ"):
        run(folders, tmp_path / "out", "useful", "wider")
    with pytest.raises(ValueError, match=r"reference and update deeper must hold the same tensors"):
        run(folders, tmp_path / "out", "useful", "deeper")
    with pytest.raises(ValueError, match="base and reference must have equal shapes"):
        run(folders, tmp_path / "out", "useful", base=folders["wider"])
    folders["delta"] = folders["useful"]
    with pytest.raises(ValueError, match="updates must not be called delta"):
        run(folders, tmp_path / "out", "delta", "harmful", base=folders["base"])
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_named(weight_folders: dict[str, str], tmp_path: Path) -> None:
    def break_last(name: str, weights: torch.Tensor) -> torch.Tensor:
        return weights.index_fill(0, torch.tensor([1]), math.nan) if name == "model.norm.weight" else weights

    folders = weight_folders | {
        "broken": str(copy_checkpoint(Path(weight_folders["useful"]), tmp_path / "b", break_last))
    }
    with pytest.raises(ValueError, match=r"tensor model.norm.weight of .* must be finite, got 1 NaN"):
        run(folders, tmp_path / "out", "useful", "broken")
    assert not (tmp_path / "out").exists()


def test_command_line_takes_names_and_folders(
    weight_folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--reference", weight_folders["reference"], "--base", weight_folders["base"], "--out", str(tmp_path / "o")]
    updates = [f"{name}={weight_folders[name]}" for name in ("useful", "harmful")]
    main(["overlap", "weights", *words, "--updates", *updates, "--etas", "0.5", "0.9"])
    printed = capsys.readouterr().out
    assert "useful vs delta" in printed
    assert "Profile sound" in printed
    assert {row.eta for row in read_rows(tmp_path / "o")} == set(ETAS)
    with pytest.raises(SystemExit) as stopped:
        main(["overlap", "weights", *words, "--updates", *updates, "--etas", "0.5", "2"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: etas must be in (0, 1], got 2")


def test_stacked_experts_are_matrices_of_their_own(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("reference", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "mixtral", "num_hidden_layers": 1}))
        experts = torch.randn(3, 8, 5, generator=generator)
        save_file({"model.layers.0.mlp.experts.up_proj": experts}, tmp_path / name / "model.safetensors")
    folders = {name: str(tmp_path / name) for name in ("reference", "one", "two")}
    rows = read_rows(run(folders, tmp_path / "out", "one", "two"))
    assert {row.tensor for row in rows} == {f"model.layers.0.mlp.experts.up_proj[{index}]" for index in range(3)}
    shutil.rmtree(tmp_path / "out")
