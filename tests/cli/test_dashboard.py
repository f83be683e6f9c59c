"""What TensorBoard shows of a fit that is done, read from its event file."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.cli.verbs.dashboard import draw_table, log_outcome
from safety_lightning.evaluation.records.results import ResultRow
from safety_lightning.projection import UpdateMeasure

MODELS = {"reference": 0.25, "finetuned": 0.75, "projected": 0.5}
ROWS = [
    ResultRow(model=model, task="lab", metric="utility", value=value, low=0.1, high=0.9, num_total=8, num_scored=8)
    for model, value in MODELS.items()
]
MEASURES = [
    UpdateMeasure(
        slot=MatrixSlot(tensor=f"model.layers.{layer}.mlp.{kind}.weight", rows=8, columns=8),
        rank=2,
        dimension=8,
        inside=3.0,
        outside=1.0,
        num_stuck=0,
        num_weights=64,
    )
    for layer in range(2)
    for kind in ("up_proj", "down_proj")
]


def log(folder: Path, *, rows: list[ResultRow], measures: list[UpdateMeasure]) -> EventAccumulator:
    config = {
        "seed_everything": 3,
        "run_dir": str(folder),
        "trainer": {"precision": "32-true", "max_steps": 9, "callbacks": []},
        "model": {"model": "lab:aligned", "warmup_share": 0.02, "lr_scheduler": None},
        "data": {"kind": "useful"},
        "projection": {"subspace": {"fraction": 0.5, "file": str(folder / "subspace.safetensors")}},
    }
    logger = TensorBoardLogger(str(folder), name="tensorboard", version="")
    log_outcome(logger, config=config, rows=rows, measures=measures, subject="update", step=9)
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_figures_table_and_metrics_are_logged(tmp_path: Path) -> None:
    events = log(tmp_path, rows=ROWS, measures=MEASURES)
    assert set(events.Tags()["images"]) == {"outcome/update/by_layer", "outcome/update/by_module", "outcome/models"}
    values = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert values == {
        "outcome/num_steps": 9,
        **{f"outcome/{model}/lab/utility": value for model, value in MODELS.items()},
        "outcome/update/energy_inside": 0.75,
        "outcome/update/chance": 0.25,
    }
    (text,) = events.Tensors("outcome/models/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "metric | reference | finetuned | projected"
    assert lines[2].startswith("utility ↑ | 0.250 [0.100, 0.900] | 0.750")


def test_settings_are_hparams_without_places_in_the_run_folder(tmp_path: Path) -> None:
    events = log(tmp_path, rows=ROWS, measures=[])
    data = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent("hparams")}
    start = HParamsPluginData.FromString(data["_hparams_/session_start_info"]).session_start_info
    found = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert found == {
        "seed": 3,
        "trainer/precision": "32-true",
        "trainer/max_steps": 9,
        "model/model": "lab:aligned",
        "model/warmup_share": pytest.approx(0.02),
        "data/kind": "useful",
        "projection/subspace/fraction": 0.5,
    }
    experiment = HParamsPluginData.FromString(data["_hparams_/experiment"]).experiment
    assert "outcome/projected/lab/utility" in {info.name.tag for info in experiment.metric_infos}
    assert events.Tags()["images"] == ["outcome/models"]  # nothing was projected: no figures of an update


def test_image_of_a_table_holds_its_cells() -> None:
    figure = draw_table([["metric", "reference"], ["utility", "0.250\n[0.100, 0.900]"]])
    (table,) = figure.axes[0].tables
    assert {cell.get_text().get_text() for cell in table.get_celld().values()} == {
        "metric",
        "reference",
        "utility",
        "0.250\n[0.100, 0.900]",
    }
