"""Files of bases and decompositions: whatever changes in them is noticed."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safety_lightning.errors import UserError
from safety_lightning.subspaces import DecompositionLibrary, Subspace, load_subspace, save_subspace, span_subspace

DELTA = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
SEEDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SEEDED
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_subspace_is_noticed(tmp_path: Path, place: float, bit: int) -> None:
    file = tmp_path / "s.safetensors"
    save_subspace(Subspace({"a": span_subspace(DELTA, fraction=0.5)}, {"seed": 0}), file)
    flip(file, place, bit)
    with pytest.raises(UserError, match=r"must (be a saved subspace|hold the subspace that was saved)"):
        load_subspace(file)


@SEEDED
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_kept_decomposition_is_noticed(tmp_path: Path, place: float, bit: int) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    library = DecompositionLibrary(tmp_path)
    library.decompose(DELTA)
    (file,) = tmp_path.iterdir()
    flip(file, place, bit)
    with pytest.raises(UserError, match=r"must (be a kept decomposition|hold what was kept)"):
        library.decompose(DELTA)


def test_a_decomposition_of_another_delta_is_noticed(tmp_path: Path) -> None:
    library = DecompositionLibrary(tmp_path)
    library.decompose(DELTA)
    (first,) = tmp_path.iterdir()
    library.decompose(2 * DELTA)
    (second,) = set(tmp_path.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="content does not match its hash: remove it"):
        library.decompose(2 * DELTA)


def test_a_zero_delta_is_kept(tmp_path: Path) -> None:
    library = DecompositionLibrary(str(tmp_path))
    for _ in range(2):
        assert library.decompose(torch.zeros(3, 2)).rank == 0


def flip(file: Path, place: float, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
