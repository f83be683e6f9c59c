"""Trains a pico model under accelerate, by its own loop or the Hugging Face Trainer; run by test_other_trainers.py."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from safety_lightning import ProjectUpdateTrainerCallback, SubspaceSpec, attach_projection
from tests.training.conftest import LEARNING_RATE, Batches, draw_batches

NUM_STEPS = 6
EXAMPLES = [{name: tensor[0] for name, tensor in one.items()} for one in draw_batches(2 * NUM_STEPS, batch_size=1)]
for example in EXAMPLES:  # as many scored tokens in each, so that the mean of processes is that of the batch
    example["labels"], example["attention_mask"] = example["input_ids"], torch.ones_like(example["input_ids"])


def have_cpus_sharded() -> None:
    """Has accelerate take FSDP2 on CPUs too, where it would pass over the setting in silence and take DDP."""
    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *args: object, **settings: object) -> None:
        begin(self, *args, **settings)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = settings.get("fsdp_plugin") or FullyShardedDataParallelPlugin()

    AcceleratorState.__init__ = begin_sharded  # type: ignore[method-assign]


def make_optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)


def train_by_loop(model: PreTrainedModel, spec: SubspaceSpec, num_accumulated: int) -> torch.nn.Module:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=num_accumulated)
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model))
    attach_projection(optimizer, prepared, spec, component="orthogonal")
    for one in EXAMPLES[accelerator.process_index :: accelerator.num_processes]:
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**{name: tensor[None] for name, tensor in one.items()}).loss)
            optimizer.step()
            optimizer.zero_grad()
    return accelerator.unwrap_model(prepared)


def train_by_trainer(model: PreTrainedModel, spec: SubspaceSpec, num_accumulated: int, folder: str) -> torch.nn.Module:
    class InOrder(Trainer):
        def create_optimizer(self, *args: object) -> torch.optim.Optimizer:
            self.optimizer = make_optimizer(self.model)
            return self.optimizer

    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=num_accumulated,
        max_steps=NUM_STEPS,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = ProjectUpdateTrainerCallback(spec, component="orthogonal")
    trainer = InOrder(model, arguments, train_dataset=Batches(EXAMPLES), callbacks=[callback])
    trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model)


def main(way: str, folder: str, base: str, reference: str, num_accumulated: int) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP"):
        have_cpus_sharded()
    spec = SubspaceSpec(base=base, reference=reference)
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).train()
    if way == "loop":
        trained = train_by_loop(model, spec, num_accumulated)
    else:
        trained = train_by_trainer(model, spec, num_accumulated, folder)
    is_shared = any(isinstance(one, DTensor) for one in trained.parameters())
    print(f"sharded: {is_shared}", flush=True)
    weights = {
        name: (one.full_tensor() if isinstance(one, DTensor) else one).detach().clone()
        for name, one in trained.named_parameters()
    }
    if not dist.is_initialized() or dist.get_rank() == 0:
        save_file(weights, Path(folder) / "weights.safetensors")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:5], num_accumulated=int(sys.argv[5]))
