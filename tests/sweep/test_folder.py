"""The folder of a sweep: killed and gone on with, shared by processes, refused when it is another's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_lightning.files import PartStore
from safety_lightning.subspaces import decompose_delta, library
from safety_lightning.sweep import sweep as sweep_module
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow
from safety_lightning.tables import read_parquet
from tests.conftest import copy_checkpoint
from tests.kills import kill_and_finish
from tests.sweep.test_sweep import run

SAVED = ["*/top_k/*/0.5", "*/random/parallel/0.1"]


def list_files(folder: Path) -> dict[str, bytes]:
    """Returns every file but the manifest, which holds times."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("manifest.json", "config.yaml")}


def test_sweep_that_stopped_anywhere_ends_as_one_that_did_not(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"save_models": SAVED, "sources": ["top_k", "random"], "fractions": [0.1, 0.5]}
    expected = list_files(run(checkpoints, tmp_path / "whole", ("useful", "harmful"), **options))
    write = PartStore.write
    num_written = 0

    def stop_sometimes(*args: Any) -> None:
        nonlocal num_written
        num_written += 1
        if num_written % 4 == 0:
            raise KeyboardInterrupt  # after the weights of a tensor were written, before its part
        write(*args)

    monkeypatch.setattr(PartStore, "write", stop_sometimes)
    num_stops = 0
    while True:
        try:
            run(checkpoints, tmp_path / "broken", ("useful", "harmful"), **options)
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert not (tmp_path / "broken" / "energy.csv").exists()
    assert num_stops >= 4
    assert list_files(tmp_path / "broken") == expected


def test_finished_sweep_is_not_done_again(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(checkpoints, tmp_path / "out")
    before, printed = list_files(out), capsys.readouterr().out
    monkeypatch.setattr(sweep_module.Sweep, "run", None)
    run(checkpoints, out)
    assert list_files(out) == before
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_sweep_that_was_killed_ten_times_ends_as_one_that_was_not(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    words = ["project", "--base", str(checkpoints["base"]), "--reference", str(checkpoints["reference"])]
    words += ["--finetuned", str(checkpoints["useful"]), str(checkpoints["harmful"])]
    words += ["--save_models", "all", "--device", "cpu", "--out"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([sys.executable, "-m", "safety_lightning", *words, str(whole)], check=True, capture_output=True)
    parts = lambda: len(list((broken / "parts").glob("*.json")))  # noqa: E731
    assert kill_and_finish([*words, str(broken)], parts, num_kills=10) >= 5
    assert list_files(broken) == list_files(whole)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    words = ["project", "--base", str(checkpoints["base"]), "--reference", str(checkpoints["reference"])]
    words += ["--finetuned", str(checkpoints["useful"]), "--save_models", "*/0.5", "--rivals", "safe_lora"]
    words += ["--safe_lora.num_worst", "2", "--device", "cpu", "--out"]
    start = {
        "one": [sys.executable, "-m", "safety_lightning"],
        "two": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "safety_lightning"],
    }
    for name, command in start.items():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *words, str(tmp_path / name)], check=True, capture_output=True, env=environment)
    assert list_files(tmp_path / "two") == list_files(tmp_path / "one")


def test_shares_cover_all_tensors_and_weigh_alike() -> None:
    from safety_lightning.system.processes import share_out

    costs = [float(1 + number % 7) for number in range(50)]
    shares = [share_out(range(50), costs, rank=rank, num_processes=3) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(50))
    loads = [sum(costs[number] for number in share) for share in shares]
    assert max(loads) - min(loads) <= 7


def test_library_is_filled_once_and_serves_training_too(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_lightning.projection import SubspaceSpec, prepare_subspace

    folder = tmp_path / "library"
    first = run(checkpoints, tmp_path / "first", library=folder)
    num_tensors = len(load_file(checkpoints["base"] / "model.safetensors"))
    assert len(list(folder.iterdir())) == num_tensors

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("decomposed again")

    monkeypatch.setattr(library, "decompose_delta", refuse)
    second = run(checkpoints, tmp_path / "second", ("useful", "harmful"), library=folder)
    rows = [read_parquet(out / "energy.parquet", EnergyRow) for out in (first, second)]
    for one, other in zip(rows[0], [row for row in rows[1] if row.finetuned == "useful"], strict=True):
        assert other.energy_kept == pytest.approx(one.energy_kept, abs=1e-6)
    pair = {"base": str(checkpoints["base"]), "reference": str(checkpoints["reference"])}
    for source in ("top_k", "random_k"):
        spec = SubspaceSpec(**pair, source=source, fraction=0.5, library=str(folder))
        found = prepare_subspace(spec).subspace
        fresh = prepare_subspace(SubspaceSpec(**pair, source=source, fraction=0.5)).subspace
        for name, basis in fresh.bases.items():
            columns = found.bases[name].columns
            torch.testing.assert_close(columns @ columns.mT, basis.columns @ basis.columns.mT, atol=1e-5, rtol=0)


def test_library_makes_a_larger_rank_anew(tmp_path: Path) -> None:
    delta = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    known = library.DecompositionLibrary(tmp_path)
    assert known.decompose(delta, rank=3).rank == 3
    found = known.decompose(delta, rank=9)
    exact = decompose_delta(delta, rank=9)
    torch.testing.assert_close(found.vectors @ found.vectors.mT, exact.vectors @ exact.vectors.mT, atol=1e-6, rtol=0)
    assert known.decompose(delta).rank == 12
    assert known.decompose(delta, rank=2).rank == 2
    assert len(list(tmp_path.iterdir())) == 1
    [file] = tmp_path.iterdir()
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="must be a kept decomposition"):
        known.decompose(delta)


def test_folder_of_another_run_is_refused_and_left_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    out = run(checkpoints, tmp_path / "out")
    before = list_files(out)
    with pytest.raises(ValueError, match="holds one with other seed"):
        run(checkpoints, out, seed=1)
    with pytest.raises(ValueError, match="holds one with other inputs"):
        run(checkpoints, out, ("harmful",))
    assert list_files(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        run(checkpoints, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def spoil(source: Path, target: Path, name: str) -> Path:
    def change(tensor: str, weights: torch.Tensor) -> torch.Tensor:
        if tensor == name:
            weights.view(-1)[3] = float("nan")
        return weights

    return copy_checkpoint(source, target, change)


@pytest.mark.parametrize("where", ["base", "reference", "useful"])
def test_nan_is_named_or_skipped(checkpoints: dict[str, Path], tmp_path: Path, where: str) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    known = {**checkpoints, where: spoil(checkpoints[where], tmp_path / "bad", name)}
    with pytest.raises(ValueError, match=rf"tensor {name} of .* must be finite, got 1 NaN"):
        run(known, tmp_path / "out")
    assert not (tmp_path / "out" / "energy.csv").exists()
    out = run(known, tmp_path / "skipped", skip_bad=True, save_models=["*/top_k/parallel/0.5"])
    assert name not in {row.name for row in read_parquet(out / "tensors.parquet", SweepMatrixRow)}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["num_bad"] == 1
    assert name in manifest["left_out"]
    stored = load_file(out / "models" / known["useful"].name / "top_k/parallel/0.5/model.safetensors")
    expected = load_file(known["useful"] / "model.safetensors")[name]
    torch.testing.assert_close(stored[name], expected, equal_nan=True)


def test_vanished_input_stops_clearly_and_keeps_what_is_done(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = copy_checkpoint(checkpoints["useful"], tmp_path / "tuned", lambda name, weights: weights)
    write = PartStore.write
    num_written = 0

    def vanish(*args: Any) -> None:
        nonlocal num_written
        write(*args)
        num_written += 1
        if num_written == 3:
            (tuned / "model.safetensors").rename(tmp_path / "away")

    monkeypatch.setattr(PartStore, "write", vanish)
    known = {**checkpoints, "tuned": tuned}
    with pytest.raises(ValueError, match=r"stopped at tensor model\.\S+: .*What is finished is kept"):
        run(known, tmp_path / "out", ("tuned",))
    assert len(list((tmp_path / "out" / "parts").glob("*.json"))) == 3
    (tmp_path / "away").rename(tuned / "model.safetensors")
    run(known, tmp_path / "out", ("tuned",))
    run(known, tmp_path / "whole", ("tuned",))
    assert list_files(tmp_path / "out") == list_files(tmp_path / "whole")


def test_full_disk_stops_before_work(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ValueError, match=r"needs about .* the disk has 1.0 kB free"):
        run(checkpoints, tmp_path / "out", save_models=["all"])
    assert not (tmp_path / "out").exists()


def test_disk_that_fills_up_while_files_are_laid_out_leaves_nothing(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fill)
    with pytest.raises(ValueError, match=r"must have room for .* No space left on device"):
        run(checkpoints, tmp_path / "out", save_models=["all"])
    assert not (tmp_path / "out").exists()


def test_disk_that_is_full_when_a_sweep_resumes_costs_nothing(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    write = PartStore.write
    num_written = 0

    def stop_later(*args: Any) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > 3:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(PartStore, "write", stop_later)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoints, tmp_path / "out", save_models=SAVED)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        with pytest.raises(ValueError, match="must have room for"):
            run(checkpoints, tmp_path / "out", save_models=SAVED)
    assert len(list((tmp_path / "out" / "parts").glob("*.json"))) == 3


def test_base_that_is_the_reference_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base and reference must differ, .* there is no delta"):
        run({**checkpoints, "base": checkpoints["reference"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_left_is_an_empty_table(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    known = {**checkpoints, "bad": spoil(checkpoints["useful"], tmp_path / "bad", name)}
    out = run(known, tmp_path / "out", ("bad",), skip_bad=True, include=[name])
    assert read_parquet(out / "tensors.parquet", SweepMatrixRow) == []


def drop(source: Path, target: Path, name: str) -> Path:
    copy_checkpoint(source, target, lambda _, weights: weights)
    tensors = load_file(target / "model.safetensors")
    save_file({key: value for key, value in tensors.items() if key != name}, target / "model.safetensors")
    return target


def resize(source: Path, target: Path) -> Path:
    def change(name: str, weights: torch.Tensor) -> torch.Tensor:
        return torch.cat([weights, weights[:4]]) if name in ("lm_head.weight", "model.embed_tokens.weight") else weights

    return copy_checkpoint(source, target, change)


def test_bad_input_is_named_and_nothing_is_written(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def check(message: str, known: dict[str, Path] | None = None, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            run(known or checkpoints, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    lost = drop(checkpoints["useful"], tmp_path / "lost", "model.norm.weight")
    check(
        "reference and finetuned model lost must hold the same tensors", {**checkpoints, "lost": lost}, models=("lost",)
    )
    more = resize(checkpoints["useful"], tmp_path / "more")
    check(
        "reference and finetuned model more must have equal shapes, 2 tensors differ",
        {**checkpoints, "more": more},
        models=("more",),
    )
    half = copy_checkpoint(checkpoints["useful"], tmp_path / "half", lambda _, weights: weights.bfloat16())
    check("must not round those they were trained from", {**checkpoints, "half": half}, models=("half",))
    mixed = copy_checkpoint(
        checkpoints["useful"], tmp_path / "mixed", lambda n, w: w.bfloat16() if "q_proj" in n else w
    )
    check("stores matrices in torch.bfloat16 and torch.float32", {**checkpoints, "mixed": mixed}, models=("mixed",))
    cut = copy_checkpoint(checkpoints["useful"], tmp_path / "cut", lambda _, weights: weights)
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    check("is truncated or is no safetensors file", {**checkpoints, "cut": cut}, models=("cut",))
    index = copy_checkpoint(checkpoints["useful"], tmp_path / "index", lambda _, weights: weights)
    (index / "model.safetensors").unlink()
    (index / "model.safetensors.index.json").write_text('{"weight_map": {"a": "absent.safetensors"}}')
    check("names 1 absent file", {**checkpoints, "index": index}, models=("index",))
    check("fractions must be different, got 0.5 twice", fractions=[0.5, 0.5])
    check(r"fraction must be in \(0, 1\], got 1.5", fractions=[1.5])
    check("sources must be different, got top_k twice", sources=["top_k", "top_k"])
    check("must make at least one variant", sources=[])
    check("'F/top_k' matches none of 18", save_models=["F/top_k"])
    check("must have different names, got useful twice", models=("useful", "useful"))
    check("must name at least one model", models=())
    check("num_leak_columns must be at least 0, got -1", num_leak_columns=-1)
    if not torch.cuda.is_available():
        check("device must be one that torch finds, such as cpu or cuda:0, got cuda", device="cuda")


def test_rounded_checkpoints_are_accepted_when_asked_for(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    half = copy_checkpoint(checkpoints["useful"], tmp_path / "half", lambda _, weights: weights.bfloat16())
    known = {**checkpoints, "half": half}
    out = run(known, tmp_path / "out", ("half",), mixed_dtypes=True, storage_dtype="source", save_models=["*/0.5"])
    stored = load_file(out / "models/half/top_k/parallel/0.5/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
