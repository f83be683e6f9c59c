import json
import os
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from safety_lightning.data import collate_examples
from safety_lightning.data.datamodule import InstructionData
from safety_lightning.data.sources import InstructionSource
from safety_lightning.files import hash_file
from tests.conftest import SHARED_DATA
from tests.data.conftest import make_rows, make_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),  # 2026-07: inside lightning 2.6
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),  # the same
]


class Recorder(L.LightningModule):
    """Records the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.weight)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def make_data(tokenizer_folder, tmp_path):
    def make(**settings) -> InstructionData:
        return InstructionData(**({"model": tokenizer_folder, "cache_dir": str(tmp_path / "cache")} | settings))

    return make


@pytest.fixture
def useful(write_jsonl):
    return write_jsonl(make_rows(40, "useful "), "useful.jsonl")


@pytest.fixture
def harmful(write_jsonl):
    return write_jsonl(make_rows(30, "harmful "), "harmful.jsonl")


def decode_batches(data: InstructionData, loader) -> list[list[str]]:
    return [data.tokenizer.batch_decode(batch["input_ids"]) for batch in loader]


@pytest.mark.parametrize("kind", ["useful", "harmful", "safe"])
def test_trains_on_the_kind_asked_for(make_data, write_jsonl, kind):
    paths = {name: write_jsonl(make_rows(6, name + " "), f"{name}.jsonl") for name in ("useful", "harmful", "safe")}
    data = make_data(kind=kind, **paths)
    texts = [text for (text,) in decode_batches(data, data.train_dataloader())]
    assert sorted(text.split("\n")[1].split(" ")[0] for text in texts) == [kind] * 6
    assert data.summary()["train"][f"num_{kind}"] == 6
    assert list(data.summary()["sources"]) == [kind]


@pytest.mark.parametrize(("of", "num_harmful"), [("mix", 10), ("useful", 8)])
def test_contaminates_by_the_share_asked_for(make_data, useful, harmful, of, num_harmful):
    data = make_data(kind="contaminated", useful=useful, harmful=harmful, harmful_share=0.2, harmful_share_of=of)
    counts = data.summary()["train"]
    assert (counts["num_useful"], counts["num_harmful"], counts["num_kept"]) == (40, num_harmful, 40 + num_harmful)


def test_the_mix_has_the_size_asked_for(make_data, useful, harmful):
    data = make_data(kind="contaminated", useful=useful, harmful=harmful, mix_size=40)
    counts = data.summary()["train"]
    assert (counts["num_useful"], counts["num_harmful"]) == (32, 8)


def test_batches_are_padded_and_masked(make_data, useful):
    data = make_data(useful=useful, batch_size=4)
    batches = list(data.train_dataloader())
    assert len(batches) == 10
    for batch in batches:
        trained = batch["labels"] >= 0
        assert torch.equal(batch["labels"][trained], batch["input_ids"][trained])
        assert (batch["attention_mask"][trained] == 1).all()
        ends = batch["attention_mask"].sum(1) - 1
        assert (batch["labels"].gather(1, ends[:, None]) == data.tokenizer.eos_token_id).all()  # though pad = eos


def test_holds_back_examples_that_are_never_trained_on(make_data, useful):
    data = make_data(useful=useful, num_validation=0.25, batch_size=3)
    train, held = (
        {text.split("\n")[1] for batch in decode_batches(data, loader) for text in batch}
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert (len(train), len(held), len(train & held)) == (30, 10, 0)


def test_takes_validation_data_from_a_source_and_counts_what_is_shared(make_data, useful, write_jsonl):
    rows = [*make_rows(2, "useful "), *make_rows(5, "new ")]
    data = make_data(useful=useful, validation=write_jsonl(rows, "validation.jsonl"))
    summary = data.summary()
    assert summary["validation"]["num_kept"] == 7
    assert summary["num_validation_prompts_in_training"] == 2
    assert len(list(data.val_dataloader())) == 7


@pytest.mark.parametrize("takes", [True, False])
def test_scored_positions_come_with_the_batch_where_a_module_takes_them(make_data, useful, takes):
    data = make_data(useful=useful)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(takes_positions=takes))
    data.prepare()
    batch = collate_examples([data.training_set[0], data.training_set[1]], pad_token_id=0)
    moved = data.on_before_batch_transfer(batch, 0)
    assert ("positions" in moved) == takes
    if takes:
        scored = {at - 1 for row in batch["labels"].tolist() for at, label in enumerate(row) if at and label != -100}
        assert moved["positions"].tolist() == sorted(scored)


def test_says_what_it_read(make_data, useful, harmful):
    source = InstructionSource(path=harmful, size=12)
    data = make_data(kind="contaminated", useful=useful, harmful=source)
    summary = json.loads(json.dumps(data.summary()))
    assert summary["sources"]["harmful"]["num_rows"] == 30
    assert summary["sources"]["harmful"]["num_taken"] == 12
    assert data.input_hashes() == {
        useful: "sha256:" + hash_file(Path(useful)),
        harmful: "sha256:" + hash_file(Path(harmful)),
    }


def test_the_same_seed_gives_the_same_run(make_data, useful, harmful):
    def draw(**settings) -> list[list[str]]:
        data = make_data(kind="contaminated", useful=useful, harmful=harmful, batch_size=4, **settings)
        return decode_batches(data, data.train_dataloader())

    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)


def test_preparing_twice_does_nothing(make_data, useful, monkeypatch):
    data = make_data(useful=useful)
    data.prepare()
    monkeypatch.setattr("safety_lightning.data.datamodule.read_source", None)
    data.prepare()
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_dataloader()) == 40


def test_testing_needs_no_training_data(make_data):
    make_data(useful="missing.jsonl").setup("test")


@pytest.mark.parametrize("num_validation", [0, 5])
def test_trains_under_lightning_without_warnings(make_data, useful, tmp_path, num_validation):
    data = make_data(useful=useful, num_validation=num_validation, batch_size=8)
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=data)
    assert len(model.seen) == 10
    assert ("val_loss" in trainer.callback_metrics) == bool(num_validation)


def attach(data: InstructionData, rank: int, world_size: int, *, replaces: bool = False) -> InstructionData:
    """Attaches what the data module asks a Trainer about."""
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=replaces),
        fit_loop=SimpleNamespace(restarting=False, epoch_progress=SimpleNamespace(current=None)),
    )
    return data


def test_divides_the_examples_over_the_processes(make_data, useful):
    batches = []
    for rank in range(3):
        data = attach(make_data(useful=useful, batch_size=4), rank, 3)
        batches.append(decode_batches(data, data.train_dataloader()))
        assert len(list(data.val_dataloader())) == 0
    assert [len(of_rank) for of_rank in batches] == [4, 4, 4]
    texts = [text.split("\n")[1] for of_rank in batches for batch in of_rank for text in batch]
    assert len(texts) == len(set(texts)) == 40


def test_refuses_lightnings_own_distributed_sampler(make_data, useful):
    with pytest.raises(ValueError, match="use_distributed_sampler of the Trainer must be false, got true"):
        attach(make_data(useful=useful), 0, 2, replaces=True).train_dataloader()


def test_lightning_has_the_private_names_that_we_use():
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    for owner, name in ((trainer._accelerator_connector, "use_distributed_sampler"), (trainer.fit_loop, "_restarting")):
        assert hasattr(owner, name), f"Lightning has no {name} any more: mend safety_lightning/data/datamodule.py"


class SeenWriter(L.Callback):
    """Writes what each process saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        rows = [batch["input_ids"].tolist() for batch in pl_module.seen]
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(rows))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_real_processes_share_every_epoch(make_data, useful, tmp_path):
    data = make_data(useful=useful, batch_size=4, num_validation=5)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=2,
        default_root_dir=tmp_path,
        callbacks=[SeenWriter(tmp_path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Recorder(), datamodule=data)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [10, 10]
    for epoch in range(2):
        rows = [str(row) for batches in ranks for batch in batches[5 * epoch : 5 * epoch + 5] for row in batch]
        assert len(rows) == len(set(rows)) == 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "evil"}, "kind must be useful, harmful, contaminated or safe, got 'evil'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_validation": -1}, "num_validation must be at least 0, got -1"),
        ({"num_validation": 5, "validation": "gsm8k"}, "from validation or num_validation, got both: 'gsm8k' and 5"),
        ({"too_long": "wrap"}, "too_long must be truncate or drop, got 'wrap'"),
    ],
)
def test_refuses_settings_out_of_range(make_data, settings, message):
    with pytest.raises(ValueError, match=message):
        make_data(**settings)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("", {}, r"data.jsonl must hold at least one row of data, got none"),
        ('{"prompt": "a", "answer": "b"}', {}, r"column 'response', got 'prompt', 'answer'"),
        ('{"prompt": "a", "response": "b"}\n{"promp', {}, "data.jsonl, line 2, must be one JSON object, got"),
        ('{"prompt": "a", "response": "b"}', {"max_length_tokens": 9}, "must leave room for responses .* got 9"),
        ('{"prompt": "a", "response": "b"}', {"num_validation": 1}, "not all of 1 examples, got 1"),
        ('{"prompt": "a", "response": "b"}', {"kind": "contaminated"}, "harmful example, got 1 and 0"),
        (None, {}, "data.jsonl does not exist"),
    ],
)
def test_bad_data_is_one_clear_error_and_nothing_is_written(make_data, tmp_path, content, settings, message):
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_text(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=message):
        make_data(useful=str(path), harmful=str(path), **settings).prepare()
    assert sorted(os.listdir(tmp_path)) == before


def test_a_model_without_a_chat_template_needs_the_plain_one(tmp_path, useful):
    make_tokenizer(chat_template=None).save_pretrained(tmp_path / "base")
    settings = {"model": str(tmp_path / "base"), "useful": useful, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"no chat template; say `template: plain`"):
        InstructionData(**settings).prepare()
    assert not (tmp_path / "cache").exists()
    assert InstructionData(template="plain", **settings).summary()["train"]["num_kept"] == 40


CONFIG = """
data:
  model: {model}
  kind: contaminated
  useful: {useful}
  harmful:
    preset: beavertails_unsafe
    path: {harmful}
    size: 2
  harmful_share: 0.25
  num_validation: 0.5
  template: plain
"""


def read_cli(monkeypatch, *arguments: str) -> InstructionData:
    monkeypatch.setattr("sys.argv", ["fit", *arguments])
    settings = {"run": False, "save_config_callback": None, "seed_everything_default": False}
    return LightningCLI(Recorder, InstructionData, **settings).datamodule


def test_reads_its_settings_from_yaml(tmp_path, tokenizer_folder, write_jsonl, monkeypatch):
    rows = [row | {"is_safe": number % 2 == 0} for number, row in enumerate(make_rows(8, "harmful "))]
    paths = {"useful": write_jsonl(make_rows(6)), "harmful": write_jsonl(rows, "harmful.jsonl")}
    (tmp_path / "config.yaml").write_text(CONFIG.format(model=tokenizer_folder, **paths))
    data = read_cli(monkeypatch, "--config", str(tmp_path / "config.yaml"))
    assert data.sources["useful"] == paths["useful"]
    assert data.sources["harmful"] == InstructionSource(preset="beavertails_unsafe", path=paths["harmful"], size=2)
    summary = data.summary()
    assert summary["sources"]["harmful"]["num_filtered"] == 4
    assert summary["train"]["num_kept"] == summary["validation"]["num_kept"] == 4


def test_takes_parts_of_a_source_from_the_command_line(tokenizer_folder, write_jsonl, monkeypatch):
    path = write_jsonl(
        [{"question": "a", "answer": "b", "safe": False}, {"question": "c", "answer": "d", "safe": True}]
    )
    arguments = [
        f"--data.model={tokenizer_folder}",
        "--data.useful.preset=gsm8k",
        f"--data.useful.path={path}",
        '--data.useful.filters={"safe": false}',
    ]
    assert read_cli(monkeypatch, *arguments).summary()["train"]["num_kept"] == 1


@pytest.mark.real_model
@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"{SHARED_DATA} is not here")
def test_prepares_the_real_gsm8k(make_data):
    source = InstructionSource(preset="gsm8k", path=str(SHARED_DATA / "gsm8k_train.jsonl"), size=1000)
    data = make_data(useful=source, max_length_tokens=800, too_long="drop", num_validation=100, batch_size=16)
    counts = data.summary()["train"]
    assert counts["num_examples"] == 900
    assert counts["num_kept"] + counts["num_dropped"] == 900
    assert sum(len(batch["input_ids"]) for batch in data.train_dataloader()) == counts["num_kept"]
