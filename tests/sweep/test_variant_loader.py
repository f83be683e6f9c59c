"""Variants in a live model against the plain way and float64; what came before changes no bit."""

import errno
import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from safety_lightning.checkpoints import CheckpointReader
from safety_lightning.errors import UserError
from safety_lightning.methods import (
    Kept,
    MatrixUpdate,
    Method,
    Needs,
    Opposite,
    Plain,
    RemoveEnergy,
    Resta,
    SafeLora,
    Scale,
    SubspaceComponent,
    Variant,
    list_components,
    list_variants,
)
from safety_lightning.subspaces import draw_haar_basis, draw_order, rank_from_fraction
from safety_lightning.sweep import PlainLoader, SweepSettings, VariantLoader, open_inputs, sort_variants
from safety_lightning.sweep.folder import SweepFolder
from safety_lightning.sweep.inputs import SweepInputs
from safety_lightning.sweep.sweep import Sweep
from safety_lightning.sweep.variants import Directions, shelf
from safety_lightning.system.randomness import seed_generator
from tests import reference as slow
from tests.conftest import copy_checkpoint
from tests.sweep.conftest import add_noise
from tests.sweep.test_adapters import make_adapter

# inside PEFT (2026-11, peft 0.21, transformers 5.23)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUERY, KEY = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
METHODS: list[Method] = [
    *list_components(["top_k", "random_k", "random"], ["parallel", "orthogonal"], [0.07, 0.25, 0.5, 1.0]),
    *(Opposite(source=source, fraction=0.3) for source in ("top_k", "random")),  # type: ignore[arg-type]
    *(Scale(alpha=alpha) for alpha in (-0.5, 0.0, 0.3, 0.7, 1.0, 2.5)),
    *(RemoveEnergy(share=share) for share in (0.3, 0.9)),
    Plain(model="reference"),
    Plain(model="finetuned"),
    SafeLora(threshold=0.9),
    Resta(scale=0.2),
]


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of which one matrix has no delta, and another a delta of rank 1; and an adapter."""
    folder = tmp_path_factory.mktemp("variants")
    base = load_file(checkpoints["base"] / "model.safetensors")
    generator = torch.Generator().manual_seed(0)

    def change(name: str, weights: torch.Tensor) -> torch.Tensor:
        if name == KEY:
            return base[name] + 0.1 * torch.outer(*(torch.randn(size, generator=generator) for size in weights.shape))
        return base[name] if name == QUERY else weights

    reference = copy_checkpoint(checkpoints["reference"], folder / "reference", change)
    return {
        "base": checkpoints["base"],
        "reference": reference,
        "useful": add_noise(reference, folder / "useful", size=0.003, seed=2),
        "harmful": add_noise(reference, folder / "harmful", size=0.005, seed=3),
        "adapter": make_adapter(reference, folder / "adapter"),
    }


def open_models(models: dict[str, Path], *names: str, **options: Any) -> tuple[SweepInputs, SweepSettings]:
    settings = SweepSettings(**options)
    paths = [str(models[name]) for name in names]
    base, reference = str(models["base"]), str(models["reference"])
    return open_inputs(base, reference, paths, methods=METHODS, settings=settings), settings


def make_model(models: dict[str, Path], dtype: torch.dtype = torch.float32) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(models["base"], dtype=dtype)
    return model


def iterate_shuffled(names: list[str], num_draws: int | None = 2) -> list[Variant]:
    variants = list_variants(names, METHODS, num_draws=num_draws)
    random.Random(0).shuffle(variants)
    return variants


def copy_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weights.clone() for name, weights in state.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weights in found.items():
        assert torch.equal(weights, expected[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"side": "right"},
        {"storage_dtype": "bfloat16"},
        {"vectors": "skip", "exclude": ["*mlp*"], "seed": 5},
    ],
    ids=str,
)
def test_any_order_gives_what_the_plain_way_gives(models: dict[str, Path], options: dict[str, Any]) -> None:
    names = ["useful", "harmful", "adapter"]
    inputs, settings = open_models(models, *names, **options)
    model, other = make_model(models), make_model(models)
    loader, plain = VariantLoader(inputs, settings), PlainLoader(inputs, settings)
    for variant, state in loader.iterate(model, iterate_shuffled(names)):
        expected = plain.load(other, variant)
        for name, weights in state.items():
            rounds = settings.storage_dtype == "bfloat16"  # to either neighbour
            bounds = {"atol": 1e-6, "rtol": 2**-7} if rounds else {"atol": 3e-7, "rtol": 2e-6}
            torch.testing.assert_close(weights, expected[name], **bounds, msg=f"{variant.name} {name}")


def test_weights_are_those_of_float64(models: dict[str, Path]) -> None:
    inputs, settings = open_models(models, "useful", seed=4)
    weights = {
        name: {key: value.double().numpy() for key, value in load_file(models[name] / "model.safetensors").items()}
        for name in ("base", "reference", "useful")
    }
    methods = list_components(["top_k", "random_k", "random"], ["parallel", "orthogonal"], [0.05, 0.5, 0.77])
    variants = list_variants(["useful"], methods, num_draws=2)
    for variant, state in VariantLoader(inputs, settings).iterate(make_model(models), variants):
        method, seed = variant.method, 4 + (variant.draw or 0)
        assert isinstance(method, SubspaceComponent)
        for name in (QUERY, KEY, "model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
            base, start, tuned = (weights[model][name].reshape(len(state[name]), -1) for model in weights)
            delta = start - base
            rank = rank_from_fraction(method.fraction, *delta.shape) if delta.any() else 0
            num_modes = int((np.linalg.svd(delta, compute_uv=False) > 1e-6 * np.abs(delta).max()).sum())
            if method.source == "random":
                generator = seed_generator(f"{seed}:{name}")
                basis = draw_haar_basis(len(delta), rank, generator=generator).double().numpy()
            else:
                order = draw_order(num_modes, seed=seed, name=name) if method.source == "random_k" else range(num_modes)
                basis = slow.leading_vectors(delta, min(delta.shape), "left")[:, [int(one) for one in order][:rank]]
            expected = start + slow.project(tuned - start, basis, method.component, "left")
            found = state[name].double().numpy().reshape(expected.shape)
            np.testing.assert_allclose(found, expected, atol=5e-7, err_msg=f"{variant.name} {name}")


def make_gpt2(folder: Path) -> Path:
    """Its matrices are stored as (input, output), its output layer is the embedding."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=40)).save_pretrained(folder)
    return folder


def make_mixture(folder: Path) -> Path:
    """Its experts are stacked in one tensor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(folder, save_original_format=False)
    return folder


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [make_gpt2, make_mixture])
def test_other_layouts_too(tmp_path: Path, make: Callable[[Path], Path], side: str) -> None:
    base = make(tmp_path / "base")
    reference = add_noise(base, tmp_path / "reference", size=0.02, seed=1)
    useful = add_noise(reference, tmp_path / "useful", size=0.003, seed=2)
    inputs, settings = open_models({"base": base, "reference": reference, "useful": useful}, "useful", side=side)
    model, other = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) for _ in range(2))
    assert any(slot.transposed or slot.index is not None for slot in inputs.slots)
    loader, plain = VariantLoader(inputs, settings), PlainLoader(inputs, settings)
    for variant in iterate_shuffled(["useful"], num_draws=None)[:12]:
        expected = plain.load(other, variant)
        for name, weights in loader.load(model, variant).items():
            torch.testing.assert_close(weights, expected[name], atol=3e-7, rtol=2e-6, msg=f"{variant.name} {name}")


def test_what_was_loaded_before_changes_no_bit(models: dict[str, Path]) -> None:
    names = ["useful", "harmful"]
    inputs, settings = open_models(models, *names)
    walked = VariantLoader(inputs, settings)
    direct: dict[str, dict[str, torch.Tensor]] = {}
    for variant in iterate_shuffled(names)[:40]:
        fresh = VariantLoader(inputs, settings)
        direct[variant.name] = copy_state(fresh.load(make_model(models), variant))
    model, choose = make_model(models), random.Random(1)
    by_name = {variant.name: variant for variant in iterate_shuffled(names)}
    for name in choose.choices(sorted(direct), k=300):
        assert_equal(walked.load(model, by_name[name]), direct[name])


@pytest.mark.parametrize("num_calls", [1, 5, 40])
def test_load_that_was_interrupted_leaves_no_half_sums(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, num_calls: int
) -> None:
    inputs, settings = open_models(models, "useful")
    loader, model = VariantLoader(inputs, settings), make_model(models)
    small, large = (Variant(finetuned="useful", method=SubspaceComponent(fraction=one)) for one in (0.25, 0.8))
    expected = {one.name: copy_state(loader.load(model, one)) for one in (large, small)}
    with monkeypatch.context() as patched:
        pick, calls = Directions.pick, itertools.count(1)

        def stop(self: Directions, *arguments: Any) -> torch.Tensor:
            if next(calls) > num_calls:
                raise KeyboardInterrupt
            return pick(self, *arguments)

        patched.setattr(Directions, "pick", stop)
        with pytest.raises(KeyboardInterrupt):
            loader.load(model, large)
    for variant in (small, large):
        assert_equal(loader.load(model, variant), expected[variant.name])


@pytest.mark.parametrize(("place", "room"), [("host", None), ("disk", None), ("nowhere", None), ("auto", 60_000)])
def test_where_parts_are_kept_changes_no_bit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, room: int | None
) -> None:
    from safety_lightning.sweep.variants import Shelf

    inputs, settings = open_models(models, "useful", "harmful")
    variants = iterate_shuffled(["useful", "harmful"])[:30]
    whole = VariantLoader(inputs, settings)
    expected = [copy_state(state) for _, state in whole.iterate(make_model(models), variants)]
    if room is not None:
        monkeypatch.setattr(Shelf, "_count_free", lambda self, place: 2 * room)
    loader = VariantLoader(inputs, settings, place=place, scratch=tmp_path)
    for (_, state), wanted in zip(loader.iterate(make_model(models), variants), expected, strict=True):
        assert_equal(state, wanted)
    assert list(tmp_path.iterdir()) == []
    loader.close()
    assert_equal(loader.load(make_model(models), variants[0]), expected[0])


def test_scratch_files_take_no_more_than_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(shelf, "allocate", lambda stream, size: (taken.append(size), stream.truncate(size)))
    held = shelf.Shelf(torch.device("cpu"), "disk", scratch=tmp_path, room_bytes=1000)
    for group in ("a", "b"):
        held.keep(group, "weights", torch.ones(10))
        assert torch.equal(held.find(group, "weights"), torch.ones(10))
    assert taken == [1000, 960]

    def refuse(stream: Any, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shelf, "allocate", refuse)
    assert torch.equal(held.keep("c", "weights", torch.ones(10)), torch.ones(10))
    assert held.find("c", "weights") is None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    counted: Counter[tuple[str, str]] = Counter()
    read = CheckpointReader.read_part

    def count(self: CheckpointReader, name: str, index: int | None) -> torch.Tensor:
        counted[self.folder.name, name] += 1
        return read(self, name, index)

    monkeypatch.setattr(CheckpointReader, "read_part", count)
    return counted


def test_matrices_are_read_once(models: dict[str, Path], reads: Counter[tuple[str, str]]) -> None:
    inputs, settings = open_models(models, "useful", "harmful")
    methods = list_components(["top_k", "random"], ["parallel", "orthogonal"], [0.25, 0.5])
    variants = list_variants(["useful", "harmful"], methods, num_draws=3)
    for _ in VariantLoader(inputs, settings).iterate(make_model(models), variants):
        pass
    of_models = {name: {key: num for key, num in reads.items() if key[0] == name} for name in models}
    assert all(set(of_models[name].values()) == {1} for name in ("base", "useful", "harmful"))
    assert set(of_models["reference"].values()) == {2}  # once for its delta, once for its weights


def test_draws_are_seeds_with_names(models: dict[str, Path]) -> None:
    method = SubspaceComponent(source="random", component="parallel", fraction=0.5)
    variants = list_variants(["useful"], [method, Scale(alpha=0.5)], num_draws=2)
    names = ["useful/random@0/parallel/0.5", "useful/random@1/parallel/0.5", "useful/scale/0.5"]
    assert [one.name for one in variants] == names
    drawn = Variant(finetuned="useful", method=method, draw=3)
    seeded = Variant(finetuned="useful", method=method)
    inputs, settings = open_models(models, "useful")
    found = VariantLoader(inputs, settings).load(make_model(models), drawn)
    others, seed_three = open_models(models, "useful", seed=3)
    assert_equal(found, VariantLoader(others, seed_three).load(make_model(models), seeded))
    assert not torch.equal(found[KEY], VariantLoader(inputs, settings).load(make_model(models), seeded)[KEY])


def test_plain_models_are_whole(models: dict[str, Path]) -> None:
    inputs, settings = open_models(models, "useful", include=["*mlp*"])
    loader, model = VariantLoader(inputs, settings), make_model(models)
    for name, folder in (("reference", models["reference"]), ("finetuned", models["useful"])):
        state = loader.load(model, Variant(finetuned="useful", method=Plain(model=name)))  # type: ignore[arg-type]
        assert_equal(state, load_file(folder / "model.safetensors"))
    state = loader.load(model, Variant(finetuned="useful", method=Scale(alpha=0.0)))
    assert_equal({QUERY: state[QUERY]}, {QUERY: load_file(models["useful"] / "model.safetensors")[QUERY]})


def test_bad_matrices_stay_as_they_were_finetuned(models: dict[str, Path], tmp_path: Path) -> None:
    def spoil(name: str, weights: torch.Tensor) -> torch.Tensor:
        return torch.full_like(weights, torch.nan) if name == KEY else weights

    broken = {**models, "base": copy_checkpoint(models["base"], tmp_path / "broken", spoil)}
    inputs, settings = open_models(broken, "useful", skip_bad=True)
    loader, model = VariantLoader(inputs, settings), make_model(models)
    own = load_file(models["useful"] / "model.safetensors")
    for method in (Scale(alpha=0.5), SubspaceComponent(fraction=0.5)):
        state = loader.load(model, Variant(finetuned="useful", method=method))
        assert torch.equal(state[KEY], own[KEY])
        assert not torch.equal(state["lm_head.weight"], own["lm_head.weight"])
    inputs, settings = open_models(broken, "useful")
    with pytest.raises(UserError, match=r"k_proj.*must be finite"):
        VariantLoader(inputs, settings).load(model, Variant(finetuned="useful", method=Scale(alpha=0.5)))


def test_sorted_variants_go_up_a_track_before_the_next() -> None:
    methods = [Scale(alpha=0.5), *list_components(["random"], ["parallel", "orthogonal"], [0.25, 0.5])]
    variants = list_variants(["a", "b"], methods, num_draws=2)
    ordered = sort_variants(variants)
    assert sorted(one.name for one in ordered) == sorted(one.name for one in variants)
    assert [one.name for one in ordered[:5]] == [
        "a/scale/0.5",
        "a/random@0/parallel/0.25",
        "a/random@0/orthogonal/0.25",
        "a/random@0/parallel/0.5",
        "a/random@0/orthogonal/0.5",
    ]


class Strange(Scale):
    """Keeps directions that it did not say to need."""

    @property
    def needs(self) -> Needs:
        return Needs(source="top_k", fraction=0.5, numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        return Kept(inside=1.0, source="random", rank=1)


class Adding(Scale):
    """Keeps a part of its own, though it said that it looks at no numbers."""

    def keep(self, matrix: MatrixUpdate) -> Kept:
        return Kept(own=1.0, extra=lambda: torch.zeros(()))


def test_bad_input_says_what_was_wanted(models: dict[str, Path], tmp_path: Path) -> None:
    inputs, settings = open_models(models, "useful")
    model = make_model(models)

    def load(variant: Variant, **options: Any) -> None:
        VariantLoader(inputs, settings, **options).load(model, variant)

    half = Variant(finetuned="useful", method=SubspaceComponent(fraction=0.5))
    with pytest.raises(UserError, match=r"largest_fraction must be at least 0\.5 for useful/top_k/orthogonal/0\.5"):
        load(half, largest_fraction=0.25)
    with pytest.raises(UserError, match="fraction must be in"):
        load(half, largest_fraction=0.0)
    with pytest.raises(UserError, match=r"scratch must be a folder that exists, got .*none"):
        load(half, scratch=tmp_path / "none")
    with pytest.raises(UserError, match="finetuned of a variant must be useful, got other"):
        load(Variant(finetuned="other", method=Scale()))
    with pytest.raises(UserError, match="needs the scores of all matrices"):
        load(Variant(finetuned="useful", method=SafeLora(num_worst=2)))
    with pytest.raises(UserError, match=r"of the source that it needs \(top_k\), got random"):
        load(Variant(finetuned="useful", method=Strange()))
    with pytest.raises(UserError, match=r"must keep no part of its own \(extra\)"):
        load(Variant(finetuned="useful", method=Adding()))
    drawn = Variant(finetuned="useful", method=SubspaceComponent(source="random"), draw=0)
    with pytest.raises(UserError, match=r"a sweep must have variants without a draw.* got useful/random@0/"):
        Sweep(inputs, settings, [half, drawn])
    with pytest.raises(UserError, match="a sweep must have variants without a draw"):
        SweepFolder(tmp_path / "out", inputs, settings, [drawn], [])
    with pytest.raises(UserError, match=r"draw must be at least 0, of a method that takes .* got 0 of scale"):
        Variant(finetuned="useful", method=Scale(), draw=0)
    with pytest.raises(UserError, match="got -1 of random"):
        Variant(finetuned="useful", method=SubspaceComponent(source="random"), draw=-1)
