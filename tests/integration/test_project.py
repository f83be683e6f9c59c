"""The command `project` as its user calls it."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from safety_lightning.cli import main
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow
from safety_lightning.tables import read_parquet
from tests.sweep.conftest import add_noise


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safety_lightning.checkpoints import locate_model

    folder = tmp_path_factory.mktemp("project")
    return add_noise(locate_model("lab:aligned"), folder / "tuned", size=1e-3, seed=0)


def test_lists_are_words_and_the_folder_repeats_the_run(tuned: Path, tmp_path: Path) -> None:
    words = ["--sources", "top_k", "random", "--components", "parallel", "--fractions", "0.25", "0.5"]
    words += ["--base", "lab:base", "--reference", "lab:aligned", "--finetuned", f"mine={tuned}"]
    main(["project", *words, "--out", str(tmp_path / "one")])
    rows = read_parquet(tmp_path / "one" / "energy.parquet", EnergyRow)
    assert [(row.finetuned, row.source, row.component, row.fraction) for row in rows] == [
        ("mine", source, "parallel", fraction) for source in ("top_k", "random") for fraction in (0.25, 0.5)
    ]
    header = "finetuned,source,component,fraction,energy_kept,chance,cosine_update,cosine_delta,leak"
    assert (tmp_path / "one" / "energy.csv").read_text().startswith(header)
    for name in ("energy.png", "energy.svg", "layers_mine.png", "layers_mine.svg", "manifest.json"):
        assert (tmp_path / "one" / name).stat().st_size > 0
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config | {"out": str(tmp_path / "two")}))
    main(["project", "--config", str(tmp_path / "again.yaml")])
    assert (tmp_path / "two" / "energy.csv").read_bytes() == (tmp_path / "one" / "energy.csv").read_bytes()


def test_error_is_one_line(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--base",
        "lab:base",
        "--reference",
        "lab:aligned",
        "--finetuned",
        str(tuned),
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(SystemExit):
        main(["project", *words, "--fractions", "0.5", "2"])
    assert capsys.readouterr().err == "error: fraction must be in (0, 1], got 2.0\n"


@pytest.mark.parametrize("kind", ["experts", "input first"])
def test_unusual_layouts_go_through(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "experts":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        sizes |= {"moe_intermediate_size": 8, "intermediate_size": 24, "num_experts": 3, "num_experts_per_tok": 1}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=32, head_dim=8, **sizes))
    else:
        model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    model.save_pretrained(tmp_path / "base")
    reference = add_noise(tmp_path / "base", tmp_path / "reference", size=0.02, seed=1)
    tuned = add_noise(reference, tmp_path / "tuned", size=0.002, seed=2)
    words = ["--base", str(tmp_path / "base"), "--reference", str(reference), "--finetuned", str(tuned)]
    words += ["--fractions", "1.0", "--sources", "top_k", "--save_models", "all", "--out", str(tmp_path / "out")]
    main(["project", *words])
    loaded = type(model).from_pretrained(tmp_path / "out/models/tuned/top_k/parallel/1")
    wanted = type(model).from_pretrained(tuned).state_dict()
    rows = read_parquet(tmp_path / "out" / "tensors.parquet", SweepMatrixRow)
    full = {row.name for row in rows if row.rows <= row.columns}  # the whole space: nothing is cut off
    compared = 0
    for name, tensor in loaded.state_dict().items():
        if name in full or f"{name}[0]" in full:
            torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=0)
            compared += 1
    assert compared >= 3


def test_interrupt_says_how_to_go_on(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    words = ["project", "--base", "lab:base", "--reference", "lab:aligned", "--finetuned", str(tuned)]
    with monkeypatch.context() as patch:
        patch.setattr("safety_lightning.files.PartStore.write", interrupt)
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 130
    assert "Stopped. What is finished is kept: the same command resumes." in capsys.readouterr().err
    main([*words, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "energy.csv").is_file()
