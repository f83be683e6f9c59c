"""Sweeps over pico checkpoints against float64 numpy, and against the projector of live models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from safety_lightning.methods import FRACTIONS as FRACTIONS_OF_PAPER
from safety_lightning.methods import SafeLora, list_variants
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.subspaces import draw_haar_basis, draw_order, rank_from_fraction
from safety_lightning.sweep import (
    EnergyRow,
    MethodChoice,
    ProjectRun,
    SweepMatrixRow,
    SweepSettings,
    VariantLoader,
    open_inputs,
    project,
)
from safety_lightning.system.randomness import seed_generator
from safety_lightning.tables import read_parquet
from tests import reference as slow

FRACTIONS = [0.1, 0.5, 1.0]
QUERY = "model.layers.0.self_attn.q_proj.weight"


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def run(checkpoints: dict[str, Path], out: Path, models: tuple[str, ...] = ("useful",), **options: Any) -> Path:
    finetuned = [str(checkpoints[name]) for name in models]
    pair = {"base": str(checkpoints["base"]), "reference": str(checkpoints["reference"])}
    given = {**pair, "finetuned": finetuned, "out": out, "fractions": FRACTIONS, "device": "cpu", **options}
    project(ProjectRun(**given))
    return out


def find_basis(name: str, delta: np.ndarray, source: str, fraction: float, side: str = "left") -> np.ndarray:
    rank = rank_from_fraction(fraction, *delta.shape)
    if source == "random":
        rows = delta.shape[0 if side == "left" else 1]
        return draw_haar_basis(rows, rank, generator=seed_generator(f"0:{name}")).double().numpy()
    order = range(rank) if source == "top_k" else draw_order(min(delta.shape), seed=0, name=name)[:rank].tolist()
    return slow.leading_vectors(delta, min(delta.shape), side)[:, list(order)]


def as_matrix(weights: np.ndarray) -> np.ndarray:
    return weights if weights.ndim == 2 else weights.reshape(-1, 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_energies_equal_those_of_float64(checkpoints: dict[str, Path], tmp_path: Path, side: str) -> None:
    out = run(checkpoints, tmp_path / "out", ("useful", "harmful"), side=side)
    weights = {name: read_weights(folder) for name, folder in checkpoints.items()}
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    assert len(rows) == 2 * 3 * 2 * len(FRACTIONS) * len(weights["base"])
    sums: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        reference = as_matrix(weights["reference"][row.name])
        delta = reference - as_matrix(weights["base"][row.name])
        update = as_matrix(weights[row.finetuned][row.name]) - reference
        basis = find_basis(row.name, delta, row.source, row.fraction, side)
        kept = slow.project(update, basis, row.component, side)
        energy, total = float((kept**2).sum()), float((update**2).sum())
        assert row.rank == basis.shape[1]
        inside = row.rank / len(basis)
        assert row.chance == pytest.approx(inside if row.component == "parallel" else 1 - inside)
        assert row.energy_kept == pytest.approx(energy / total, abs=2e-6)
        assert row.update_norm == pytest.approx(math.sqrt(total), rel=1e-6)
        if energy / total > 1e-6:
            assert row.cosine_update == pytest.approx((kept * update).sum() / math.sqrt(energy * total), abs=1e-4)
            cosine = (kept * delta).sum() / math.sqrt(energy * (delta**2).sum())
            assert row.cosine_delta == pytest.approx(cosine, abs=2e-4)
        key = (row.finetuned, row.source, row.component, row.fraction)
        sums.setdefault(key, [0.0, 0.0, 0.0])
        sums[key] = [a + b for a, b in zip(sums[key], (energy, total, row.chance * total), strict=True)]
    energies = read_parquet(out / "energy.parquet", EnergyRow)
    assert {(row.finetuned, row.source, row.component, row.fraction) for row in energies} == set(sums)
    for row in energies:
        energy, total, chance = sums[row.finetuned, row.source, row.component, row.fraction]
        assert row.energy_kept == pytest.approx(energy / total, abs=2e-6)
        assert row.chance == pytest.approx(chance / total, abs=1e-6)


@pytest.mark.parametrize(("side", "storage_dtype"), [("left", "float32"), ("right", "float32"), ("left", "bfloat16")])
def test_saved_models_are_the_projections(
    checkpoints: dict[str, Path], tmp_path: Path, side: str, storage_dtype: str
) -> None:
    options = {"save_models": ["all"], "side": side, "storage_dtype": storage_dtype, "num_leak_columns": 0}
    out = run(checkpoints, tmp_path / "out", **options)
    weights = {name: read_weights(folder) for name, folder in checkpoints.items()}
    energies = read_parquet(out / "energy.parquet", EnergyRow)
    for row in energies:
        folder = out / "models" / "useful" / row.source / row.component / f"{row.fraction:g}"
        stored = load_file(folder / "model.safetensors")
        wrong = total = 0.0
        for name, tensor in stored.items():
            assert tensor.dtype == getattr(torch, storage_dtype)
            reference = as_matrix(weights["reference"][name])
            update = as_matrix(weights["useful"][name]) - reference
            basis = find_basis(name, reference - as_matrix(weights["base"][name]), row.source, row.fraction, side)
            expected = reference + slow.project(update, basis, row.component, side)
            found = as_matrix(tensor.double().numpy())
            error = 1e-6 if storage_dtype == "float32" else 2**-8
            np.testing.assert_allclose(found, expected, atol=error * np.abs(expected).max())
            part = "orthogonal" if row.component == "parallel" else "parallel"
            wrong += float((slow.project(found - reference, basis, part, side) ** 2).sum())
            total += float(((found - reference) ** 2).sum())
        if total > 1e-8:
            assert row.leak == pytest.approx(math.sqrt(wrong / total), rel=0.05, abs=2e-6)


@pytest.mark.parametrize("storage_dtype", ["float32", "bfloat16"])
def test_sampled_leak_is_near_the_exact_one(checkpoints: dict[str, Path], tmp_path: Path, storage_dtype: str) -> None:
    exact = run(checkpoints, tmp_path / "exact", num_leak_columns=0, storage_dtype=storage_dtype, fractions=[0.5])
    sampled = run(checkpoints, tmp_path / "some", num_leak_columns=12, storage_dtype=storage_dtype, fractions=[0.5])
    pairs = zip(*(read_parquet(out / "energy.parquet", EnergyRow) for out in (exact, sampled)), strict=True)
    for one, other in pairs:
        assert one.leak > (1e-3 if storage_dtype == "bfloat16" else 0)
        assert other.leak == pytest.approx(one.leak, rel=0.2)


@pytest.mark.parametrize("source", ["top_k", "random_k", "random"])
def test_a_sweep_and_a_training_callback_make_the_same_weights(
    checkpoints: dict[str, Path], tmp_path: Path, source: str
) -> None:
    out = run(checkpoints, tmp_path / "out", save_models=["*/0.5"])
    spec = SubspaceSpec(
        base=str(checkpoints["base"]), reference=str(checkpoints["reference"]), source=source, fraction=0.5
    )
    for component in ("parallel", "orthogonal"):
        model = AutoModelForCausalLM.from_pretrained(checkpoints["useful"], dtype=torch.float32)
        projector = UpdateProjector(prepare_subspace(spec), component=component)
        projector.bind(model)
        projector.project()
        stored = load_file(out / "models" / "useful" / source / component / "0.5" / "model.safetensors")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(stored[name], parameter.data, atol=2e-7, rtol=0)


def test_saved_model_loads_and_says_how_it_was_made(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    out = run(checkpoints, tmp_path / "out", save_models=["*/top_k/orthogonal/0.5"], storage_dtype="bfloat16")
    folder = out / "models" / "useful" / "top_k" / "orthogonal" / "0.5"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    card = (folder / "README.md").read_text()
    for text in (str(checkpoints["base"]), "orthogonal to top_k, 0.5 of the smaller dimension", "leak after the cast"):
        assert text in card
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}\n"
    assert [path.name for path in (out / "models").rglob("*.partial")] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_model_takes_the_weights_that_a_sweep_saves(
    checkpoints: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    choice = {"rivals": ["safe_lora", "resta", "energy"], "safe_lora": SafeLora(threshold=0.9)}
    out = run(checkpoints, tmp_path / "out", ("useful", "harmful"), save_models=["all"], **choice)
    methods = MethodChoice(fractions=FRACTIONS, **choice).list_methods()
    base, reference, useful, harmful = (str(checkpoints[name]) for name in ("base", "reference", "useful", "harmful"))
    settings = SweepSettings()
    inputs = open_inputs(base, reference, [useful, harmful], methods=methods, settings=settings)
    variants = list_variants(["useful", "harmful"], methods)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["base"], dtype=dtype)
    seen = 0
    for variant, state in VariantLoader(inputs, settings).iterate(model, variants):
        stored = load_file(out / "models" / variant.name / "model.safetensors")
        for name, parameter in model.named_parameters():
            atol = 5e-7 if dtype == torch.float32 else 2**-8
            torch.testing.assert_close(parameter.data, stored[name].to(dtype), atol=atol, rtol=2**-8)
            assert state[name].data_ptr() == parameter.data_ptr()
        seen += 1
    assert seen == len(variants) == 2 * (18 + 4)


def test_parallel_and_orthogonal_share_the_energy(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rows = read_parquet(run(checkpoints, tmp_path / "out") / "energy.parquet", EnergyRow)
    by_key = {(row.source, row.component, row.fraction): row for row in rows}
    for source in ("top_k", "random_k", "random"):
        for fraction in FRACTIONS:
            pair = [by_key[source, component, fraction] for component in ("parallel", "orthogonal")]
            assert sum(row.energy_kept for row in pair) == pytest.approx(1, abs=1e-9)
            assert sum(row.chance for row in pair) == pytest.approx(1, abs=1e-9)
            assert sum(row.energy_kept * row.num_matrices for row in pair) > 0


def test_tied_weights_count_once_unless_the_paper_is_followed(
    pico_base: Path, pico_aligned: Path, tmp_path: Path
) -> None:
    from tests.sweep.conftest import add_noise

    tuned = add_noise(pico_aligned, tmp_path / "tuned", size=0.01, seed=4)
    names = {}
    options = {"fractions": list(FRACTIONS_OF_PAPER), "save_models": ["*/top_k/parallel/0.5"]}
    for tied in ("once", "each"):
        out = tmp_path / tied
        run({"base": pico_base, "reference": pico_aligned, "useful": tuned}, out, tied=tied, **options)
        names[tied] = [row.name for row in read_parquet(out / "tensors.parquet", SweepMatrixRow)]
        assert "lm_head.weight" not in load_file(out / "models/tuned/top_k/parallel/0.5/model.safetensors")
    assert names["once"].count("lm_head.weight") == 0
    assert names["each"].count("lm_head.weight") == names["each"].count("model.embed_tokens.weight") == 30
    energies = [read_parquet(tmp_path / tied / "energy.parquet", EnergyRow)[0] for tied in ("once", "each")]
    assert energies[1].num_matrices == energies[0].num_matrices + 1


def test_zero_and_deficient_deltas_are_counted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from tests.conftest import copy_checkpoint

    base = load_file(checkpoints["base"] / "model.safetensors")
    generator = torch.Generator().manual_seed(0)

    def change(name: str, weights: torch.Tensor) -> torch.Tensor:
        if name == QUERY:
            return base[name]
        if name.endswith("k_proj.weight"):
            return base[name] + torch.outer(*(torch.randn(size, generator=generator) for size in weights.shape))
        return weights

    reference = copy_checkpoint(checkpoints["reference"], tmp_path / "reference", change)
    out = run({**checkpoints, "reference": reference}, tmp_path / "out", save_models=["*/0.5"])
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    assert {row.rank for row in rows if row.name == QUERY} == {0}
    keys = [row for row in rows if row.kind == "k_proj" and row.source != "random"]
    assert {row.rank for row in keys} == {1}
    energies = read_parquet(out / "energy.parquet", EnergyRow)
    assert {row.num_matrices for row in energies} == {len(base) - 1}
    counts = __import__("json").loads((out / "manifest.json").read_text())["counts"]
    assert (counts["num_zero_delta"], counts["num_capped_at_rank"]) == (1, 2)
    for component, expected in (("parallel", reference), ("orthogonal", checkpoints["useful"])):
        stored = load_file(out / "models/useful/top_k" / component / "0.5/model.safetensors")
        torch.testing.assert_close(stored[QUERY], load_file(expected / "model.safetensors")[QUERY])


def test_reading_ahead_gives_the_same(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_lightning.sweep.loading import MatrixLoader

    plain = run(checkpoints, tmp_path / "plain")
    monkeypatch.setattr(MatrixLoader, "reads_ahead", True)
    ahead = run(checkpoints, tmp_path / "ahead")
    assert (ahead / "energy.csv").read_bytes() == (plain / "energy.csv").read_bytes()
