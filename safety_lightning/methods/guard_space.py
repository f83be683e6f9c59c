r"""GuardSpace, which keeps updates away from what a model computes on harmful prompts.

GuardSpace (Zhang et al. 2025, arXiv 2510.14301) is a way to fine-tune with LoRA. With the inputs X of a linear module
on safety prompts, C = X Xᵀ and the decomposition W C = U Σ Vᵀ of the aligned weights, it freezes the components of
large singular values, starts the adapter from the smallest, and projects its update on the null space of the inputs
of harmful prompts, so that answers to these do not change.

Here its two subspaces treat the update T of a finished fine-tune, whole weights or an adapter:

.. math:: K = (I - U_s U_s^\top)\, T\, (I - E E^\top)

with U_s the leading left singular vectors of W C and E the leading eigenvectors of C. What departs from the paper:

- Its start of the adapter is no bound on what is trained later; as a bound on a finished update we take the leading
  output directions U_s out of it. ``output_fraction = 0`` leaves that away, and is the null-space part alone.
- One set of prompts gives C for both subspaces, scaled by nothing, as the paper's is unnormalised.
- An exact null space exists only where there are fewer tokens than inputs. The text that we had does not say where the
  spectrum is cut; we take E as the smallest rank that holds ``input_energy`` of the trace of C. A whole 1 takes the
  rounding of C's file for inputs too.

Shapes in this file: M = output features, N = input features, K = directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.files import hash_file
from safety_lightning.methods.protocol import Description, Method
from safety_lightning.methods.update import UNTREATED, Kept, MatrixUpdate
from safety_lightning.subspaces import decompose_delta, find_energy_ranks, rank_from_fraction


@dataclass(frozen=True, kw_only=True)
class GuardSpace(Method):
    """GuardSpace (Zhang et al. 2025, arXiv 2510.14301) as a treatment of a finished update.

    Attributes:
        covariances: File of safetensors with C = X Xᵀ of the inputs of linear modules on safety prompts, ``(N, N)``, by
            the name of the weight; see `collect_covariances`. Matrices without one stay as they were fine-tuned.
        output_fraction: Share of the smaller dimension of W C whose leading left directions are taken out, in [0, 1].
        input_energy: Share of the trace of C whose leading eigenvectors are taken out, in [0, 1].

    Raises:
        UserError: If a share is outside [0, 1].
    """

    covariances: str
    output_fraction: float = 0.1
    input_energy: float = 0.99

    def __post_init__(self) -> None:
        for name in ("output_fraction", "input_energy"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"guard_space.{name} must be in [0, 1], got {getattr(self, name)}")

    def check(self, slots: Sequence[MatrixSlot]) -> None:
        """Checks by the header of the file that it holds covariances of matrices that take part.

        Raises:
            UserError: If it cannot be read, names none of the matrices, or one is of another shape.
        """
        sizes = {slot.name: slot.columns for slot in slots if not slot.is_vector}
        with self._open() as handle:
            shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
        if not shapes.keys() & sizes.keys():
            raise UserError(
                f"guard_space.covariances must name matrices that take part ({next(iter(sizes), 'there is none')}, "
                f"...), {self.covariances} names {next(iter(shapes), 'nothing')}"
            )
        for name in sorted(shapes.keys() & sizes.keys()):
            self._check_shape(name, shapes[name], sizes[name])

    def hash_files(self) -> dict[str, str]:
        """Returns the hash of the covariances."""
        return {"covariances": hash_file(Path(self.covariances))}

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps (I − U_s U_sᵀ) T (I − E Eᵀ)."""
        covariance_NN = None if matrix.is_vector else self._read(matrix)
        if covariance_NN is None or not covariance_NN.any():
            return UNTREATED
        return Kept(extra=lambda: self._remove(matrix, covariance_NN))

    def describe(self) -> Description:
        """Returns its names."""
        text = (
            f"GuardSpace (arXiv 2510.14301) on a finished update: without {self.output_fraction:g} of the leading "
            f"output directions of W C, and without the inputs that hold {self.input_energy:g} of C"
        )
        return Description(source="guard_space", fraction=float(self.output_fraction), text=text)

    def _remove(self, matrix: MatrixUpdate, covariance_NN: Tensor) -> Tensor:
        is_turned = matrix.delta.side == "right"
        update_MN, weights_MN = matrix.update_MN, matrix.delta.reference_MN
        if is_turned:
            update_MN, weights_MN = update_MN.mT, weights_MN.mT
        kept_MN = remove_directions(
            update_MN, weights_MN, covariance_NN, output_fraction=self.output_fraction, input_energy=self.input_energy
        )
        return kept_MN.mT if is_turned else kept_MN

    def _read(self, matrix: MatrixUpdate) -> Tensor | None:
        name = matrix.delta.name
        with self._open() as handle:
            if name not in handle.keys():  # noqa: SIM118 (no mapping)
                return None
            found: Tensor = handle.get_tensor(name)
        self._check_shape(name, tuple(found.shape), matrix.delta.shape[1])
        if not torch.isfinite(found).all():
            raise UserError(f"covariance of {name} in {Path(self.covariances).name} must be finite, it is not")
        return found.to(matrix.update_MN.device, torch.float64)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with safe_open(self.covariances, framework="pt") as handle:
                yield handle
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"guard_space.covariances must be a file of covariances, {self.covariances} cannot be read: {error}"
            ) from error

    def _check_shape(self, name: str, found: tuple[int, ...], num_inputs: int) -> None:
        if found != (num_inputs, num_inputs):
            raise UserError(
                f"covariance of {name} in {Path(self.covariances).name} must be of shape ({num_inputs}, "
                f"{num_inputs}), got {found}"
            )


def remove_directions(
    update_MN: Tensor, weights_MN: Tensor, covariance_NN: Tensor, *, output_fraction: float, input_energy: float
) -> Tensor:
    """Takes the leading output directions of W C, and the leading eigenvectors of C, out of an update.

    Args:
        update_MN: The update T, float32, ``(M, N)``.
        weights_MN: The aligned weights W, float32, ``(M, N)``.
        covariance_NN: C, float64, symmetric, positive semidefinite, not zero, ``(N, N)``.
        output_fraction: Share of the smaller dimension, in [0, 1].
        input_energy: Share of the trace, in [0, 1].

    Returns:
        (I − U_s U_sᵀ) T (I − E Eᵀ), float32, ``(M, N)``.
    """
    kept_MN = update_MN.double()
    if output_fraction > 0:
        rank = rank_from_fraction(output_fraction, *weights_MN.shape)
        basis_MK = decompose_delta(weights_MN.double() @ covariance_NN, rank=rank).vectors
        kept_MN = kept_MN - basis_MK @ (basis_MK.mT @ kept_MN)
    if input_energy > 0:
        values_N, vectors_NN = torch.linalg.eigh(covariance_NN)
        [rank] = find_energy_ranks(values_N.flip(0).clamp_min(0), [input_energy])
        basis_NK = vectors_NN.flip(1)[:, :rank]
        kept_MN = kept_MN - (kept_MN @ basis_NK) @ basis_NK.mT
    return kept_MN.float()
