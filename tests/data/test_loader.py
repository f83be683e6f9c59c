"""Resumes real Trainer runs at every place and compares the batches with those of an undisturbed run."""

from functools import partial

import lightning as L
import pytest
import torch

from safety_lightning.data.batching import LengthGroupedBatchSampler, collate_examples
from safety_lightning.data.chat import EncodedExample
from safety_lightning.data.dataset import EncodedDataset
from safety_lightning.data.loader import ResumableDataLoader
from safety_lightning.system.lightning_internals import settle_finished_epoch

NUM_EXAMPLES, BATCH_SIZE = 19, 4
NUM_BATCHES = 5  # the last one holds 3

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),  # 2026-07: inside lightning 2.6
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


def make_loader(*, num_workers: int = 0, seed: int = 0, batch_size: int = BATCH_SIZE) -> ResumableDataLoader:
    examples = [EncodedExample([number] * (2 + number % 5), 1) for number in range(NUM_EXAMPLES)]
    dataset = EncodedDataset.pack(enumerate(examples))
    return ResumableDataLoader(
        dataset,
        batch_sampler=LengthGroupedBatchSampler(dataset.lengths, batch_size, seed=seed),
        collate_fn=partial(collate_examples, pad_token_id=0),
        num_workers=num_workers,
        content="abc",
    )


def list_ids(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["input_ids"][:, 0].tolist()


class Data(L.LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self):
        settle_finished_epoch(self.trainer)
        return make_loader(num_workers=self.num_workers)

    def val_dataloader(self):
        return [torch.zeros(1)]


class Recorder(L.LightningModule):
    """Records which examples it was given; its random numbers stand for dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, list_ids(batch)))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(L.Callback):
    """Saves after every optimizer step, and at the end of every epoch and validation."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.num_seen: dict[str, int] = {}

    def save(self, trainer, name: str) -> None:
        path = f"{self.folder}/{trainer.current_epoch}-{name}.ckpt"
        trainer.save_checkpoint(path)
        self.num_seen[path] = len(trainer.lightning_module.seen)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.save(trainer, f"batch{batch_idx}")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "end")

    def on_validation_end(self, trainer, pl_module):
        self.save(trainer, f"validation{len(pl_module.seen)}")


def fit(folder, *, ckpt_path=None, num_workers=0, save=False, validate=False, **settings):
    model = Recorder()
    callbacks = [SaveEverywhere(folder)] if save else []
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
        **settings,
    )
    trainer.fit(model, datamodule=Data(num_workers), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return model.seen, callbacks[0].num_seen if save else {}


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 3},
        {"max_steps": 13},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": 3, "limit_train_batches": 3},
        {"max_epochs": 2, "validate": True, "val_check_interval": 2},
        {"max_steps": 11, "validate": True, "val_check_interval": 2},
        {"max_steps": 11, "validate": True},
        {"max_steps": 6, "accumulate_grad_batches": 2},
        {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1},
    ],
    ids=[
        "epochs",
        "steps",
        "accumulated",
        "limited",
        "validated",
        "steps-validated",
        "steps-validated-once",
        "steps-accumulated",
        "reloaded",
    ],
)
def test_a_resumed_run_sees_the_batches_that_were_left(tmp_path, settings):
    seen, num_seen = fit(tmp_path, save=True, **settings)
    assert len(num_seen) >= 6
    for path, count in num_seen.items():
        resumed, _ = fit(tmp_path, ckpt_path=path, **settings)
        assert resumed == seen[count:], path


def test_workers_make_no_difference(tmp_path):
    seen, num_seen = fit(tmp_path, save=True, max_epochs=2, num_workers=2)
    assert seen == fit(tmp_path, max_epochs=2)[0]
    for path in [path for path in num_seen if "0-batch1" in path or "0-end" in path or "1-batch2" in path]:
        resumed, _ = fit(tmp_path, ckpt_path=path, max_epochs=2, num_workers=2)
        assert resumed == seen[num_seen[path] :], path


def test_every_epoch_holds_every_example_in_another_order(tmp_path):
    seen, _ = fit(tmp_path, max_epochs=3)
    epochs = [[ids for number, ids in seen if number == epoch] for epoch in range(3)]
    for batches in epochs:
        assert len(batches) == NUM_BATCHES
        assert sorted(index for ids in batches for index in ids) == list(range(NUM_EXAMPLES))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_works_in_a_plain_loop():
    loader = make_loader()
    epochs = [[list_ids(batch) for batch in loader] for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]

    resumed = make_loader()
    for number, _ in enumerate(loader):  # the fourth epoch, left after three batches
        if number == 2:
            break
    resumed.load_state_dict(loader.state_dict())
    rest = [list_ids(batch) for batch in resumed]
    fourth = make_loader()
    fourth.batch_sampler.set_epoch(3)
    assert rest == [list_ids(batch) for batch in fourth][3:]
    assert len(resumed) == NUM_BATCHES
    assert len([list_ids(batch) for batch in resumed]) == NUM_BATCHES


def test_an_iteration_left_early_is_not_resumed_but_followed_by_the_next_epoch():
    loader = make_loader()
    next(iter(loader))
    assert loader.state_dict()["num_yielded"] == 1
    list(loader)
    assert loader.state_dict()["epoch"] == 1


def test_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(make_loader())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seed": 1}, "seed must be 0, got 1"), ({"batch_size": 2}, "batch_size must be 4, got 2")],
)
def test_refuses_to_resume_with_other_settings(settings, message):
    state = make_loader().state_dict()
    with pytest.raises(ValueError, match=f"must be resumed with the data it began with: {message}"):
        make_loader(**settings).load_state_dict(state)


def test_refuses_to_resume_with_other_data():
    loader = make_loader()
    with pytest.raises(ValueError, match="content must be 'other', got 'abc'"):
        loader.load_state_dict(loader.state_dict() | {"content": "other"})
