"""The strategies' short names, what they refuse, and DeepSpeed's private names."""

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from safety_lightning.cli.verbs.base import describe_refusal
from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec
from safety_lightning.training import PenalizeUpdate, ProjectUpdate
from safety_lightning.training.strategies import FSDP2Strategy, ZeroStrategy, register_strategies, shares_weights

MOVED = "DeepSpeed {} has changed {}: find what took its place, and mend safety_lightning/training/zero.py"


SPEC = SubspaceSpec(base="a", reference="b")


def make_trainer(strategy: object, *, devices: int = 2, **options: int) -> L.Trainer:
    register_strategies()
    off = {"logger": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", devices=devices, strategy=strategy, precision="32-true", **off, **options)


def test_fsdp2_is_known_by_its_short_name() -> None:
    trainer = make_trainer("fsdp2")
    assert isinstance(trainer.strategy, FSDP2Strategy)
    assert shares_weights(trainer)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_known_by_its_short_name(stage: int) -> None:
    pytest.importorskip("deepspeed")
    trainer = make_trainer(f"zero{stage}")
    assert isinstance(trainer.strategy, ZeroStrategy)
    assert trainer.strategy.config["zero_optimization"]["stage"] == stage
    assert shares_weights(trainer) == (stage == 3)


def test_other_ways_to_deepspeed_are_refused_with_what_to_take() -> None:
    pytest.importorskip("deepspeed")
    callback = ProjectUpdate(SPEC)
    with pytest.raises(UserError, match=r"must be zero1, zero2 or zero3 .* or fsdp2 .* in place of Lightning's own"):
        callback.check_strategy(make_trainer(DeepSpeedStrategy()))


@pytest.mark.parametrize("callback", [ProjectUpdate(SPEC), PenalizeUpdate(SPEC)], ids=["project", "penalize"])
def test_fsdp_is_refused_with_what_to_take(callback: ProjectUpdate | PenalizeUpdate) -> None:
    trainer = SimpleNamespace(strategy=object.__new__(FSDPStrategy))  # which would want a GPU
    with pytest.raises(UserError, match=r"trainer\.strategy .*fsdp2"):
        callback.check_strategy(trainer)  # type: ignore[arg-type]


class OwnModule(BoringModel):
    def configure_model(self) -> None:
        raise AssertionError("it was made before it was refused")


def test_zero_refuses_to_train_another_module() -> None:
    pytest.importorskip("deepspeed")
    trainer = make_trainer("zero2", devices=1, max_epochs=1)
    with pytest.raises(UserError, match=r"must be fsdp2 or ddp for a LightningModule of your own.* of OwnModule would"):
        trainer.fit(OwnModule())


def test_absent_deepspeed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_AVAILABLE", False)
    monkeypatch.setattr("safety_lightning.cli.verbs.base.find_version", lambda name: None)
    with pytest.raises(Exception, match="DeepSpeed") as refused:
        make_trainer("zero2")
    assert "pip install 'safety_lightning[deepspeed]'" in describe_refusal(refused.value)


def test_private_names_of_deepspeed_are_still_there() -> None:
    deepspeed = pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    linkage, fragments = (
        importlib.import_module(f"deepspeed.utils.{name}") for name in ("mixed_precision_linkage", "tensor_fragment")
    )
    sources = {
        "stage 1 and 2": (stage_1_and_2.DeepSpeedZeroOptimizer, "single_partition_of_fp32_groups"),
        "its groups": (stage_1_and_2.DeepSpeedZeroOptimizer, "bit16_groups"),
        "its processes": (stage_1_and_2.DeepSpeedZeroOptimizer, "real_dp_process_group"),
        "its inner optimizer": (stage_1_and_2.DeepSpeedZeroOptimizer, "self.optimizer = "),
        "its norm": (stage_1_and_2.DeepSpeedZeroOptimizer, "_global_grad_norm"),
        "update_lp_params": (stage_1_and_2.DeepSpeedZeroOptimizer, "def update_lp_params"),
        "stage 3": (stage3.DeepSpeedZeroOptimizer_Stage3, "fp32_partitioned_groups_flat"),
        "its inner one": (stage3.DeepSpeedZeroOptimizer_Stage3, "self.optimizer = "),
        "its weights": (stage3.DeepSpeedZeroOptimizer_Stage3, "self.fp16_groups"),
        "its own processes": (stage3.DeepSpeedZeroOptimizer_Stage3, "self.dp_process_group"),
        "its own norm": (stage3.DeepSpeedZeroOptimizer_Stage3, "_global_grad_norm"),
        "its numbers": (stage3.DeepSpeedZeroOptimizer_Stage3, "def get_param_id"),
        "its places": (stage3.DeepSpeedZeroOptimizer_Stage3, "self.grad_position["),
        "its rounding": (stage3.DeepSpeedZeroOptimizer_Stage3, "_reassign_or_swap_out_partitioned_parameters"),
        "fragments": (fragments.tensor_fragment, "lp_fragment_address: fragment_address"),
        "their masters": (fragments.tensor_fragment, "hp_fragment: "),
        "their link": (linkage, "lp_param._hp_mapping"),
    }
    for what, (holder, name) in sources.items():
        assert name in inspect.getsource(holder), MOVED.format(deepspeed.__version__, f"{what} ({name})")
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__, MOVED.format(deepspeed.__version__, "its kernels")


def test_zero_counts_optimizer_steps_and_not_groups() -> None:
    from safety_lightning.training.zero import ZeroSteps

    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    inner = torch.optim.SGD([{"params": [one]} for one in weights], lr=0.1)

    class Masters:
        stepping: int

        def __init__(self) -> None:
            self.inner = inner

        def list_stepped(self) -> set[int]:
            return {self.stepping}

    masters, seen = Masters(), []
    ZeroSteps(masters, lambda begins, stepped: seen.append((begins, *stepped)))
    for _ in range(2):
        for masters.stepping in (7, 8):
            inner.step()
    assert seen == [(True, 7), (False, 8), (True, 7), (False, 8)]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


def test_checkpoint_of_zero_that_names_anything_else_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    loaded: list[Path] = []
    monkeypatch.setattr(DeepSpeedStrategy, "load_checkpoint", lambda self, path, weights_only: loaded.append(path))
    load, folder = ZeroStrategy(2).load_checkpoint, tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(UserError, match="latest must name the folder checkpoint"):
        load(tmp_path)
    (tmp_path / "latest").write_text("../elsewhere")
    with pytest.raises(UserError, match="latest must name the folder checkpoint"):
        load(tmp_path)
    (tmp_path / "latest").write_text("checkpoint")
    torch.save({"weights": torch.ones(2), "more": Evil()}, folder / "bad.pt")
    with pytest.raises(UserError, match=r"must hold tensors and DeepSpeed's own values, it names builtins\.exec"):
        load(tmp_path)
    (folder / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="must be a file of a ZeRO checkpoint, it cannot be read"):
        load(tmp_path)
    assert not loaded
    torch.save({"weights": torch.ones(2)}, folder / "bad.pt")
    load(tmp_path)
    assert loaded == [tmp_path]
