"""LoRA in a fit and in other loops: the update is PEFT's, one factor carries the projection, PEFT reads the result."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import DataParallel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from safety_lightning.checkpoints import AdapterReader, CheckpointReader
from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training import attach_projection
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate, SaveModel
from safety_lightning.training.lora import LoraSettings, check_targets
from tests.training.conftest import draw_batches, fit, make_module

CASES = [(component, side) for component in ("parallel", "orthogonal") for side in ("left", "right")]


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), exclude=["*norm*", "*embed*"])


def load_peft(folder: Path, **settings: object) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **settings)
    return get_peft_model(model, config)


def measure_leak(spec: SubspaceSpec, model: PreTrainedModel, component: str) -> float:
    """The share of PEFT's own updates that is on the wrong side, float64."""
    prepared = prepare_subspace(spec)
    wrong = total = 0.0
    for name, module in model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        update = module.get_delta_weight("default").detach().double()
        tensor = name.removeprefix("base_model.model.") + ".weight"
        basis = prepared.subspace.bases[tensor].columns.double()
        inside = basis @ (basis.T @ update) if spec.side == "left" else (update @ basis) @ basis.T
        wrong += float((update - inside if component == "parallel" else inside).square().sum())
        total += float(update.square().sum())
    assert total > 1e-6
    return (wrong / total) ** 0.5


@pytest.mark.parametrize(("component", "side"), CASES)
def test_update_of_an_adapter_stays_in_its_component(
    spec: SubspaceSpec, pico_aligned: Path, component: str, side: str
) -> None:
    spec = SubspaceSpec(**(vars(spec) | {"side": side}))
    model = load_peft(pico_aligned).train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    hook = attach_projection(optimizer, model, spec, component=component)
    for batch in draw_batches(4):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert measure_leak(spec, model, component) < 1e-6
    for measure in hook.projector.measure():
        module = model.get_submodule("base_model.model." + measure.slot.tensor.removesuffix(".weight"))
        update = module.get_delta_weight("default").detach().double()
        assert measure.total == pytest.approx(float(update.square().sum()), rel=1e-5)
        assert measure.part(component) == pytest.approx(measure.total, rel=1e-5)
        assert measure.num_weights == update.numel()


def test_increments_of_an_adapter_are_differences_of_its_updates(spec: SubspaceSpec, pico_aligned: Path) -> None:
    model = load_peft(pico_aligned)
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    updates = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        for one in model.parameters():
            if one.requires_grad:
                one.data.normal_(generator=generator)
        if seed == 0:
            start = projector.copy_weights()
        modules = [one for one in model.modules() if hasattr(one, "get_delta_weight")]
        updates.append([one.get_delta_weight("default").detach().double() for one in modules])
    wanted = sum(float((new - old).square().sum()) for old, new in zip(*updates, strict=True))
    assert sum(one.total for one in projector.measure(since=start)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("when", ["every_n_steps", "end"])
@pytest.mark.parametrize("merge", [False, True])
def test_fit_saves_an_adapter_or_a_merged_model(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, merge: bool
) -> None:
    monkeypatch.setattr("safety_lightning.training.callbacks.save_model.load_tokenizer", lambda reference: None)
    module = make_module(pico_aligned, lora=LoraSettings(r=4, rank_stabilized=True))
    project = ProjectUpdate(spec, component="orthogonal", when=when, folder=str(tmp_path))
    callbacks = [project, MonitorUpdate(every_n_steps=1), SaveModel(str(tmp_path), merge=merge)]
    fit(module, draw_batches(4), tmp_path, callbacks=callbacks)
    assert measure_leak(spec, module.model, "orthogonal") < 1e-6
    with (tmp_path / "projection.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14  # seven linear modules of two layers
    assert max(float(row["leak"]) for row in rows) < 1e-5
    adapter = AdapterReader(tmp_path / ("adapter" if merge else "model"))
    adapter.check(CheckpointReader(pico_aligned))
    start = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(start, adapter.folder).merge_and_unload().state_dict()
    for name in adapter.factors:
        live = module.model.get_submodule(name.removesuffix(".weight"))
        wanted = live.get_base_layer().weight + live.get_delta_weight("default")
        torch.testing.assert_close(loaded[name], wanted, atol=1e-6, rtol=0)
    if merge:
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
        assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in loaded.items())


def test_resumed_fit_of_an_adapter_equals_a_straight_one(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    results = []
    for ckpt_path in (None, tmp_path / "ckpt" / "step=4.ckpt"):
        module = make_module(pico_aligned, lora=LoraSettings(r=4))
        keep = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callbacks = [ProjectUpdate(spec), keep]
        settings = {"enable_checkpointing": True, "ckpt_path": ckpt_path, "max_epochs": 2}
        fit(module, draw_batches(4), tmp_path, callbacks=callbacks, **settings)
        results.append(module.model.state_dict())
    assert all(torch.equal(results[1][name], tensor) for name, tensor in results[0].items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "must be a plain LoRA, got DoRA"),
        ({"bias": "all"}, "must train their factors alone, .* other parameters are trained"),
        ({"lora_bias": True}, "without a trained bias|factors alone"),
        ({"modules_to_save": ["k_proj"]}, "must train their factors alone"),
    ],
)
def test_other_adapters_are_named(
    spec: SubspaceSpec, pico_aligned: Path, settings: dict[str, object], told: str
) -> None:
    config = {"attention_bias": True} if "bias" in str(settings) else {}
    model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32, **config)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], **settings))
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(UserError, match=told):
        projector.bind(model)


def test_adapter_on_other_weights_is_named(spec: SubspaceSpec, pico_base: Path) -> None:
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(UserError, match=r"must be on the reference, but the frozen weights of model\.layers\.0"):
        projector.bind(load_peft(pico_base))


def test_subspace_without_an_adapted_matrix_is_named(spec: SubspaceSpec, pico_aligned: Path) -> None:
    spec = SubspaceSpec(**(vars(spec) | {"include": ["*k_proj*"], "exclude": []}))
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(UserError, match="adapters must update a matrix of the subspace"):
        projector.bind(load_peft(pico_aligned))


def make_gpt2(folder: Path, seed: int) -> Path:
    """Its files name tensors without the prefix of the live model, as those on the hub."""
    torch.manual_seed(seed)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 48}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).transformer.save_pretrained(folder)
    return folder


class Compiled(torch.nn.Module):
    """Has the names of what `torch.compile` makes."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrap", [torch.nn.Module.eval, DataParallel, Compiled], ids=["plain", "module", "compiled"])
def test_names_match_with_and_without_the_prefix_of_the_base_model(
    tmp_path: Path, wrap: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    base, reference = (str(make_gpt2(tmp_path / name, seed)) for seed, name in enumerate(("base", "reference")))
    projector = UpdateProjector(
        prepare_subspace(SubspaceSpec(base=base, reference=reference, include=["*attn*weight"])), component="parallel"
    )
    whole = GPT2LMHeadModel.from_pretrained(reference)
    projector.bind(wrap(whole))
    assert len(projector.measure()) == 2
    adapted = get_peft_model(whole, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    projector.bind(wrap(adapted))
    assert [one.slot.tensor for one in projector.measure()] == ["h.0.attn.c_attn.weight"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 0}, "lora.r must be at least 1, got 0"),
        ({"alpha": 0.0}, "lora.alpha must be above 0, got 0"),
        ({"dropout": 1.0}, "lora.dropout must be in"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        LoraSettings(**settings)


def test_unknown_target_is_named() -> None:
    with pytest.raises(UserError, match=r"must name modules of the model \(q_proj\), got qproj"):
        check_targets(LoraSettings(target_modules=["qproj"]), ["model.layers.0.self_attn.q_proj.weight"])
