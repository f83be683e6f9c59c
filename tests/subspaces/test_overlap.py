"""Mode Subspace Overlap against slow float64 numpy, its properties, and principal angles that were built in."""

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from safety_lightning.subspaces import decomposition, draw_haar_basis, overlap
from safety_lightning.subspaces.angles import compute_principal_angles
from safety_lightning.subspaces.modes import DEFAULT_ETAS, Modes, sketch_modes, span_covariance_modes, span_modes
from safety_lightning.subspaces.overlap import Overlap, compare_all, compare_modes, compute_overlap
from tests import reference

ETAS = (0.3, 0.5, 0.8, 0.95, 1.0)
NUM_CASES = 200


def draw_case(number: int) -> tuple[Tensor, Tensor, str]:
    """Draws two updates that share something: square, tall, wide, rank-deficient, with steep spectra, or zero."""
    generator = torch.Generator().manual_seed(number)
    num_rows, num_columns = torch.randint(1, 40, (2,), generator=generator).tolist()
    rank = int(torch.randint(1, min(num_rows, num_columns) + 1, (1,), generator=generator))
    fall = torch.linspace(0, -2 * torch.rand(1, generator=generator).item(), rank, dtype=torch.float64)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = draw(num_rows, rank) * 10**fall @ draw(rank, num_columns)
    kind = ("dense", "low rank", "same span", "zero")[number % 4 if number % 20 else 3]
    if kind == "dense":
        updates = shared + draw(num_rows, num_columns), shared + draw(num_rows, num_columns)
    elif kind == "low rank":
        updates = shared, draw(num_rows, 1) @ draw(1, num_columns)
    elif kind == "same span":
        updates = shared, shared @ draw(num_columns, num_columns)
    else:
        updates = shared, torch.zeros_like(shared) if number % 20 == 0 else shared * 1e-6
    return *updates, "left" if number % 2 else "right"


def measure(update_a: Tensor, update_b: Tensor, side: str = "left", etas: tuple[float, ...] = ETAS) -> list[Overlap]:
    return compare_modes(span_modes(update_a, etas=etas, side=side), span_modes(update_b, etas=etas, side=side))


def find_difference(dtype: torch.dtype, number: int) -> float:
    update_a, update_b, side = draw_case(number)
    update_a, update_b = update_a.to(dtype), update_b.to(dtype)
    largest = 0.0
    for found in measure(update_a, update_b, side):
        expected = reference.overlap(update_a.numpy(), update_b.numpy(), found.eta, side)
        assert math.isnan(found.mso) == math.isnan(expected)
        assert found.k_a == reference.modes(update_a.numpy(), found.eta, side).shape[1]
        largest = max(largest, 0.0 if math.isnan(expected) else abs(found.mso - expected))
    return largest


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_overlap_equals_the_float64_reference_over_random_cases(dtype: torch.dtype, bound: float) -> None:
    differences = [find_difference(dtype, number) for number in range(NUM_CASES)]
    assert max(differences) <= bound


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = {name: draw(300, 20, seed=seed) for seed, name in enumerate("abc")}
    whole = compare_all({name: span_modes(update) for name, update in updates.items()})
    monkeypatch.setattr(overlap, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(decomposition, "_CHUNK_ROWS", 11)
    chunked = compare_all({name: span_modes(update) for name, update in updates.items()})
    assert list(whole) == list(chunked) == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in whole:
        assert [one.mso for one in chunked[pair]] == pytest.approx([one.mso for one in whole[pair]], abs=1e-5)


def test_vocabulary_sized_update_never_meets_its_longer_side_squared() -> None:
    code = (
        "import resource, torch\n"
        "from safety_lightning.subspaces import compare_modes, span_modes\n"
        "a, b = torch.randn(150_000, 8), torch.randn(150_000, 8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "compare_modes(span_modes(a), span_modes(b))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # kB; the square of the side would take 90 GB


@pytest.mark.parametrize("number", range(0, 40, 3))
def test_overlap_is_symmetric_and_a_share(number: int) -> None:
    update_a, update_b, side = draw_case(number)
    for one, other in zip(measure(update_a, update_b, side), measure(update_b, update_a, side), strict=True):
        assert one.mso == pytest.approx(other.mso, abs=1e-9, nan_ok=True)
        assert not one.is_defined or 0 <= one.mso <= 1
        assert not one.is_defined or one.mso >= one.forced_minimum - 1e-9


def test_overlap_does_not_depend_on_the_basis_of_either_side() -> None:
    update_a, update_b = draw(30, 50, seed=1).double(), draw(30, 50, seed=2).double()
    outside = draw_rotation(30, seed=3)
    turned = measure(outside @ update_a @ draw_rotation(50, seed=4), outside @ update_b @ draw_rotation(50, seed=5))
    assert [one.mso for one in turned] == pytest.approx([one.mso for one in measure(update_a, update_b)], abs=1e-8)


def test_update_overlaps_itself_wholly_and_its_complement_not_at_all() -> None:
    basis = draw_rotation(20, seed=0)
    first, second = basis[:, :4] @ draw(4, 9, seed=1).double(), basis[:, 4:9] @ draw(5, 9, seed=2).double()
    assert all(one.mso == pytest.approx(1) for one in measure(first, 3 * first))
    assert all(one.mso == pytest.approx(0, abs=1e-12) for one in measure(first, second))
    assert all(one.excess < 0 for one in measure(first, second))


def test_random_subspaces_overlap_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [
        float(compute_overlap(*(draw_haar_basis(60, rank, generator=generator) for rank in (12, 20))))
        for _ in range(200)
    ]
    # a mean of 200 draws with a spread of about 0.02
    assert np.mean(drawn) == pytest.approx(20 / 60, abs=0.006)


def test_chance_excess_and_forced_overlap_are_those_of_the_ranks() -> None:
    one = Overlap(eta=0.9, k_a=6, k_b=8, dimension=10, mso=0.9)
    assert (one.chance, one.excess) == (0.8, pytest.approx(0.5))
    assert (one.is_forced, one.forced_minimum) == (True, pytest.approx(4 / 6))
    free = Overlap(eta=0.9, k_a=2, k_b=8, dimension=10, mso=0.9)
    assert (free.is_forced, free.forced_minimum) == (False, 0)
    full = Overlap(eta=1.0, k_a=10, k_b=10, dimension=10, mso=1.0)
    assert math.isnan(full.excess)
    assert full.forced_minimum == 1


def test_forced_overlap_is_reached_by_subspaces_in_general_position_that_avoid_each_other() -> None:
    basis = torch.eye(10, dtype=torch.float64)
    one, other = basis[:, :7], basis[:, 4:]  # 7 + 6 > 10: three directions are shared at least
    assert float(compute_overlap(one, other)) == pytest.approx(
        Overlap(eta=1, k_a=7, k_b=6, dimension=10, mso=0).forced_minimum
    )


def test_zero_update_has_no_overlap() -> None:
    for shape in [(5, 9), (9, 5)]:
        for one in measure(torch.zeros(shape), draw(*shape)):
            assert (one.k_a, one.is_defined, one.is_forced) == (0, False, False)
            assert all(math.isnan(value) for value in (one.mso, one.chance, one.excess, one.forced_minimum))


def test_equal_singular_values_count_as_their_number_says() -> None:
    modes = span_modes(torch.eye(8) * 1e-3, etas=(0.25, 0.5, 0.75, 1.0))
    assert modes.ranks == (2, 4, 6, 8)


def test_basis_is_orthonormal_on_either_shape_and_side() -> None:
    for shape in [(12, 30), (30, 12)]:
        for side in ("left", "right"):
            basis = span_modes(draw(*shape), side=side).read_basis(0.9)
            torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


def test_badly_conditioned_update_keeps_its_small_modes() -> None:
    left, right = draw_rotation(40, seed=0)[:, :12], draw_rotation(30, seed=1)[:, :12]
    update = (left * torch.logspace(0, -5.5, 12, dtype=torch.float64) @ right.mT).float()
    modes = span_modes(update, etas=(1.0,))
    expected = reference.modes(update.numpy(), 1.0)
    assert modes.ranks == (expected.shape[1],)
    found = modes.read_basis(1.0).numpy()
    assert np.abs(reference.projector(found) - reference.projector(expected)).max() <= 1e-6


def test_covariance_gives_the_modes_of_the_activations() -> None:
    activations = draw(50, 12, seed=4).double() * torch.logspace(0, -3, 12, dtype=torch.float64)
    streamed = span_covariance_modes(activations.mT @ activations)
    direct = span_modes(activations, side="right")
    assert streamed.ranks == direct.ranks
    assert all(one.mso == pytest.approx(1) for one in compare_modes(streamed, direct))
    assert span_covariance_modes(torch.zeros(4, 4, dtype=torch.float64)).ranks == (0,) * len(DEFAULT_ETAS)


def test_sketch_finds_the_modes_of_low_rank_and_too_few_of_a_flat_spectrum() -> None:
    low = draw(200, 4, seed=0) @ draw(4, 40, seed=1)
    exact, sketched = span_modes(low), sketch_modes(low, seed=3)
    assert all(one.mso == pytest.approx(1, abs=1e-4) for one in compare_modes(exact, sketched))
    flat = draw(200, 40, seed=2)
    assert max(sketch_modes(flat).ranks) == 10 < max(span_modes(flat).ranks)
    assert sketch_modes(torch.zeros(9, 4)).ranks == (0,) * len(DEFAULT_ETAS)


def test_sketch_is_seeded_and_leaves_the_random_state_alone() -> None:
    update = draw(60, 40)
    torch.manual_seed(5)
    first = sketch_modes(update, seed=1).matrix
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(sketch_modes(update, seed=1).matrix, first)
    assert not torch.equal(sketch_modes(update, seed=2).matrix, first)


def build_pair(angles: Sequence[float], *, num_more: int, size: int) -> tuple[Tensor, Tensor]:
    """Builds bases with given principal angles; the second has further columns orthogonal to the first basis."""
    frame = draw_rotation(size, seed=0)
    num = len(angles)
    turns = torch.tensor(angles, dtype=torch.float64)
    turned = frame[:, :num] * turns.cos() + frame[:, num : 2 * num] * turns.sin()
    larger = torch.cat([turned, frame[:, 2 * num : 2 * num + num_more]], dim=1)
    return frame[:, :num] @ draw_rotation(num, seed=1), larger @ draw_rotation(num + num_more, seed=2)


@pytest.mark.parametrize("num_more", [0, 3])
@pytest.mark.parametrize("angles", [[0.7], [0.1, 0.5, 1.2], [0.0, 0.0, math.pi / 4, math.pi / 2]])
def test_principal_angles_are_those_built_in(angles: list[float], num_more: int) -> None:
    smaller, larger = build_pair(angles, num_more=num_more, size=12)
    for pair in ((smaller, larger), (larger, smaller)):
        found = compute_principal_angles(*pair).numpy()
        np.testing.assert_allclose(found, angles, atol=1e-12, rtol=0)
        assert np.mean(np.cos(found) ** 2) == pytest.approx(float(compute_overlap(*pair)))


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3, math.pi / 2 - 1e-9])
def test_small_and_right_angles_keep_their_digits(angle: float) -> None:
    found = compute_principal_angles(*build_pair([0.0, angle], num_more=1, size=10)).numpy()
    # from cosines alone, angles under 1e-8 could not be told from zero
    np.testing.assert_allclose(found, [0.0, angle], atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    ("etas", "message"),
    [
        ((), "etas must hold at least one number"),
        ((0.0,), r"etas must be in \(0, 1\], got 0.0"),
        ((0.5, 1.5), r"etas must be in \(0, 1\], got 1.5"),
        ((math.nan,), r"etas must be in \(0, 1\], got nan"),
        ((0.5, 0.9, 0.5), "etas must be different, got 0.5 twice"),
    ],
)
def test_bad_etas_are_named(etas: tuple[float, ...], message: str) -> None:
    for make in (span_modes, sketch_modes, span_covariance_modes):
        with pytest.raises(ValueError, match=message):
            make(torch.eye(3), etas=etas)


def test_bad_pairs_are_named() -> None:
    with pytest.raises(ValueError, match="modes must be of one dimension, got 5 and 6"):
        compare_modes(span_modes(draw(5, 4)), span_modes(draw(6, 4)))
    with pytest.raises(ValueError, match="modes must have the same etas"):
        compare_modes(span_modes(draw(5, 4), etas=(0.5,)), span_modes(draw(5, 4), etas=(0.6,)))
    with pytest.raises(ValueError, match="eta must be one of"):
        span_modes(draw(5, 4), etas=(0.5,)).read_basis(0.6)
    for measure_bases in (compute_overlap, compute_principal_angles):
        with pytest.raises(ValueError, match="bases must be matrices of equally many rows"):
            measure_bases(torch.eye(3), torch.eye(4))
        with pytest.raises(ValueError, match="with a column"):
            measure_bases(torch.eye(3), torch.eye(3)[:, :0])
    meta = Modes(etas=(0.5,), ranks=(1,), matrix=torch.empty(5, 1, device="meta"))
    with pytest.raises(ValueError, match="modes must be on one device"):
        compare_modes(span_modes(draw(5, 4), etas=(0.5,)), meta)


def draw(num_rows: int, num_columns: int, *, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed))


def draw_rotation(size: int, *, seed: int) -> Tensor:
    rotation: Tensor = torch.linalg.qr(draw(size, size, seed=seed).double())[0]
    return rotation
