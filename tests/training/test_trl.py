"""TRL's DPOTrainer against a plain loop of the same loss, and its update's energy on the wrong side."""

import itertools
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, Trainer

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.lab.world import generate_examples
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace, sum_leak
from safety_lightning.training import ProjectUpdateTrainerCallback, attach_projection

trl = pytest.importorskip("trl")
BETA = 0.1
LEARNING_RATE = 1e-3


def make_pairs(num_pairs: int) -> list[dict[str, str]]:
    """Problems with their answer and the answer of another one."""
    examples = generate_examples("useful", split="train", size=num_pairs + 1, seed=0)
    return [
        {"prompt": one.prompt, "chosen": one.response, "rejected": other.response}
        for one, other in itertools.pairwise(examples)
    ]


def sum_log_probabilities(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> Tensor:
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), answer].sum()


def compute_dpo_loss(model: PreTrainedModel, start: PreTrainedModel, pair: dict[str, list[int]]) -> Tensor:
    """Direct preference optimisation: −log σ(β · (gain of the chosen answer − gain of the rejected one))."""
    gains = []
    for answer in (pair["chosen_ids"], pair["rejected_ids"]):
        with torch.no_grad():
            before = sum_log_probabilities(start, pair["prompt_ids"], answer)
        gains.append(sum_log_probabilities(model, pair["prompt_ids"], answer) - before)
    return -logsigmoid(BETA * (gains[0] - gains[1]))


def train_plainly(model: PreTrainedModel, start: PreTrainedModel, spec: SubspaceSpec, pairs: list[dict]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    attach_projection(optimizer, model, spec, component="orthogonal")
    for pair in pairs:
        compute_dpo_loss(model, start, pair).backward()
        optimizer.step()
        optimizer.zero_grad()


def make_trainer(model: PreTrainedModel, start: PreTrainedModel, folder: Path, **settings: object) -> Trainer:
    arguments = trl.DPOConfig(
        str(folder),
        beta=BETA,
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        optim="adamw_torch",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        bf16=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return trl.DPOTrainer(
        model,
        ref_model=start,
        args=arguments,
        train_dataset=Dataset.from_list(make_pairs(6)),
        processing_class=load_tokenizer("lab:aligned"),
        **settings,
    )


def test_dpo_trainer_comes_to_the_weights_of_a_plain_loop(tmp_path: Path) -> None:
    spec = SubspaceSpec(base="lab:base", reference="lab:aligned")
    start, plain, trained = (load_model("lab:aligned", dtype=torch.float32).train() for _ in range(3))
    callback = ProjectUpdateTrainerCallback(spec, component="orthogonal")
    trainer = make_trainer(trained, start, tmp_path, callbacks=[callback])
    trainer.train()
    train_plainly(plain, start, spec, list(trainer.train_dataset))
    begin, wanted = start.state_dict(), plain.state_dict()
    assert max(float((wanted[name] - tensor).abs().max()) for name, tensor in begin.items()) > 1e-3
    for name, found in trained.state_dict().items():
        torch.testing.assert_close(found, wanted[name], atol=1e-5, rtol=0)
    projector = UpdateProjector(prepare_subspace(spec), component="orthogonal")
    projector.bind(trained)
    assert sum_leak(projector.measure(), "orthogonal") ** 2 <= 1e-6
