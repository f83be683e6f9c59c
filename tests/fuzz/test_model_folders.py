"""Damaged model folders: one line or no effect; no traceback, no hang, no other number.

A small part runs with the ordinary tests, the whole (over 500 examples) under the marker ``slow``. A damage that is
accepted must leave logits, tokens and prompts as they were. What cannot be told from a sound folder:

- numbers inside weights that stay finite, two tensors of one shape that changed names: the format has no checksum;
- settings of a config that are well formed and change no shape (`UNTELLABLE`): activation, rope, epsilons, special
  tokens; a ``model_type`` of the same tensors where no ``architectures`` contradict it;
- what is well formed in tokenizer.json or tokenizer_config.json: other tokens, merges, normalisers, special tokens.
  Ids must be different and inside the vocabulary, files inside the folder;
- a template that writes other words around the messages that it is given;
- ``lora_alpha`` and ``use_rslora`` of an adapter, which scale its update; ``fan_in_fan_out`` where matrices are square.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from safety_lightning.checkpoints import (
    CheckpointReader,
    load_model,
    load_tokenizer,
    locate_model,
    open_one,
    select_slots,
)
from safety_lightning.data.chat import render_prompt
from safety_lightning.errors import UserError
from tests.fuzz import damage as d

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = "How many coins are in the vault?"
LAB = locate_model("lab:aligned")
CONFIG = json.loads((LAB / "config.json").read_text())
GENERATION = json.loads((LAB / "generation_config.json").read_text())
TOKENIZER = json.loads((LAB / "tokenizer.json").read_text())
TOKENIZER_CONFIG = json.loads((LAB / "tokenizer_config.json").read_text())
UNTELLABLE = {"hidden_act", "rms_norm_eps", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id"}
UNTELLABLE |= {"attention_dropout", "initializer_range", "max_position_embeddings", "num_attention_heads", "head_dim"}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "fan_in_fan_out": False, "bias": "none"}
ADAPTER |= {"alpha_pattern": {}, "rank_pattern": {}, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}


@dataclass(frozen=True)
class Sound:
    """What an undamaged folder gives."""

    logits: Tensor
    tokens: list[int]
    prompt: str
    update: Tensor


def copy_lab(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(LAB, folder / "model")
    return folder / "model"


def compute_logits(folder: Path) -> Tensor:
    with torch.no_grad():
        return load_model(folder, dtype=torch.float32)(torch.tensor([[2, 4, 9, 30, 7]])).logits


def tokenize(folder: Path) -> list[int]:
    return list(load_tokenizer(folder)(TEXT)["input_ids"])


def write_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    prefix = "base_model.model.model.layers.0.self_attn.k_proj.lora_"
    factors = {"A": torch.randn(2, 96, generator=generator), "B": torch.randn(48, 2, generator=generator)}
    save_file(
        {f"{prefix}{side}.weight": factor for side, factor in factors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return folder


def read_update(folder: Path) -> Tensor:
    reference = CheckpointReader(LAB)
    adapter = open_one("a", str(folder), reference)
    slots = [slot for slot in select_slots(reference) if slot.kind == "k_proj" and slot.layer == 0]
    (update,) = [adapter.read_update(slot, slot.view(reference.read(slot.tensor))) for slot in slots]
    assert update is not None
    return update


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    adapter = write_adapter(tmp_path_factory.mktemp("sound") / "adapter")
    prompt = render_prompt(load_tokenizer(LAB), TEXT)
    return Sound(compute_logits(LAB), tokenize(LAB), prompt, read_update(adapter))


@contextmanager
def within_seconds(limit: float = 10.0) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < limit


def check(act: Callable[[], Any], wanted: Any, *, is_untellable: bool = False) -> None:
    """Acts on a damaged folder: it is refused in one line, or gives what the sound one gives."""
    with within_seconds():
        try:
            found = act()
        except UserError as error:
            said = str(error)
            found = None
    if found is None:
        assert "\n" not in said
        d.count("refused")
        return
    same = torch.equal(found, wanted) if isinstance(found, Tensor) else found == wanted
    assert same or is_untellable
    d.count("without effect" if same else "cannot be told from a sound one")


def check_header(folder: Path, sound: Sound, drawn: tuple[str, int, int, Any]) -> None:
    kind, at, other, value = drawn
    model = copy_lab(folder)
    file = model / "model.safetensors"
    header, numbers = d.read_header(file)
    names = sorted(name for name in header if name != "__metadata__")
    name = names[at % len(names)]
    if kind == "flip":
        d.flip_bit(file, at % (8 + len(json.dumps(header))), other % 8)
    elif kind == "field":
        key = ("dtype", "shape", "data_offsets")[other % 3]
        header[name][key] = value
    elif kind == "rename":
        header[f"{name}{value}"] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "add":
        header["stranger.weight"] = header[name]
    elif kind == "integers":
        header[name]["dtype"] = ("I32", "U32")[other % 2]
    elif kind == "not finite":
        start = header[name]["data_offsets"][0]
        nan = torch.tensor([float("nan") if other % 2 else float("-inf")]).numpy().tobytes()
        numbers = numbers[:start] + nan + numbers[start + 4 :]
    if kind == "broken":
        d.break_file(file, *value)
    elif kind != "flip":
        d.write_header(file, header, numbers)
    check(lambda: compute_logits(model), sound.logits)


def check_index(folder: Path, sound: Sound, drawn: tuple[str, int, int, Any]) -> None:
    kind, at, other, value = drawn
    model = copy_lab(folder)
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{number}-of-00002.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, model / shard, metadata={"format": "pt"})
    places = {name: shard for shard, held in shards.items() for name in held}
    index = model / "model.safetensors.index.json"
    name = names[at % len(names)]
    if kind == "wrong shard":
        places[name] = next(shard for shard in shards if shard != places[name])
    elif kind == "outside":
        places[name] = ("../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "\0", "a\\b")[other % 7]
    elif kind == "value":
        places[name] = value
    elif kind == "drop":
        del places[name]
    elif kind == "add":
        places[f"{name}x"] = next(iter(shards))
    elif kind == "both":
        save_file({one: 2 * tensors[one] for one in names}, model / "model.safetensors", metadata={"format": "pt"})
    elif kind == "absent":
        (model / list(shards)[other % 2]).unlink()
    index.write_text(json.dumps({"metadata": {}, "weight_map": value if kind == "map" else places}))
    if kind == "broken":
        d.break_file((index, model / next(iter(shards)))[other % 2], *value)
    check(lambda: compute_logits(model), sound.logits)


def check_config(folder: Path, sound: Sound, drawn: tuple[str, tuple[Any, ...], Any]) -> None:
    name, path, value = drawn
    model = copy_lab(folder)
    if path == ("broken",):
        d.break_file(model / name, *value)
    else:
        d.set_value(model / name, path, value, remove=value == "remove")
    is_untellable = path[0] in UNTELLABLE
    check(lambda: compute_logits(model), sound.logits, is_untellable=is_untellable and path != ("broken",))


def check_tokenizer(folder: Path, sound: Sound, drawn: tuple[str, tuple[Any, ...], Any]) -> None:
    name, path, value = drawn
    model = copy_lab(folder)
    if path == ("broken",):
        d.break_file(model / name, *value)
    elif path == ("same id",):
        words = sorted(TOKENIZER["model"]["vocab"])
        d.set_value(model / "tokenizer.json", ("model", "vocab", words[10]), TOKENIZER["model"]["vocab"][words[20]])
    elif path == ("outside id",):
        d.set_value(model / "tokenizer.json", ("model", "vocab", "stranger"), 10_000)
    else:
        d.set_value(model / name, path, value, remove=value == "remove")
    is_untellable = len(path) > 0 and path[0] not in ("broken", "same id", "outside id")
    check(lambda: tokenize(model), sound.tokens, is_untellable=is_untellable)


def check_template(folder: Path, sound: Sound, drawn: tuple[str, Any]) -> None:
    kind, value = drawn
    model = copy_lab(folder)
    file = model / "chat_template.jinja"
    if kind == "broken":
        d.break_file(file, *value)
    else:
        text = file.read_text()
        at = int(value[0] * len(text))
        file.write_text(text[:at] + value[1] + (text[at:] if kind == "insert" else text[at + len(value[1]) :]))

    def is_written() -> bool:
        tokenizer = load_tokenizer(model)
        return TEXT in render_prompt(tokenizer, TEXT)

    check(is_written, True)


def check_adapter(folder: Path, sound: Sound, drawn: tuple[str, tuple[Any, ...], Any]) -> None:
    name, path, value = drawn
    shutil.rmtree(folder, ignore_errors=True)
    adapter = write_adapter(folder / "adapter")
    file = adapter / name
    if path == ("broken",):
        d.break_file(file, *value)
    elif name == "adapter_config.json":
        d.set_value(file, path, value, remove=value == "remove")
    else:
        tensors = load_file(file)
        key = sorted(tensors)[path[0] % 2]
        tensors[key] = value(tensors[key])
        save_file(tensors, file)
    is_untellable = path[0] in ("lora_alpha", "use_rslora", "alpha_pattern")
    check(lambda: read_update(adapter), sound.update, is_untellable=is_untellable)


NUMBERS = st.integers(0, 2**31)


def draw_paths(content: dict[str, Any], name: str) -> st.SearchStrategy[tuple[str, tuple[Any, ...], Any]]:
    values = st.one_of(d.ODD_VALUES, st.just("remove"))
    broken = st.tuples(st.just(name), st.just(("broken",)), d.BROKEN_FILES)
    return st.one_of(st.tuples(st.just(name), st.sampled_from(d.list_paths(content)), values), broken)


HEADERS = st.one_of(
    st.tuples(st.sampled_from(["flip", "drop", "add", "integers", "not finite"]), NUMBERS, NUMBERS, st.none()),
    st.tuples(st.just("field"), NUMBERS, NUMBERS, d.ODD_VALUES),
    st.tuples(st.just("rename"), NUMBERS, NUMBERS, st.text(min_size=1, max_size=4)),
    st.tuples(st.just("broken"), NUMBERS, NUMBERS, d.BROKEN_FILES),
)
INDEXES = st.one_of(
    st.tuples(
        st.sampled_from(["wrong shard", "outside", "drop", "add", "both", "absent"]), NUMBERS, NUMBERS, st.none()
    ),
    st.tuples(st.sampled_from(["value", "map"]), NUMBERS, NUMBERS, d.ODD_VALUES),
    st.tuples(st.just("broken"), NUMBERS, NUMBERS, d.BROKEN_FILES),
)
CONFIGS = st.one_of(draw_paths(CONFIG, "config.json"), draw_paths(GENERATION, "generation_config.json"))
FLIPS: list[tuple[str, Any]] = [
    ("num_hidden_layers", 2),
    ("num_hidden_layers", 4),
    ("num_hidden_layers", 10**7),
    ("tie_word_embeddings", False),
    ("model_type", "gpt2"),
    ("model_type", "qwen2"),
    ("model_type", "mistral"),
    ("vocab_size", 10**12),
    ("transformers_weights", "../x.safetensors"),
    ("quantization_config", {"quant_method": "fp8"}),
    ("auto_map", {"AutoConfig": "x.Y"}),
    ("attention_bias", True),
    ("intermediate_size", 128),
]
CONFIG_FLIPS = st.sampled_from([("config.json", (key,), value) for key, value in FLIPS])
TOKENIZERS = st.one_of(
    draw_paths(TOKENIZER, "tokenizer.json"),
    draw_paths(TOKENIZER_CONFIG, "tokenizer_config.json"),
    st.sampled_from([("", ("same id",), None), ("", ("outside id",), None)]),
)
FRAGMENTS = ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 'a' * 10**10 }}"]
FRAGMENTS += [
    "{{ 9 ** (9 ** 9) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
]
FRAGMENTS += [
    "{{",
    "%}",
    "{% endfor %}",
    "{{ messages.a.b }}",
    "{{ ''.__class__ }}",
    "{% include '/etc/passwd' %}",
    "\0",
    "{#",
]
FRAGMENTS += [
    "{{ raise_exception('x') }}",
    "{{ 1 / 0 }}",
    "{{ " + "(" * 2000,
    "x" * 2_000_000,
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]
TEMPLATES = st.one_of(
    st.tuples(
        st.sampled_from(["insert", "replace"]),
        st.tuples(st.floats(0, 1), st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6))),
    ),
    st.tuples(st.just("broken"), d.BROKEN_FILES),
)
FACTORS: list[Callable[[Tensor], Tensor]] = [
    lambda factor: factor * float("nan"),
    lambda factor: factor / 0,
    lambda factor: factor[:1].contiguous(),
    lambda factor: factor.mT.contiguous(),
    lambda factor: factor.to(torch.int8),
    lambda factor: factor.flatten(),
    lambda factor: factor[:0],
]
PATTERNS = st.sampled_from(["(", "(a+)+$", "(.|.)*x", "*", "k_proj", ".*" * 30, "x" * 1000, "[", "a{99999999999}"])
ADAPTERS = st.one_of(
    draw_paths(ADAPTER, "adapter_config.json"),
    st.tuples(st.just("adapter_model.safetensors"), st.tuples(NUMBERS), st.sampled_from(FACTORS)),
    st.tuples(st.just("adapter_model.safetensors"), st.just(("broken",)), d.BROKEN_FILES),
    st.tuples(
        st.just("adapter_config.json"),
        st.sampled_from([("alpha_pattern",), ("rank_pattern",)]),
        st.dictionaries(PATTERNS, d.ODD_VALUES, min_size=1, max_size=2),
    ),
)
PARTS: dict[str, tuple[Callable[[Path, Sound, Any], None], st.SearchStrategy[Any]]] = {
    "headers": (check_header, HEADERS),
    "index files": (check_index, INDEXES),
    "configs": (check_config, st.one_of(CONFIGS, CONFIG_FLIPS)),
    "tokenizers": (check_tokenizer, TOKENIZERS),
    "templates": (check_template, TEMPLATES),
    "adapters": (check_adapter, ADAPTERS),
}


def run(part: str, num_examples: int, folder: Path, sound: Sound) -> None:
    act, strategy = PARTS[part]

    @settings(
        max_examples=num_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def try_one(drawn: Any) -> None:
        act(folder / "tried", sound, drawn)

    try_one()


@pytest.mark.parametrize("part", PARTS)
def test_a_few_damages(part: str, tmp_path: Path, sound: Sound) -> None:
    run(part, 12, tmp_path, sound)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_many_damages(part: str, tmp_path: Path, sound: Sound) -> None:
    run(part, 120 if part == "configs" else 90, tmp_path, sound)
