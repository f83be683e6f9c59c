"""Ranks, sources and the saved subspace."""

from pathlib import Path

import pytest
import torch

from safety_lightning.subspaces import (
    Basis,
    Subspace,
    draw_haar_basis,
    load_subspace,
    rank_from_fraction,
    save_subspace,
    span_subspace,
)
from safety_lightning.system.randomness import seed_generator

DELTA = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))


def project_basis(basis: Basis) -> torch.Tensor:
    return basis.columns @ basis.columns.mT


@pytest.mark.parametrize(
    ("fraction", "shape", "rank"),
    [(0.25, (576, 1536), 144), (0.01, (32, 32), 1), (1.0, (5, 9), 5), (0.29, (100, 100), 29), (0.99, (576, 1), 1)],
)
def test_rank_is_a_share_of_the_smaller_dimension(fraction: float, shape: tuple[int, int], rank: int) -> None:
    assert rank_from_fraction(fraction, *shape) == rank


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_fraction_outside_its_range_is_named(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\], got {fraction}"):
        rank_from_fraction(fraction, 4, 4)


@pytest.mark.parametrize("source", ["top_k", "random_k", "random"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_basis_is_orthonormal_and_float32(source: str, side: str) -> None:
    basis = span_subspace(DELTA, fraction=0.5, source=source, side=side, name="w", seed=1)
    assert basis.columns.shape == (24 if side == "left" else 16, 8)
    assert basis.columns.dtype == torch.float32
    torch.testing.assert_close(basis.columns.mT @ basis.columns, torch.eye(8), atol=1e-6, rtol=0)


def test_random_k_fractions_nest_and_lie_in_the_span_of_the_delta() -> None:
    small, large, full = (
        span_subspace(DELTA, fraction=fraction, source="random_k", name="w", seed=3) for fraction in (0.25, 0.5, 1.0)
    )
    torch.testing.assert_close(project_basis(large) @ small.columns, small.columns)
    top = span_subspace(DELTA, fraction=1.0)
    torch.testing.assert_close(project_basis(full), project_basis(top), atol=1e-5, rtol=0)
    assert not torch.allclose(project_basis(large), project_basis(span_subspace(DELTA, fraction=0.5)), atol=1e-2)


@pytest.mark.parametrize("source", ["random_k", "random"])
def test_random_sources_depend_on_seed_and_name_alone(source: str) -> None:
    def span(seed: int, name: str) -> torch.Tensor:
        return project_basis(span_subspace(DELTA, fraction=0.25, source=source, name=name, seed=seed))

    torch.testing.assert_close(span(1, "a"), span(1, "a"), rtol=0, atol=0)
    assert not torch.allclose(span(1, "a"), span(2, "a"))
    assert not torch.allclose(span(1, "a"), span(1, "b"))


def test_haar_basis_has_the_uniform_law() -> None:
    draws = torch.stack([draw_haar_basis(4, 2, generator=seed_generator(f"0:{i}")) for i in range(4000)])
    assert draws.mean(dim=0).abs().max() < 0.03  # signs are fair, which plain QR's are not
    torch.testing.assert_close(draws.square().mean(dim=0), torch.full((4, 2), 0.25), atol=0.015, rtol=0)
    projectors = draws @ draws.mT
    torch.testing.assert_close(projectors.mean(dim=0), torch.eye(4) / 2, atol=0.02, rtol=0)


@pytest.mark.parametrize("source", ["top_k", "random_k", "random"])
def test_zero_delta_has_an_empty_basis_whatever_the_source(source: str) -> None:
    basis = span_subspace(torch.zeros(6, 4), fraction=0.5, source=source)
    assert (basis.rank, basis.wanted_rank, basis.delta_norm) == (0, 2, 0.0)
    assert basis.columns.shape == (6, 0)


def test_saved_subspace_comes_back_whole(tmp_path: Path) -> None:
    bases = {
        "a": span_subspace(DELTA, fraction=0.25),
        "zero": span_subspace(torch.zeros(3, 3), fraction=1.0),
        "capped": span_subspace(torch.ones(4, 4), fraction=1.0),
    }
    subspace = Subspace(bases, {"fraction": 0.25, "include": ["*"]})
    save_subspace(subspace, tmp_path / "s.safetensors")
    loaded = load_subspace(tmp_path / "s.safetensors")
    assert loaded.recipe == subspace.recipe
    assert (loaded.num_zero, loaded.num_capped) == (1, 1)
    for name, basis in bases.items():
        assert torch.equal(loaded.bases[name].columns, basis.columns)
        assert (loaded.bases[name].delta_norm, loaded.bases[name].method) == (basis.delta_norm, basis.method)
    assert [file.name for file in tmp_path.iterdir()] == ["s.safetensors"]


def test_file_that_is_no_subspace_is_named(tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    save_subspace(Subspace({"a": span_subspace(DELTA, fraction=0.25)}, {}), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"s\.safetensors must be a saved subspace, it cannot be read"):
        load_subspace(file)


@pytest.mark.parametrize("num_rows", [7, 40, 101])
def test_random_bases_of_one_seed_are_nested(num_rows: int) -> None:
    whole = draw_haar_basis(num_rows, num_rows, generator=seed_generator("0:a"))
    for rank in range(0, num_rows, 3):
        part = draw_haar_basis(num_rows, rank, generator=seed_generator("0:a"))
        torch.testing.assert_close(part, whole[:, :rank], atol=1e-6, rtol=0)
