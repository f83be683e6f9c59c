"""What `predict` writes: every prompt once, the same after a kill, and nothing where something is wrong."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file, save_file

from safety_lightning.activations.capture import HiddenCapture, find_last_attended, pool_position
from safety_lightning.activations.datamodule import PromptData
from safety_lightning.activations.module import ActivationModule
from safety_lightning.activations.storage import INDEX_FILE, ActivationFolder, name_shard
from safety_lightning.activations.writer import ActivationWriter, check_trainer
from safety_lightning.checkpoints import CheckpointReader, load_model
from safety_lightning.data import InstructionSource, pad_sequences
from tests.activations.conftest import SETS, make_data, make_trainer
from tests.conftest import copy_checkpoint


class InterruptionError(Exception):
    """Stands for what kills a run."""


class InterruptedModule(ActivationModule):
    """Fails at its fourth batch: after the first shard of two batches, within the second."""

    def predict_step(self, batch: Any, batch_idx: int = 0) -> torch.Tensor:
        if batch_idx == 3:
            raise InterruptionError
        return super().predict_step(batch, batch_idx)


class PoisonedModule(ActivationModule):
    """Gives a NaN in layer 1 of one prompt."""

    def predict_step(self, batch: Any, batch_idx: int = 0) -> torch.Tensor:
        hidden = super().predict_step(batch, batch_idx)
        if 4 in batch.indices:
            hidden[batch.indices.index(4), 1, 3] = float("nan")
        return hidden


def run(model: Path, folder: Path, *, module: ActivationModule | None = None, **options: Any) -> PromptData:
    data = make_data(model, **options)
    make_trainer(folder).predict(module or ActivationModule(str(model)), data, return_predictions=False)
    return data


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def straight(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("straight") / "activations"
    run(model_folder, folder)
    return folder


def test_every_prompt_is_written_once_with_its_own_vectors(model_folder: Path, straight: Path) -> None:
    data = make_data(model_folder)
    data.prepare()
    capture = HiddenCapture(load_model(model_folder, dtype=torch.float32))
    assert {file.name for file in straight.iterdir()} == {"useful", "harmful"}
    for name in SETS:
        activations = ActivationFolder(straight / name)
        prompts = [prompt for prompt in data.prompts if prompt.set == name]
        assert [record.id for record in activations.index.prompts] == [prompt.id for prompt in prompts]
        assert [record.text_hash for record in activations.index.prompts] == [one.hash_text() for one in prompts]
        assert [record.num_tokens for record in activations.index.prompts] == [one.num_tokens for one in prompts]
        assert len(list((straight / name).glob("*.safetensors"))) == -(-len(prompts) // 4)
        found = torch.stack([activations.read_layer(layer) for layer in range(3)], dim=1)
        for prompt, hidden in zip(prompts, found, strict=True):
            input_ids, mask = pad_sequences([prompt.input_ids], pad_token_id=0, padding="right")
            alone = capture.run(input_ids, mask, pool_position(find_last_attended(mask)))[0]
            torch.testing.assert_close(hidden, alone, atol=1e-6, rtol=1e-6)


def test_the_index_says_how_it_was_made(model_folder: Path, straight: Path) -> None:
    index = ActivationFolder(straight / "useful").index
    assert (index.model, index.token) == (str(model_folder), "prompt")
    assert index.model_hashes == CheckpointReader(model_folder).hash_files()
    assert index.settings["token_position"] == "last_attended"
    assert index.settings["template"] == "chat"
    assert (index.settings["batch_size"], index.settings["padding"]) == (2, "right")
    assert index.settings["counts"]["num_prompts"] == 11


def test_a_stopped_run_resumes_to_the_same_files(model_folder: Path, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "activations"
    with pytest.raises(InterruptionError):
        run(model_folder, folder, module=InterruptedModule(str(model_folder)))
    (only,) = [file for file in folder.rglob("*") if file.is_file()]
    assert only.relative_to(folder) == Path("useful") / name_shard(0)
    written = only.stat().st_mtime_ns
    run(model_folder, folder)
    assert only.stat().st_mtime_ns == written  # it was not captured again
    assert read_files(folder) == read_files(straight)


def test_a_finished_run_stays_as_it_is(model_folder: Path, straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "activations")
    (folder / "harmful" / INDEX_FILE).unlink()
    run(model_folder, folder, module=PoisonedModule(str(model_folder)))  # nothing is left for it to poison
    assert read_files(folder) == read_files(straight)


def test_a_damaged_shard_is_captured_again(
    model_folder: Path, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(straight, tmp_path / "activations")
    shard = folder / "useful" / name_shard(1)
    shard.write_bytes(shard.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        run(model_folder, folder)
    assert "Damaged shard" in caplog.text
    assert read_files(folder) == read_files(straight)


def test_a_shard_in_the_place_of_another_or_with_other_bytes_is_captured_again(
    model_folder: Path, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(straight, tmp_path / "activations")
    shutil.copy(folder / "useful" / name_shard(1), folder / "useful" / name_shard(0))
    changed = folder / "harmful" / name_shard(0)
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    with caplog.at_level(logging.WARNING):
        run(model_folder, folder)
    assert caplog.text.count("it is not what it was written as") >= 2
    assert read_files(folder) == read_files(straight)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 3}, {"seed": 1}, {"padding": "left"}, {"template": "plain"}, {"sets": {"useful": "lab:safe"}}],
)
def test_another_capture_is_not_mixed_in(
    model_folder: Path, straight: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = shutil.copytree(straight, tmp_path / "activations")
    with pytest.raises(ValueError, match=r"must be new or hold this very capture, got activations-0.* of other inputs"):
        run(model_folder, folder, **change)
    assert read_files(folder) == read_files(straight)


def test_other_weights_are_not_mixed_in(model_folder: Path, straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "activations")
    other = copy_checkpoint(model_folder, tmp_path / "other", lambda name, tensor: tensor * 1.01)
    with pytest.raises(ValueError, match="must be new or hold this very capture"):
        run(other, folder)


def test_nan_is_named_and_its_shard_not_written(model_folder: Path, tmp_path: Path) -> None:
    data = make_data(model_folder)
    data.prepare()
    with pytest.raises(
        ValueError, match=rf"NaN or infinity in layer 1 of prompt {data.prompts[4].id} \(1 of 2 prompts"
    ):
        run(model_folder, tmp_path / "activations", module=PoisonedModule(str(model_folder)))
    assert not list(tmp_path.rglob(INDEX_FILE))
    assert all(load_file(file)["hidden"].isfinite().all() for file in tmp_path.rglob("*.safetensors"))


def test_a_set_that_is_not_whole_has_no_index(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, limit_predict_batches=6)  # all shards of the first set
    with caplog.at_level(logging.WARNING):
        trainer.predict(ActivationModule(str(model_folder)), make_data(model_folder), return_predictions=False)
    assert [file.parent.name for file in tmp_path.rglob(INDEX_FILE)] == ["useful"]
    assert "Prompt set harmful has 0 of 2 shards, and no index yet" in caplog.text


class Place:
    """A trainer as one of three processes sees it."""

    def __init__(self, folder: Path, data: PromptData, rank: int) -> None:
        trainer = make_trainer(folder)
        self.strategy, self.precision, self.datamodule = trainer.strategy, trainer.precision, data
        self._accelerator_connector = trainer._accelerator_connector
        self.global_rank, self.world_size = rank, 3


def test_processes_share_the_shards(model_folder: Path, tmp_path: Path) -> None:
    shares = []
    for rank in range(3):
        data = make_data(model_folder)
        writer = ActivationWriter(str(tmp_path), shard_megabytes=0.0016)
        writer.setup(Place(tmp_path, data, rank), ActivationModule(str(model_folder)), "predict")
        assert data.allow_zero_length_dataloader_with_multiple_devices  # else a process without a shard fails
        shares.append([index for batch in data.predict_dataloader() for index in batch.indices])
    assert sorted(index for share in shares for index in share) == list(range(18))
    assert min(map(len, shares)) >= 3


@pytest.fixture
def bare_model(model_folder: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(model_folder, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    return folder


def expect_refusal(folder: Path, message: str, module: ActivationModule, data: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(folder, **options).predict(module, data, return_predictions=False)
    assert not folder.exists()


def test_a_chat_needs_a_chat_template(bare_model: Path, tmp_path: Path) -> None:
    module, data = ActivationModule(str(bare_model)), make_data(bare_model)
    expect_refusal(tmp_path / "out", "whose tokenizer has no chat template", module, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"context of 64 tokens, got 1 that are longer: long-00001 has \d+"),
        (
            {"token": "generated", "max_new_tokens": 55},
            r"context of 64 tokens, less max_new_tokens 55, got 2 that are longer: long-00001 has",
        ),
    ],
)
def test_prompts_must_fit_the_context(
    model_folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in ("a b c d e f", "a " * 80, "a b c d e f g"))
    )
    data = make_data(model_folder, {"long": str(file)})
    expect_refusal(tmp_path / "out", message, ActivationModule(str(model_folder), **options), data)


def test_fewer_prompts_than_asked_and_empty_sets(model_folder: Path, tmp_path: Path) -> None:
    module = ActivationModule(str(model_folder))
    file = tmp_path / "few.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    data = make_data(model_folder, {"few": str(file)}, num_prompts=3)
    expect_refusal(tmp_path / "out", "few must hold the 3 prompts asked for, got 2 distinct", module, data)
    file.write_text("")
    data = make_data(model_folder, {"few": str(file)})
    expect_refusal(tmp_path / "out", "must hold at least one row of data, got none", module, data)
    expect_refusal(tmp_path / "out", "must name at least one prompt set", module, make_data(model_folder, {}))


def test_responses_must_be_read_where_they_are_wanted(model_folder: Path, tmp_path: Path) -> None:
    given = ActivationModule(str(model_folder), token="mean", response="given")
    message = "with_responses of the data must be True where the module's response is given, got False"
    expect_refusal(tmp_path / "out", message, given, make_data(model_folder))


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_the_trainer_must_leave_precision_to_the_module(model_folder: Path, tmp_path: Path, precision: str) -> None:
    module, data = ActivationModule(str(model_folder)), make_data(model_folder)
    message = f"precision of the Trainer must be 32-true, got {precision}"
    expect_refusal(tmp_path / "out", message, module, data, precision=precision)


def test_the_trainer_must_keep_the_model_whole_and_leave_the_data_alone() -> None:
    trainer = make_trainer(None)
    check_trainer(trainer)
    trainer._accelerator_connector.strategy = ModelParallelStrategy()
    with pytest.raises(ValueError, match=r"keep the whole model in each process \(ddp\), got ModelParallelStrategy"):
        check_trainer(trainer)
    trainer = make_trainer(None, devices=2, strategy="ddp", use_distributed_sampler=True)
    with pytest.raises(ValueError, match="use_distributed_sampler of the Trainer must be false, got true"):
        check_trainer(trainer)


def test_the_writer_writes_for_its_own_module_and_data(model_folder: Path, tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader([0])
    with pytest.raises(ValueError, match="must run with ActivationModule and the datamodule PromptData, got"):
        make_trainer(tmp_path / "out").predict(ActivationModule(str(model_folder)), loader)
    with pytest.raises(ValueError, match="shard_megabytes must be above 0, got 0"):
        ActivationWriter(shard_megabytes=0)
    with pytest.raises(ValueError, match="folder of the activations must be given, got none"):
        ActivationWriter().prepare(ActivationModule(str(model_folder)), make_data(model_folder))


def test_the_size_on_disk_is_estimated(model_folder: Path, straight: Path) -> None:
    writer = ActivationWriter(str(straight), shard_megabytes=0.0016)
    writer.prepare(ActivationModule(str(model_folder)), make_data(model_folder))
    tensors = sum(load_file(file)["hidden"].nbytes for file in straight.rglob("*.safetensors"))
    assert writer.estimate_bytes() == tensors


def test_a_foreign_file_is_not_taken_for_a_shard(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "useful").mkdir()
    save_file({"hidden": torch.zeros(4, 3, 32)}, tmp_path / "useful" / name_shard(0))
    with pytest.raises(ValueError, match="must be new or hold this very capture"):
        run(model_folder, tmp_path)


def test_prompt_sets_may_hold_one_prompt(model_folder: Path, tmp_path: Path) -> None:
    run(model_folder, tmp_path, sets={"one": InstructionSource(preset="lab:useful", size=1)})
    assert ActivationFolder(tmp_path / "one").num_prompts == 1
