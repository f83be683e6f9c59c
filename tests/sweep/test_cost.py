"""Plans come from headers: of models that fit no memory, without reading a weight."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safety_lightning.checkpoints import CheckpointReader, ShardWriter, TensorLayout
from safety_lightning.methods import list_variants
from safety_lightning.sweep import MethodChoice, ProjectRun, SweepSettings, open_inputs, project
from safety_lightning.sweep.cost import estimate_cost
from safety_lightning.sweep.sweep import make_recipe
from tests.sweep.test_sweep import run


def list_llama(hidden: int, middle: int, num_layers: int, vocabulary: int, num_values: int) -> Iterator[TensorLayout]:
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (num_values, hidden),
        "self_attn.v_proj": (num_values, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    for name in ("model.embed_tokens", "lm_head"):
        yield TensorLayout(name=f"{name}.weight", shape=(vocabulary, hidden), code="BF16")
    yield TensorLayout(name="model.norm.weight", shape=(hidden,), code="BF16")
    for layer in range(num_layers):
        for name, shape in shapes.items():
            yield TensorLayout(name=f"model.layers.{layer}.{name}.weight", shape=shape, code="BF16")


def write_hollow(folder: Path, layouts: list[TensorLayout], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes a checkpoint whose files have their full size and take no room on the disk."""
    monkeypatch.setattr("os.posix_fallocate", lambda file, offset, size: __import__("os").truncate(file, size))
    ShardWriter(folder, layouts).create()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_plan_of_seventy_billion_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts = list(list_llama(8192, 28672, 80, 128256, 1024))
    assert sum(layout.num_bytes for layout in layouts) > 140e9
    base, reference, tuned = (
        str(write_hollow(tmp_path / name, layouts, monkeypatch)) for name in ("base", "reference", "tuned")
    )
    monkeypatch.setattr(CheckpointReader, "read_part", None)  # a weight that is read fails
    monkeypatch.setattr(CheckpointReader, "hash_files", None)
    monkeypatch.setenv("COLUMNS", "120")
    given = {"base": base, "reference": reference, "finetuned": [tuned], "out": tmp_path / "out"}
    project(ProjectRun(**given, save_models=["*/top_k/*/0.25"], device="cpu", dry_run=True))
    printed = capsys.readouterr().out
    for text in (
        "28672 x 8192",
        "81, 2048, 4096, 6144, 8110",
        "Tflop for 30 variants",
        "Time         about",
        "Reads        423.3 GB",
    ):
        assert text in printed
    assert "Disk         564.4 GB of saved models" in printed
    assert not (tmp_path / "out").exists()


def test_plan_grows_with_the_work(checkpoints: dict[str, Path]) -> None:
    pair = str(checkpoints["base"]), str(checkpoints["reference"])

    def plan(models: list[str], **options: Any) -> tuple[float, int]:
        settings, methods = SweepSettings(), MethodChoice(**options).list_methods()
        folders = [str(checkpoints[name]) for name in models]
        inputs = open_inputs(*pair, folders, methods=methods, settings=settings)
        variants = list_variants(models, methods)
        recipe = make_recipe(variants, side="left", seed=0)
        found = estimate_cost(
            inputs, settings, recipe, variants, num_saved=dict.fromkeys(models, 0), saved_bytes=0, device=None
        )
        assert len(found.costs) == 21
        return found.work, found.peak_bytes

    one = plan(["useful"])
    two = plan(["useful", "harmful"])
    few = plan(["useful"], sources=["top_k"])
    assert few[0] < one[0] < two[0] < 2 * one[0]
    assert few[1] < one[1] < two[1]


def test_ranks_of_a_plan_are_those_of_a_sweep(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run(checkpoints, tmp_path / "out", fractions=[0.25, 0.5], dry_run=True)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "down_proj" in line]
    assert line.split()[:7] == ["down_proj", "8,", "16", "32", "x", "48", "2"]
