"""Rival methods against their formulas, written out with the whole matrix C in float64."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from safety_lightning.methods import EnergyRemoval, Resta, SafeLora, SafeMerge
from safety_lightning.sweep import MethodChoice
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow
from safety_lightning.tables import read_parquet
from tests.sweep.test_sweep import as_matrix, read_weights, run

Weights = dict[str, dict[str, np.ndarray]]
METHODS = ["safe_lora", "safe_merge", "resta", "energy"]
THRESHOLD = 0.79  # between the cosines of the pico matrices


@pytest.fixture(scope="module")
def weights(checkpoints: dict[str, Path]) -> Weights:
    return {name: read_weights(folder) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def out(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(
        checkpoints,
        tmp_path_factory.mktemp("rivals") / "out",
        rivals=METHODS,
        sources=["top_k"],
        fractions=[0.5],
        safety_tuned=str(checkpoints["harmful"]),
        safe_lora=SafeLora(threshold=THRESHOLD),
        safe_merge=SafeMerge(threshold=THRESHOLD, weight=0.7),
        resta=Resta(scale=0.3),
        energy=EnergyRemoval(shares=[0.6]),
        save_models=["all"],
    )


def split(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = as_matrix(weights["reference"][name])
    return reference, reference - as_matrix(weights["base"][name]), as_matrix(weights["useful"][name]) - reference


def find_cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def treat(method: str, weights: Weights, name: str) -> np.ndarray:
    """Returns the update that a method leaves of one matrix."""
    reference, delta, update = split(weights, name)
    matrix = delta @ delta.T / np.sqrt((delta**2).sum())  # C: no projector
    if method == "resta":
        return update + 0.3 * delta
    if method == "energy":
        left, values, _ = np.linalg.svd(delta, full_matrices=False)
        rank = int(np.searchsorted(np.cumsum(values**2), 0.6 * (values**2).sum())) + 1
        return update - left[:, :rank] @ (left[:, :rank].T @ update)
    is_under = weights["reference"][name].ndim > 1 and find_cosine(update, matrix @ update) < THRESHOLD
    if not is_under:
        return update
    safety = as_matrix(weights["harmful"][name]) - reference
    return matrix @ update if method == "safe_lora" else 0.7 * update + 0.3 * safety


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_energies_follow_the_formula(out: Path, weights: Weights, method: str) -> None:
    folder = out / "models/useful" / (f"{method}/orthogonal/0.6" if method == "energy" else method)
    stored = load_file(folder / "model.safetensors")
    kept_total = update_total = 0.0
    rows = {row.name: row for row in read_parquet(out / "tensors.parquet", SweepMatrixRow) if row.source == method}
    for name, tensor in stored.items():
        reference, delta, update = split(weights, name)
        kept = treat(method, weights, name)
        np.testing.assert_allclose(as_matrix(tensor.double().numpy()) - reference, kept, atol=3e-7)
        assert rows[name].energy_kept == pytest.approx((kept**2).sum() / (update**2).sum(), rel=1e-5)
        assert rows[name].cosine_delta == pytest.approx(find_cosine(kept, delta), abs=1e-5)
        assert rows[name].is_changed == (not np.array_equal(kept, update))
        kept_total, update_total = kept_total + float((kept**2).sum()), update_total + float((update**2).sum())
    [row] = [row for row in read_parquet(out / "energy.parquet", EnergyRow) if row.source == method]
    assert row.energy_kept == pytest.approx(kept_total / update_total, rel=1e-5)
    assert (row.leak is None) == (method != "energy")
    changed = sum(row.is_changed for row in rows.values())
    assert row.num_changed == changed
    if method in ("safe_lora", "safe_merge"):
        assert 0 < changed < len(rows)


def test_scores_are_cosines_with_c(out: Path, weights: Weights) -> None:
    rows = [row for row in read_parquet(out / "tensors.parquet", SweepMatrixRow) if row.source == "safe_lora"]
    for row in rows:
        _, delta, update = split(weights, row.name)
        assert row.score == pytest.approx(find_cosine(update, delta @ delta.T @ update), abs=1e-5)


def test_worst_matrices_are_projected_and_no_others(
    checkpoints: dict[str, Path], weights: Weights, tmp_path: Path
) -> None:
    out = run(
        checkpoints,
        tmp_path / "out",
        rivals=["safe_lora"],
        sources=[],
        components=[],
        fractions=[],
        safe_lora=SafeLora(num_worst=3),
        save_models=["all"],
    )
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    assert len(rows) == len(weights["base"])
    matrices = sorted((row for row in rows if row.columns > 1), key=lambda row: row.score)
    assert [row.is_changed for row in matrices] == [True] * 3 + [False] * (len(matrices) - 3)
    stored = load_file(out / "models/useful/safe_lora/model.safetensors")
    for row in rows:
        reference, delta, update = split(weights, row.name)
        kept = delta @ delta.T @ update / np.sqrt((delta**2).sum()) if row.is_changed else update
        np.testing.assert_allclose(as_matrix(stored[row.name].double().numpy()) - reference, kept, atol=3e-7)


def test_resta_points_away_from_an_unaligned_model(
    checkpoints: dict[str, Path], weights: Weights, tmp_path: Path
) -> None:
    resta = Resta(scale=0.5, unaligned=str(checkpoints["harmful"]))
    out = run(checkpoints, tmp_path / "out", rivals=["resta"], resta=resta, save_models=["*/resta"])
    for name, tensor in load_file(out / "models/useful/resta/model.safetensors").items():
        vector = weights["reference"][name] - weights["harmful"][name]
        expected = weights["useful"][name] + 0.5 * vector
        np.testing.assert_allclose(tensor.double().numpy(), expected, atol=3e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SafeLora(threshold=2), r"safe_lora.threshold must be in \[-1, 1\], got 2"),
        (lambda: SafeLora(num_worst=0), "safe_lora.num_worst must be at least 1, got 0"),
        (lambda: SafeMerge(weight=1.5), r"safe_merge.weight must be in \[0, 1\], got 1.5"),
        (lambda: EnergyRemoval(shares=[0.0]), r"energy.shares must be in \(0, 1\], got 0"),
        (lambda: EnergyRemoval(shares=[0.5, 0.5]), "energy.shares must be different"),
        (lambda: MethodChoice(rivals=["resta", "resta"]).list_methods(), "rivals must be different, got resta twice"),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_safe_merge_needs_a_safety_tuned_model(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safe_merge must have --safety_tuned"):
        run(checkpoints, tmp_path / "out", rivals=["safe_merge"])
    assert not (tmp_path / "out").exists()
