"""Imports point one way, and light packages stay light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from safety_lightning.lazy import list_names

PACKAGE = Path(__file__).resolve().parents[1] / "safety_lightning"
# From the bottom to the top; a module may import its own layer and those above it in this list. The longest prefix
# of a module's name decides.
LAYERS = [
    ["errors", "lazy", "strict", "files", "runs", "system"],
    ["profiles", "tables", "figures", "printing"],
    ["subspaces"],
    ["checkpoints"],
    ["projection"],
    ["methods"],
    ["sweep"],
    ["data"],
    ["lab"],  # registers its presets with data, which does not know it
    ["training"],
    ["evaluation", "activations"],
    ["overlap"],
    ["study.statistics"],
    ["study.report"],
    ["cli.texts", "cli.lists", "cli.suggestions"],
    ["cli.nulls"],
    ["cli.configs", "cli.kinds", "cli.judges"],
    ["cli.errors", "cli.stops"],
    ["cli.verbs"],
    ["cli"],
    ["study"],  # whose fine-tunes and captures are commands
    ["__main__", ""],
]
HEAVY = {
    "transformers": ("checkpoints", "data", "training", "evaluation", "activations", "lab", "study"),
    "datasets": ("data",),
    "openai": ("evaluation.judges",),
    "lightning": ("training", "evaluation", "activations", "data.datamodule", "data.loader", "cli.verbs"),
}
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): file
    for file in PACKAGE.rglob("*.py")
}


def list_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".") or prefix == ""


def find_layer(module: str) -> int:
    matches = [(len(p), at) for at, layer in enumerate(LAYERS) for p in layer if starts_with(module, p)]
    return max(matches)[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_point_one_way(module: str) -> None:
    for name in list_imports(MODULES[module]):
        if name.startswith("safety_lightning."):
            target = name.removeprefix("safety_lightning.")
            assert find_layer(target) <= find_layer(module), f"{module} imports {target}, which lies above it"


ROOMS = [
    "activations",
    "checkpoints",
    "data",
    "evaluation",
    "lab",
    "overlap",
    "training",
    "study.report",
    "study.statistics",
]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_offers_what_its_face_names(room: str) -> None:
    face = importlib.import_module(f"safety_lightning.{room}")
    assert len(set(face.__all__)) == len(face.__all__)
    for name in face.__all__:
        assert getattr(face, name) is not None
    for node in ast.parse(MODULES[room].read_text()).body:  # what a type checker sees of names imported on first use
        if isinstance(node, ast.If):
            names = {alias.name for one in node.body if isinstance(one, ast.ImportFrom) for alias in one.names}
            assert names <= set(face.__all__)
            assert names == set(list_names(face._PLACES))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_where_they_belong(module: str) -> None:
    for name in list_imports(MODULES[module]):
        places = HEAVY.get(name.split(".")[0])
        if places is not None:
            assert any(starts_with(module, place) for place in places), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("subspaces") or m == "projection.operators"])
def test_maths_imports_torch_alone(module: str) -> None:
    allowed = {"torch", "safetensors", "safety_lightning", "__future__", *sys.stdlib_module_names}
    roots = {name.split(".")[0] for name in list_imports(MODULES[module])}
    assert roots <= allowed


def test_package_and_command_line_import_nothing_heavy() -> None:
    code = (
        "import sys, safety_lightning, safety_lightning.cli\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
