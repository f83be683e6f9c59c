"""The same tiny model, trained on the same batches in every trainer, comes to the same weights."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from safety_lightning.checkpoints import load_tokenizer
from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec
from safety_lightning.training import ProjectUpdate, ProjectUpdateTrainerCallback, attach_projection
from tests.training.conftest import LEARNING_RATE, Batches, draw_batches, make_loader

BATCHES = draw_batches(6)
CALM = {"max_grad_norm": 0.0, "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
Train = Callable[[PreTrainedModel, SubspaceSpec, Path], None]


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)


def train_plainly(model: PreTrainedModel, spec: SubspaceSpec, folder: Path) -> None:
    optimizer = make_optimizer(model)
    attach_projection(optimizer, model, spec, component="orthogonal")
    for batch in BATCHES:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def train_by_accelerate(model: PreTrainedModel, spec: SubspaceSpec, folder: Path) -> None:
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model))
    attach_projection(optimizer, prepared, spec, component="orthogonal")
    for batch in BATCHES:
        accelerator.backward(prepared(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()


def train_in_order(kind: type[Trainer], model: PreTrainedModel, spec: SubspaceSpec, **settings: object) -> None:
    class InOrder(kind):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader[dict[str, Tensor]]:
            return make_loader(BATCHES)

    optimizer = make_optimizer(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    callback = ProjectUpdateTrainerCallback(spec, component="orthogonal")
    InOrder(model, optimizers=(optimizer, constant), callbacks=[callback], **settings).train()


def train_by_transformers(model: PreTrainedModel, spec: SubspaceSpec, folder: Path) -> None:
    arguments = TrainingArguments(str(folder), max_steps=len(BATCHES), **CALM)
    train_in_order(Trainer, model, spec, args=arguments, train_dataset=Batches(BATCHES))


def train_by_sft_trainer(model: PreTrainedModel, spec: SubspaceSpec, folder: Path) -> None:
    trl = pytest.importorskip("trl")
    arguments = trl.SFTConfig(str(folder), max_steps=len(BATCHES), bf16=False, gradient_checkpointing=False, **CALM)
    rows = Dataset.from_list([{name: one[0].tolist() for name, one in batch.items()} for batch in BATCHES])
    train_in_order(
        trl.SFTTrainer, model, spec, args=arguments, train_dataset=rows, processing_class=load_tokenizer("lab:aligned")
    )


def train_by_lightning(model: PreTrainedModel, spec: SubspaceSpec, folder: Path) -> None:
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self)

    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ProjectUpdate(spec, component="orthogonal")],
    )
    trainer.fit(Module(), make_loader(BATCHES))


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))


WAYS = [train_by_accelerate, train_by_transformers, train_by_sft_trainer, train_by_lightning]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the Trainer's advice on its own loader
@pytest.mark.parametrize("train", WAYS)
def test_every_trainer_comes_to_the_weights_of_a_plain_loop(
    train: Train, spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    results = []
    for one in (train_plainly, train):
        model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32).train()
        one(model, spec, tmp_path)
        results.append(model.state_dict())
    start = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32).state_dict()
    assert max(float((results[0][name] - tensor).abs().max()) for name, tensor in start.items()) > 1e-2
    for name, wanted in results[0].items():
        torch.testing.assert_close(results[1][name], wanted, atol=1e-5, rtol=0)


def test_second_attachment_is_refused(spec: SubspaceSpec, pico_aligned: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32)
    optimizer = make_optimizer(model)
    hook = attach_projection(optimizer, model, spec)
    with pytest.raises(UserError, match="must be attached once"):
        hook.attach(optimizer)
    hook.remove()
    hook.attach(optimizer)


def test_optimizer_of_another_model_is_refused(spec: SubspaceSpec, pico_aligned: Path) -> None:
    model, other = (AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32) for _ in range(2))
    with pytest.raises(UserError, match="must train a parameter that is projected, it trains none"):
        attach_projection(make_optimizer(other), model, spec)
