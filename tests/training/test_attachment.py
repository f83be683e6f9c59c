"""What a projection refuses when it is attached: one clear error each, before anything is trained."""

import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from safety_lightning.errors import UserError
from safety_lightning.projection import HeldNumbers, SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training import ProjectUpdate, ProjectUpdateTrainerCallback, attach_projection
from safety_lightning.training.lora import check_peft
from safety_lightning.training.optimization import check_steps_taken
from safety_lightning.training.strategies import register_strategies
from tests.training.conftest import Batches, draw_batches, fit, make_module

MOVED = r"must be at the reference .*aligned when the projection is attached, \d+ matrices have moved: model\."


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))


@pytest.fixture
def model(pico_aligned: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32).train()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def take_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    model(**draw_batches(1)[0]).loss.backward()
    optimizer.step()


def make_trainer(model: PreTrainedModel, folder: Path, *callbacks: ProjectUpdateTrainerCallback) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=1, save_strategy="no", report_to=[], use_cpu=True, dataloader_pin_memory=False
    )
    rows = [{name: tensor[0] for name, tensor in batch.items()} for batch in draw_batches(8)]
    return Trainer(model, arguments, train_dataset=Batches(rows), callbacks=list(callbacks))


def test_second_projection_of_an_optimizer_is_refused(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    optimizer = make_optimizer(model)
    first = attach_projection(optimizer, model, spec)
    with pytest.raises(UserError, match="must have one projection, this one has one already"):
        attach_projection(optimizer, model, spec)
    first.remove()
    attach_projection(optimizer, model, spec)


def test_second_callback_is_refused(spec: SubspaceSpec, model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have one projection"):
        make_trainer(model, tmp_path, *(ProjectUpdateTrainerCallback(spec) for _ in range(2))).train()


def test_model_that_has_moved_is_refused_without_an_origin(
    spec: SubspaceSpec, model: PreTrainedModel, pico_aligned: Path, tmp_path: Path
) -> None:
    optimizer = make_optimizer(model)
    take_step(model, optimizer)
    with pytest.raises(UserError, match=MOVED):
        attach_projection(optimizer, model, spec)
    with pytest.raises(UserError, match=MOVED):
        make_trainer(model, tmp_path, ProjectUpdateTrainerCallback(spec)).train()
    moved = make_module(pico_aligned)
    moved.model = model
    with pytest.raises(UserError, match=MOVED):
        fit(moved, draw_batches(1), tmp_path, callbacks=[ProjectUpdate(spec)])
    make_trainer(model, tmp_path, ProjectUpdateTrainerCallback(spec, origin=str(pico_aligned))).train()


def test_run_goes_on_with_an_origin(spec: SubspaceSpec, model: PreTrainedModel, pico_aligned: Path) -> None:
    optimizer = make_optimizer(model)
    attach_projection(optimizer, model, spec, component="orthogonal").remove()
    take_step(model, optimizer)
    hook = attach_projection(optimizer, model, spec, component="orthogonal", origin=str(pico_aligned))
    take_step(model, optimizer)
    for one in hook.projector.measure():
        assert one.inside <= 1e-10 * max(one.total, 1e-3)


def test_adapter_that_has_moved_is_refused(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=1e-3)
    take_step(adapted, optimizer)
    with pytest.raises(UserError, match=MOVED):
        attach_projection(optimizer, adapted, spec)


def test_rounding_of_what_was_loaded_is_no_movement(spec: SubspaceSpec, pico_aligned: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.bfloat16).float()
    attach_projection(make_optimizer(model), model, spec)


def test_parameters_that_the_optimizer_does_not_own_are_named(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    some = [one for name, one in model.named_parameters() if "layers.1" not in name]
    told = r"must train every parameter that is projected and not frozen, 9 are not its own: model\.layers\.1\."
    with pytest.raises(UserError, match=told):
        attach_projection(torch.optim.SGD(some, lr=1e-3), model, spec)
    for name, one in model.named_parameters():
        one.requires_grad_("layers.1" not in name)
    attach_projection(torch.optim.SGD(some, lr=1e-3), model, spec)


def test_other_parameters_since_the_attachment_are_named(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    optimizer = make_optimizer(model)
    attach_projection(optimizer, model, spec)
    for group in optimizer.param_groups:  # as accelerate does for FSDP2
        group["params"] = [nn.Parameter(one.detach().clone()) for one in group["params"]]
    with pytest.raises(UserError, match="attach what `prepare` returned"):
        optimizer.step()


def test_parameter_group_of_different_processes_is_named(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    kinds = [object(), object()]  # a process group cannot be made for one process
    homes = {id(one): kinds["layers.1" in name] for name, one in model.named_parameters()}
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    for part in projector._parts:
        part.__dict__["home"] = homes[id(part.parameter)]
    told = r"group 0 holds model\.embed_tokens\.weight and model\.layers\.1\.\S+, which different ones do"
    with pytest.raises(UserError, match=told):
        projector.check_optimizer(make_optimizer(model))
    groups = [{"params": [one for one in model.parameters() if homes[id(one)] is kind]} for kind in kinds]
    projector.check_optimizer(torch.optim.SGD(groups, lr=1e-3))


def test_optimizer_of_deepspeed_is_named(spec: SubspaceSpec, model: PreTrainedModel) -> None:
    class Wrapper:
        optimizer = object()

    with pytest.raises(UserError, match="must be one of torch, got object: DeepSpeed's"):
        attach_projection(Wrapper(), model, spec)


def test_fsdp1_is_named(spec: SubspaceSpec) -> None:
    class Flattened(FullyShardedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(UserError, match="must be sharded by FSDP2"):
        projector.bind(nn.Sequential(Flattened()))


def test_shard_of_another_base_is_named(spec: SubspaceSpec, pico_base: Path) -> None:
    """A process that holds the last rows alone sees that an adapter's frozen weights are not the reference's."""
    model = AutoModelForCausalLM.from_pretrained(pico_base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))

    def hold_last_row(one: nn.Parameter) -> HeldNumbers:
        begin = one.numel() - one.shape[-1]
        return HeldNumbers(one.data.view(-1)[begin:], begin)

    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(UserError, match="adapters must be on the reference"):
        projector.bind(adapted, find=hold_last_row)


def test_changing_accumulation_is_refused_where_it_was_told() -> None:
    pytest.importorskip("deepspeed")
    register_strategies()
    calm = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "precision": "32-true"}
    changing = GradientAccumulationScheduler({0: 1, 1: 2})
    check_steps_taken(L.Trainer(max_steps=2, callbacks=[changing], **calm))
    with pytest.raises(UserError, match="no GradientAccumulationScheduler under ZeRO"):
        check_steps_taken(L.Trainer(max_steps=2, devices=2, strategy="zero2", callbacks=[changing], **calm))
    with pytest.raises(UserError, match="must be 1 beside a GradientAccumulationScheduler, got 2"):
        check_steps_taken(L.Trainer(max_steps=2, accumulate_grad_batches=2, callbacks=[changing], **calm))


def test_absent_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'safety_lightning\[lora\]'"):
        check_peft()
