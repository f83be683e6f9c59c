"""What docs/security.md says of model folders, data files and judges' servers; and every test that it names exists."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from safety_lightning.checkpoints import load_model, load_tokenizer, locate_model
from safety_lightning.data.chat import render_prompt
from safety_lightning.data.tables import read_table
from safety_lightning.evaluation.judges.served.reply import parse_reply

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(locate_model("lab:aligned"), tmp_path / "model"))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_code_in_a_model_folder_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nraise SystemExit\n"
    )
    autos = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", "own.T"]}
    change(model_folder / "config.json", auto_map=autos)
    change(model_folder / "tokenizer_config.json", auto_map=autos)
    with suppress(ValueError):  # refused, or loaded by transformers' own classes
        load_tokenizer(model_folder)
    with suppress(ValueError):
        load_model(model_folder, dtype=torch.float32)
    change(model_folder / "config.json", model_type="unheard_of")
    with pytest.raises(Exception, match=r"trust_remote_code|unheard_of|custom code"):
        load_model(model_folder, dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch RAN') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_chat_template_reaches_no_python(template: str, model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "chat_template.jinja").write_text(template.replace("RAN", str(tmp_path / "ran")))
    tokenizer = load_tokenizer(model_folder)
    with pytest.raises(Exception, match=r"unsafe|undefined|Undefined"):
        render_prompt(tokenizer, "Hello")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_of_data_are_text(ending: str, tmp_path: Path) -> None:
    texts = [
        "{{ cycler.__init__.__globals__ }}",
        "!!python/object/apply:os.system [x]",
        "=cmd()",
        "{class_path: os.system}",
    ]
    file = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    else:
        file.write_text("prompt\n" + "".join(f'"{text}"\n' for text in texts))
    assert [row["prompt"] for row in read_table(file).rows] == texts
    tokenizer = load_tokenizer("lab:aligned")
    assert texts[0] in render_prompt(tokenizer, texts[0])


@pytest.mark.parametrize("parsing", ["structured", "text", "paper"])
@pytest.mark.parametrize(
    "reply", ["__import__('os').system('x')", '{"class_path": "os.system"}', "!!python/name:os.system ''"]
)
def test_a_reply_is_text(reply: str, parsing: str) -> None:
    judgement = parse_reply(reply, parsing)  # type: ignore[arg-type]
    assert judgement.score is None


def test_every_line_names_a_test_that_exists() -> None:
    lines = re.findall(r"^- .*?(?=^- |^#|\Z)", PAGE, re.M | re.S)
    assert len(lines) == 18
    for line in lines:
        [named] = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
        assert f"def {named[1]}(" in (ROOT / named[0]).read_text()
