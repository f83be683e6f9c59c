"""Sees every tensor of a checkpoint as matrices whose left side is the output side.

A `MatrixSlot` is one matrix inside one tensor. Its `view` shares memory with the tensor, so that writing to the
matrix writes to the model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor

# Stored as (in, out): GPT-2's Conv1D, and the stacked experts of some mixtures.
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_CONV1D_NAME = re.compile(r"(c_attn|c_proj|c_fc|q_attn)\.weight$")
_TRANSPOSED_EXPERT_MODELS = {"gpt_oss", "llama4_text", "llama4"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class MatrixSlot:
    """One matrix of a checkpoint.

    Attributes:
        tensor: Name of the tensor that holds it.
        index: Which of a stack of experts it is; None when the tensor is one matrix.
        transposed: Whether the tensor stores it as (input, output).
        rows: Output features, M.
        columns: Input features, N; 1 for a vector.
        is_vector: Whether the tensor is a vector (a bias or a norm's scale).
    """

    tensor: str
    index: int | None = None
    transposed: bool = False
    rows: int
    columns: int
    is_vector: bool = False

    @property
    def name(self) -> str:
        """The tensor's name, with the expert's number behind it where there are several."""
        return self.tensor if self.index is None else f"{self.tensor}[{self.index}]"

    @property
    def kind(self) -> str:
        """The module's kind, such as ``q_proj``; biases are told apart (``q_proj.bias``)."""
        parts = self.tensor.split(".")
        if parts[-1] == "weight" and len(parts) > 1:
            return parts[-2]
        return ".".join(parts[-2:]) if parts[-1] == "bias" and len(parts) > 1 else parts[-1]

    @property
    def layer(self) -> int | None:
        """The decoder layer's number from 0, None outside the layers."""
        return find_layer(self.tensor)

    def view(self, tensor: Tensor) -> Tensor:
        """Returns this slot's matrix as a view of its tensor, shape ``(rows, columns)``."""
        return self.view_part(tensor if self.index is None else tensor[self.index])

    def view_part(self, matrix: Tensor) -> Tensor:
        """Returns the matrix as a view of this slot's part of its tensor, shape ``(rows, columns)``."""
        if matrix.ndim > 2:
            matrix = matrix.view(matrix.shape[0], -1)
        elif matrix.ndim < 2:
            matrix = matrix.unsqueeze(-1) if matrix.ndim else matrix.view(1, 1)
        return matrix.mT if self.transposed else matrix

    def restore_part(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undoes `view_part`: returns a matrix in the shape in which its part of the tensor is stored."""
        return (matrix.mT if self.transposed else matrix).reshape(shape)


def find_layer(name: str) -> int | None:
    """Returns the number of the decoder layer that a tensor belongs to, from 0; None outside the layers."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def find_slots(name: str, shape: tuple[int, ...], *, model_type: str = "") -> list[MatrixSlot]:
    """Lists the matrices of one tensor.

    A 2-D tensor is one matrix; a vector (or a number) is M x 1; a stack of experts ``(E, out, in)`` is E matrices;
    GPT-2's Conv1D is turned so that its left side is the output side; a convolution kernel is ``(out, rest)``.

    Args:
        name: The tensor's name.
        shape: Its shape.
        model_type: The ``model_type`` of the model's config, which tells Conv1D from Linear.

    Returns:
        The slots in order of their expert; none for an empty tensor.

    Example:
        >>> [slot.name for slot in find_slots("mlp.experts.up_proj", (2, 8, 4))]
        ['mlp.experts.up_proj[0]', 'mlp.experts.up_proj[1]']
    """
    if 0 in shape:
        return []
    if len(shape) < 2:
        return [MatrixSlot(tensor=name, rows=shape[0] if shape else 1, columns=1, is_vector=True)]
    if len(shape) == 3:
        turned = model_type in _TRANSPOSED_EXPERT_MODELS
        rows, columns = (shape[2], shape[1]) if turned else (shape[1], shape[2])
        return [
            MatrixSlot(tensor=name, index=index, transposed=turned, rows=rows, columns=columns)
            for index in range(shape[0])
        ]
    turned = model_type in _CONV1D_MODELS and _CONV1D_NAME.search(name) is not None
    rows, columns = shape[0], math.prod(shape[1:])
    return [
        MatrixSlot(
            tensor=name, transposed=turned, rows=columns if turned else rows, columns=rows if turned else columns
        )
    ]
