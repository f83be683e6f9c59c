"""Lightning's private names are where this package expects them; resuming itself is tested in data/test_loader.py."""

import lightning as L
import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from safety_lightning.system.lightning_internals import check_sampler, rewind, settle_finished_epoch

MOVED = "Lightning {} has changed {}: find what took its place, and mend safety_lightning/system/lightning_internals.py"


def make_trainer(**settings: object) -> L.Trainer:
    return L.Trainer(
        **({"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False} | settings)
    )


def test_names_are_still_there() -> None:
    trainer = make_trainer()
    for holder, name in (
        ("_accelerator_connector", "use_distributed_sampler"),
        ("fit_loop", "_restarting"),
        ("_logger_connector", "should_update_logs"),
    ):
        assert hasattr(getattr(trainer, holder, None), name), MOVED.format(L.__version__, f"{holder}.{name}")


def test_a_checkpoint_counts_batches_where_they_are_taken_back() -> None:
    trainer = make_trainer(max_steps=4)
    for name in ("ready", "started", "processed"):
        setattr(trainer.fit_loop.epoch_loop.batch_progress.current, name, 5)
        setattr(trainer.fit_loop.epoch_loop.batch_progress.total, name, 9)
    trainer.fit_loop.epoch_loop.batch_progress.current.completed = 4
    trainer.fit_loop.epoch_loop.batch_progress.total.completed = 8
    trainer.fit_loop.epoch_loop._batches_that_stepped = 3
    state = {"state_dict": {}, **{k: v for k, v in trainer.fit_loop.state_dict().items() if k != "state_dict"}}
    told = MOVED.format(L.__version__, "what a checkpoint says of a fit")
    assert {"epoch_loop.batch_progress", "epoch_loop.state_dict"} <= set(state), told
    rewind(state, 2)
    found = state["epoch_loop.batch_progress"]
    assert found["current"] == {"ready": 3, "started": 3, "processed": 3, "completed": 2}, told
    assert found["total"] == {"ready": 7, "started": 7, "processed": 7, "completed": 6}, told
    assert state["epoch_loop.state_dict"]["_batches_that_stepped"] == 2, told


def test_strategy_has_a_size_of_parallel_data() -> None:
    strategy = ModelParallelStrategy()
    assert strategy._data_parallel_size == "auto", MOVED.format(L.__version__, "_data_parallel_size")


def test_finished_epoch_is_settled() -> None:
    trainer = make_trainer(max_steps=4)
    trainer.fit_loop.restarting = True
    assert trainer.fit_loop.restarting, MOVED.format(L.__version__, "when a run of max_steps restarts")
    settle_finished_epoch(trainer)
    assert not trainer.fit_loop.restarting, MOVED.format(L.__version__, "fit_loop._restarting")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_sampler_of_the_trainer_is_refused_where_it_would_divide_data_again(num_processes: int) -> None:
    check_sampler(make_trainer(devices=num_processes, use_distributed_sampler=False))
    trainer = make_trainer(devices=num_processes, use_distributed_sampler=True)
    if num_processes == 1:
        check_sampler(trainer)
        return
    with pytest.raises(ValueError, match="use_distributed_sampler of the Trainer must be false, got true"):
        check_sampler(trainer)
