"""Projects the update of a live model's weights, in place, and measures it. Knows no trainer."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from safety_lightning.checkpoints import CheckpointReader, MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.projection.adapters import AdaptedMatrix, check_base, find_adapted, has_adapters
from safety_lightning.projection.names import match_names, strip_wrappers
from safety_lightning.projection.operators import Component, sum_squares
from safety_lightning.projection.parts import Keep, Locate, MatrixPart, add_up, locate, take_part
from safety_lightning.projection.rows import UpdateMeasure
from safety_lightning.projection.sharding import Traffic, agree_on, measure_parts, project_parts
from safety_lightning.projection.spec import PreparedSubspace
from safety_lightning.subspaces import Side
from safety_lightning.system.devices import in_full_precision

_MOMENTS = ("exp_avg", "momentum_buffer")  # as torch's optimizers name them


class UpdateProjector:
    """Keeps a model's update from its reference in one component of a subspace.

    The displacement from the reference is projected, never the gradient: under adaptive optimizers a projected
    gradient leaves about a quarter of the displacement on the wrong side.

    Args:
        prepared: The subspace and its reference.
        component: Which part of the update is kept.
        keep: Where reference and bases are between projections; they come to the device a matrix at a time. Those of
            adapters are small, and always there.

    Attributes:
        traffic: What the last projection sent between processes.
    """

    def __init__(self, prepared: PreparedSubspace, *, component: Component, keep: Keep = "device") -> None:
        self.prepared = prepared
        self.keep: Keep = keep
        self.component: Component = component
        self.traffic = Traffic()
        self._parts: list[MatrixPart] = []
        self._adapted: list[AdaptedMatrix] = []  # whose factors the parts are, where the model has adapters
        self._find: Locate = locate

    @property
    def side(self) -> Side:
        """The side that the bases lie on."""
        return self.prepared.spec.side

    def bind(self, model: nn.Module, *, find: Locate = locate) -> None:
        """Finds the live parameters, and brings reference weights and bases (float32) to their devices.

        Reference weights are read from the files, so that a resumed model binds like a fresh one, and rounded to the
        dtype that the model is in: training began from rounded weights, and the noise of that rounding is no update.
        They are kept in the narrowest dtype that holds them.

        Of a model with LoRA adapters (PEFT), the update is theirs, and one factor of each is projected.

        Args:
            model: The model that is trained; its parameters' names are those of the reference's files, give or
                take the prefix of its base model.
            find: Finds what this process holds of a parameter.

        Raises:
            UserError: If a tensor of the subspace has no live parameter, or one of another shape; or if adapters are no
                plain LoRA, lie on other weights than the reference's, or update nothing of the subspace.
        """
        self._find = find
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            raise UserError("the model must be sharded by FSDP2 (fsdp_version 2), got FSDP1: it flattens the weights")
        if has_adapters(model):
            self._bind_adapters(model)
        else:
            self._adapted = []
            self._bind_weights(model)
        self.prepared.reference.close()

    def _bind_weights(self, model: nn.Module) -> None:
        live = match_parameters(model, [slot.tensor for slot in self.prepared.slots])
        name, reference, read = "", torch.empty(0), None
        self._parts = []
        for slot in self.prepared.slots:
            parameter = live[slot.tensor]
            if slot.tensor != name:
                name = slot.tensor
                read = functools.partial(_read_rounded, self.prepared.reference, name, parameter.dtype)
                reference = read()
                _check_shape(name, parameter, reference)
            basis = self._bring_basis(slot, parameter)
            part = take_part(
                slot,
                parameter,
                find=self._find,
                reference=reference,
                basis=basis,
                side=self.side,
                keep=self.keep,
                read=read,
            )
            self._parts.append(part)

    def _bind_adapters(self, model: nn.Module) -> None:
        self._adapted = find_adapted(model, self.prepared.slots)
        self._parts = []
        for one in self._adapted:
            check_base(one, self.prepared.reference.read(one.slot.tensor), find=self._find)
            basis = self._bring_basis(one.slot, one.b)
            self._parts.append(one.take_factor(basis, find=self._find, side=self.side))

    def _bring_basis(self, slot: MatrixSlot, parameter: nn.Parameter) -> Tensor:
        """Brings a basis to a parameter's device, the first process's to all."""
        columns = self.prepared.subspace.bases[slot.name].columns
        return agree_on(columns.to(self._find(parameter).numbers.device).contiguous())

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks that an optimizer trains what is projected.

        Raises:
            UserError: If it trains none of the parameters that are projected, or not all that are trained; or if a
                parameter group of it holds matrices that different processes share.
        """
        groups = [{id(one) for one in group["params"]} for group in optimizer.param_groups]
        owned = set[int]().union(*groups)
        if self._parts and not any(id(part.parameter) in owned for part in self._parts):
            raise UserError(
                "the optimizer must train a parameter that is projected, it trains none: make it of the parameters of "
                "the model that is given, as they are now (under accelerate, attach what `prepare` returned)"
            )
        trained = {part.slot.tensor for part in self._parts if part.parameter.requires_grad}
        strange = sorted(trained - {part.slot.tensor for part in self._parts if id(part.parameter) in owned})
        if strange:
            raise UserError(
                f"the optimizer must train every parameter that is projected and not frozen, {len(strange)} are not "
                f"its own: {', '.join(strange[:3])} (freeze them, or exclude them from the subspace)"
            )
        for number, group in enumerate(groups):
            self._check_group(number, [part for part in self._parts if id(part.parameter) in group])

    def _check_group(self, number: int, parts: Sequence[MatrixPart]) -> None:
        first = next((part for part in parts if part.home is not None), None)
        for part in parts:
            if first is not None and part.home is not None and part.home is not first.home:
                raise UserError(
                    f"a parameter group must hold matrices that the same processes share, group {number} holds "
                    f"{first.slot.tensor} and {part.slot.tensor}, which different ones do: make two groups of them"
                )

    def check_start(self) -> None:
        """Checks that training has not begun: the live weights are the reference's, the update of adapters is zero.

        Raises:
            UserError: If a matrix has moved; up to three are named.
        """
        if self._adapted:
            moved = [one.slot.tensor for one in self._adapted if bool(self._find(one.b).numbers.any())]
        else:
            moved = sorted({part.slot.tensor for part in self._parts if not part.load().is_at_reference()})
        if moved:
            raise UserError(
                f"the model must be at the reference {self.prepared.reference.folder} when the projection is attached, "
                f"{len(moved)} matrices have moved: {', '.join(moved[:3])} (attach it before training, or give the "
                "origin, the checkpoint that the update is measured from)"
            )

    @torch.no_grad()
    @in_full_precision()
    def project(self, among: Collection[int] | None = None) -> None:
        """Replaces the live weights by reference + projected update, in place, computing in float32.

        Args:
            among: Identities (`id`) of the parameters that are projected; None for all.
        """
        parts = [part for part in self._parts if among is None or id(part.parameter) in among]
        self.traffic = project_parts(parts, component=self.component)

    @torch.no_grad()
    @in_full_precision()
    def project_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Replaces an optimizer's first moments (of Adam, or SGD's momentum) by their kept component, in place.

        Args:
            optimizer: A torch optimizer after a step; parameters may be sharded, by FSDP2 but not by ZeRO.

        Raises:
            UserError: If it keeps no first moment in floating point.
        """
        moments = []
        for part in self._parts:
            state = optimizer.state.get(part.parameter, {})
            found = next((state[name] for name in _MOMENTS if isinstance(state.get(name), Tensor)), None)
            if found is not None and found.is_floating_point():
                moments.append(part.stand_for(found))
        if self._parts and not moments:
            raise UserError(
                f"projection of moments must have an optimizer with {' or '.join(_MOMENTS)}, got "
                f"{type(optimizer).__name__} without"
            )
        project_parts(moments, component=self.component)

    @torch.no_grad()
    @in_full_precision()
    def penalize(self, weight: float) -> Tensor:
        """Adds the gradient of a penalty on what would be removed to the live gradients, in place.

        The penalty is weight · Σ ‖update − kept component‖², over all matrices whose parameter has a gradient; its
        gradient is 2 · weight · (update − kept component).

        Returns:
            The penalty, a float64 scalar on the device of the weights: to read it waits for the device.
        """
        total = torch.zeros(())
        for part in self._list_penalized():
            gradient = part.view_gradient()
            if gradient is not None:
                removed = part.find_removed(self.component)
                total = total.to(removed.device) + add_up(sum_squares(removed), part.home)
                gradient.add_(removed.to(gradient.dtype), alpha=2 * weight)
        return weight * total

    @torch.no_grad()
    @in_full_precision()
    def shrink(self, share: float) -> Tensor:
        """Takes a share of what would be removed from the live weights, in place: 0 does nothing, 1 projects.

        Returns:
            The squared norm of what is left of it, Σ ‖update − kept component‖² over all matrices, a scalar on the
            device of the weights.
        """
        total = torch.zeros(())
        for part in self._list_penalized():
            numbers, removed = part.view_numbers(), part.find_removed(self.component)
            numbers.copy_(numbers.float() - share * removed)
            total = total.to(removed.device) + add_up(sum_squares(removed), part.home)
        return (1 - share) ** 2 * total

    def _list_penalized(self) -> Iterator[MatrixPart]:
        if self._adapted:
            raise UserError("a penalty must have a model whose weights themselves are trained, got LoRA adapters")
        return (part.load() for part in self._parts)

    @torch.no_grad()
    @in_full_precision()
    def measure(self, *, since: Sequence[Tensor] | None = None) -> list[UpdateMeasure]:
        """Measures the live update of every matrix; changes nothing.

        Args:
            since: What `copy_weights` returned at an earlier time, from which the update is measured then; None for
                the reference.
        """
        starts = [None] * len(self._parts) if since is None else since
        if self._adapted:
            return [self._measure_adapted(*each) for each in zip(self._adapted, starts, strict=True)]
        sums = measure_parts(self._parts, starts).tolist()
        return [
            _describe(part.slot, part.rank, part.dimension, *each) for part, each in zip(self._parts, sums, strict=True)
        ]

    def _measure_adapted(self, adapted: AdaptedMatrix, since: Tensor | None) -> UpdateMeasure:
        basis = self.prepared.subspace.bases[adapted.slot.name].columns
        sums = adapted.measure(basis, find=self._find, side=self.side, since=since)
        return _describe(adapted.slot, basis.shape[1], basis.shape[0], *sums)

    @torch.no_grad()
    def copy_weights(self) -> list[Tensor]:
        """Returns copies of the live numbers that this process holds, in the memory of the CPU: it has more of it.

        Of adapters, copies of their whole factors.
        """
        if self._adapted:
            return [one.copy_factors(self._find).cpu() for one in self._adapted]
        return [part.view_numbers().detach().to("cpu", copy=True) for part in self._parts]


def _describe(
    slot: MatrixSlot, rank: int, dimension: int, inside: float, outside: float, num_stuck: float
) -> UpdateMeasure:
    return UpdateMeasure(
        slot=slot,
        rank=rank,
        dimension=dimension,
        inside=inside,
        outside=outside,
        num_stuck=int(num_stuck),
        num_weights=slot.rows * slot.columns,
    )


def _read_rounded(checkpoint: CheckpointReader, name: str, dtype: torch.dtype) -> Tensor:
    return _round_to(checkpoint.read(name), dtype)


def _round_to(reference: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds reference weights as the model's are; what fits into fewer bytes than the model's stays as it was read."""
    is_exact = torch.promote_types(reference.dtype, dtype) == dtype
    return reference if is_exact else reference.to(dtype)


def match_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Finds the live parameter behind each tensor name of a checkpoint.

    Raises:
        UserError: If a name has no parameter; up to three are named.
    """
    live = {strip_wrappers(name): parameter for name, parameter in model.named_parameters()}
    found = {name: live[match] for name, match in match_names(names, live, model).items()}
    absent = sorted({name for name in names if name not in found})
    if absent:
        raise UserError(
            f"every tensor of the subspace must be a parameter of the model, {len(absent)} are not: "
            f"{', '.join(absent[:3])} (the model has {', '.join(list(live)[:2])}, ...)"
        )
    return found


def _check_shape(name: str, parameter: nn.Parameter, reference: Tensor) -> None:
    found = tuple(getattr(parameter, "ds_shape", parameter.shape))  # under ZeRO-3 it reads as empty
    if found != tuple(reference.shape):
        raise UserError(f"parameter {name} must have the reference's shape {tuple(reference.shape)}, got {found}")
