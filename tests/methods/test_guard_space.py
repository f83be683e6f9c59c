"""GuardSpace: outputs on the prompts that were seen stay as they were, and the formula holds on either side."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safety_lightning.activations import collect_covariances, save_covariances
from safety_lightning.errors import UserError
from safety_lightning.methods import GuardSpace, Variant
from safety_lightning.methods.guard_space import remove_directions
from safety_lightning.sweep import ProjectRun, SweepInputs, SweepSettings, VariantLoader, open_inputs, project

QUERY = "model.layers.0.self_attn.q_proj.weight"


def open_for(checkpoints: dict[str, Path], method: GuardSpace, **options: Any) -> tuple[SweepInputs, SweepSettings]:
    settings = SweepSettings(**options)
    base, reference, useful = (str(checkpoints[name]) for name in ("base", "reference", "useful"))
    return open_inputs(base, reference, [useful], methods=[method], settings=settings), settings


def load_variant(checkpoints: dict[str, Path], method: GuardSpace, **options: Any) -> dict[str, torch.Tensor]:
    inputs, settings = open_for(checkpoints, method, **options)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["base"], dtype=torch.float32)
    return VariantLoader(inputs, settings).load(model, Variant(finetuned="useful", method=method))


def test_outputs_on_seen_inputs_do_not_change() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, update, inputs = (torch.randn(shape, generator=generator) for shape in ((12, 20), (12, 20), (20, 5)))
    covariance = inputs.double() @ inputs.double().mT
    kept = remove_directions(update, weights, covariance, output_fraction=0.0, input_energy=1.0)
    assert (kept @ inputs).abs().max() < 1e-5 * (update @ inputs).abs().max()
    assert torch.linalg.matrix_rank(kept) == 12
    again = remove_directions(kept, weights, covariance, output_fraction=0.0, input_energy=1.0)
    torch.testing.assert_close(again, kept, atol=1e-6, rtol=0)
    leading = torch.linalg.svd(weights.double() @ covariance)[0][:, :3]
    kept = remove_directions(update, weights, covariance, output_fraction=0.25, input_energy=0.0)
    expected = update.double() - leading @ leading.mT @ update.double()
    torch.testing.assert_close(kept.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        remove_directions(update, weights, covariance, output_fraction=0.0, input_energy=0.0), update
    )


def test_covariances_are_those_of_the_inputs(checkpoints: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["reference"], dtype=torch.float32).train()
    prompts = [[1, 5, 9], [1, 7]]
    found = collect_covariances(model, prompts)
    assert model.training
    expected = torch.zeros(32, 32, dtype=torch.float64)
    for ids in prompts:
        embedded = model.model.embed_tokens(torch.tensor(ids))
        inputs = model.model.layers[0].input_layernorm(embedded).detach().double()
        expected += inputs.mT @ inputs
    torch.testing.assert_close(found[QUERY], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="prompts must hold at least one"):
        collect_covariances(model, [])


@pytest.mark.parametrize("side", ["left", "right"])
def test_variant_keeps_what_lies_outside(checkpoints: dict[str, Path], tmp_path: Path, side: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["reference"], dtype=torch.float32)
    file = tmp_path / "covariances.safetensors"
    covariances = collect_covariances(model, [[1, 5, 9, 4], [1, 7, 3]])
    save_covariances(covariances, file)
    state = load_variant(checkpoints, GuardSpace(covariances=str(file), output_fraction=0.1), side=side)
    start, tuned = (load_file(checkpoints[name] / "model.safetensors") for name in ("reference", "useful"))
    for name in (QUERY, "model.layers.1.mlp.down_proj.weight"):
        kept = remove_directions(
            tuned[name] - start[name],
            start[name],
            covariances[name].float().double(),
            output_fraction=0.1,
            input_energy=0.99,
        )
        torch.testing.assert_close(state[name], start[name] + kept, atol=1e-6, rtol=0)
    assert torch.equal(
        state["model.embed_tokens.weight"],
        start["model.embed_tokens.weight"] + (tuned["model.embed_tokens.weight"] - start["model.embed_tokens.weight"]),
    )


def test_bad_input_says_what_was_wanted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"guard_space\.input_energy must be in \[0, 1\], got 1\.5"):
        GuardSpace(covariances="x", input_energy=1.5)
    with pytest.raises(UserError, match="must be a file of covariances, none cannot be read"):
        open_for(checkpoints, GuardSpace(covariances="none"))
    file = tmp_path / "covariances.safetensors"
    save_file({QUERY: torch.eye(3)}, file)
    with pytest.raises(UserError, match=r"of shape \(32, 32\), got \(3, 3\)"):
        open_for(checkpoints, GuardSpace(covariances=str(file)))
    save_file({QUERY.removeprefix("model."): torch.eye(32)}, file)
    with pytest.raises(UserError, match=r"must name matrices that take part \(.*names layers\.0\.self_attn\.q_proj"):
        open_for(checkpoints, GuardSpace(covariances=str(file)))
    save_file({QUERY: torch.full((32, 32), torch.nan)}, file)
    with pytest.raises(UserError, match="must be finite"):
        load_variant(checkpoints, GuardSpace(covariances=str(file)))


def test_other_covariances_are_another_sweep(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "covariances.safetensors"
    base, reference, useful = (str(checkpoints[name]) for name in ("base", "reference", "useful"))

    def sweep(size: float) -> str:
        save_file({QUERY: size * torch.eye(32).cumsum(0)}, file)
        project(
            ProjectRun(
                base=base,
                reference=reference,
                finetuned=[useful],
                out=tmp_path / "out",
                sources=[],
                methods=[GuardSpace(covariances=str(file))],
                device="cpu",
            )
        )
        return (tmp_path / "out" / "energy.csv").read_text()

    assert sweep(1.0) == sweep(1.0)
    with pytest.raises(UserError, match="holds one with other methods"):
        sweep(2.0)
