"""Texts of judges' authors: from a server or the cache, checked, kept, and never run."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import HarmBenchJudge, JudgeRequest, StrongREJECTRubric, published
from safety_lightning.evaluation.judges.client import LONGEST_REPLY
from safety_lightning.evaluation.judges.local import harmbench, strongreject, wildguard
from safety_lightning.evaluation.judges.published import FetchError, Published, download, fetch_text, find_text
from safety_lightning.evaluation.judges.rubric import hash_text
from safety_lightning.evaluation.judges.served import strongreject_rubric
from safety_lightning.evaluation.judges.templates import read_template

WORDING = "B: {behavior}\nG: {generation}="
FILE = """import another_package
COMPUTED = another_package.x
ASKED = {
    "other": "é",
    "prompt": '''B: {behavior}
''' "G: {generation}=",
}
"""
HERE = Published(
    judge="HarmBenchJudge",
    url="https://example.org/file.py",
    keys=("ASKED", "prompt"),
    licence="MIT",
    hash=hash_text(WORDING),
    places=("behavior", "generation"),
)


@contextmanager
def serve(reply: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Gives the address of a server on loopback that answers every GET by a function."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file.py"
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A network whose every file is `FILE`, and the addresses that were asked for."""
    addresses: list[str] = []
    monkeypatch.setattr(published, "download", lambda url: addresses.append(url) or FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return addresses


def test_a_text_is_fetched_once_and_then_needs_no_network(asked, monkeypatch, tmp_path):
    assert fetch_text(HERE) == WORDING
    assert fetch_text(HERE) == WORDING
    assert asked == [HERE.url]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_text(HERE) == WORDING
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept.read_text() == WORDING
    kept.write_text("another")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set, and .*\.txt does not hold it"):
        fetch_text(HERE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert fetch_text(HERE) == WORDING
    assert asked == [HERE.url] * 2


def test_another_text_than_it_was_is_refused_and_not_kept(asked, tmp_path):
    other = replace(HERE, hash="0" * 16)
    with pytest.raises(UserError) as caught:
        fetch_text(other)
    assert str(caught.value) == (
        "HarmBenchJudge must have its authors' wording, ASKED.prompt of https://example.org/file.py (MIT) did not give "
        f"it: its hash must be {'0' * 16}, got {HERE.hash}; a text file with it does as well (template: FILE)"
    )
    assert not list(tmp_path.rglob("*"))


def test_a_cache_that_cannot_be_written_costs_the_next_run_alone(asked, monkeypatch, tmp_path, caplog):
    (tmp_path / "assets").write_text("a file where the folder should be")
    assert fetch_text(HERE) == WORDING
    assert "so that the next run fetches it again" in caplog.text


def test_no_network_is_asked_where_the_hub_is_offline(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set"):
        HarmBenchJudge()
    assert asked == []
    assert not list(tmp_path.rglob("*"))


def test_a_download_is_bounded_and_goes_nowhere_else(monkeypatch):
    with serve(lambda handler: send(handler, FILE.encode())) as url:
        assert download(url) == FILE
    seen: list[str] = []
    with serve(lambda handler: seen.append(handler.path)) as other:  # noqa: SIM117 (the second needs the first)
        with serve(lambda handler: send(handler, b"", 302, Location=other)) as url:
            with pytest.raises(FetchError, match="redirects, which is not followed"):
                download(url)
    assert seen == []
    for reply, message in (
        (lambda handler: send(handler, b"x" * (LONGEST_REPLY + 1)), "must have at most 1048576 bytes"),
        (lambda handler: send(handler, b"", Content_Encoding="gzip"), "must not be compressed"),
        (lambda handler: send(handler, b"no", 404), "status 404"),
        (lambda handler: send(handler, b"\xff"), "can't decode byte"),
        (lambda handler: send(handler, b"cut", Content_Length="9"), "."),
    ):
        with serve(reply) as url, pytest.raises(FetchError, match=message):
            download(url)
    with pytest.raises(FetchError, match=r"refused|failed"):
        download(url)  # nobody listens there any more


def test_a_server_that_never_ends_is_left(monkeypatch):
    monkeypatch.setattr(published, "LONGEST_WAIT_SECONDS", 0.2)
    gone = threading.Event()
    with serve(lambda handler: gone.wait(20)) as url:
        with pytest.raises(FetchError, match=r"within 0\.2 seconds"):
            download(url)
        gone.set()


def test_only_https_may_be_published():
    with pytest.raises(ValueError, match="url must begin with https://, got http://127"):
        replace(HERE, url="http://127.0.0.1/file.py")


def test_a_file_that_is_fetched_is_parsed_and_never_run(tmp_path):
    ran = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nASKED = open({str(ran)!r}, 'w')\nOTHER = '\\d'\n"
    with pytest.raises(FetchError, match="the file holds no ASKED"):
        find_text(code, ("ASKED",), is_json=False)
    assert find_text(code, ("OTHER",), is_json=False) == "\\d"
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "is_json", "message"),
    [
        ("{", True, "the file holds no ASKED.prompt"),
        ('{"ASKED": {"other": "x"}}', True, "the file holds no ASKED.prompt: 'prompt'"),
        ('{"ASKED": "text"}', True, "the file holds no ASKED.prompt"),
        ('{"ASKED": {"prompt": 3}}', True, "ASKED.prompt must be a text, got int"),
        ("[" * 100_000, True, "too deeply"),
        ("ASKED = ", False, "the file holds no ASKED.prompt: invalid syntax"),
        ("def ASKED(): pass", False, "the file holds no ASKED.prompt: 'ASKED'"),
        ("ASKED = {'prompt': 'a' + x}", False, "the file holds no ASKED.prompt"),
        ("ASKED = " + "(" * 100_000, False, "the file holds no ASKED.prompt"),
        ("ASKED = {[]: 1}", False, "the file holds no ASKED.prompt"),
        ("ASKED = 'x\0'", False, "the file holds no ASKED.prompt"),
    ],
)
def test_a_file_without_the_text_is_said(content, is_json, message):
    with pytest.raises(FetchError, match=message):
        find_text(content, ("ASKED", "prompt"), is_json=is_json)


def test_a_text_of_json_is_found():
    content = '{"one": {"prompt": "é {behavior}"}, "ASKED": {"prompt": "\\u00e9"}}'
    assert find_text(content, ("ASKED", "prompt"), is_json=True) == "é"


@pytest.mark.parametrize("template", [None, "published"])
def test_a_judge_is_asked_by_its_name_alone(asked, monkeypatch, template):
    monkeypatch.setattr(harmbench, "PUBLISHED", HERE)
    judge = HarmBenchJudge(template, "lab:aligned", device="cpu")
    assert judge.template.fill(JudgeRequest(prompt="{generation}", answer="b")) == "B: {generation}\nG: b="
    assert judge.rubric_hash == HERE.hash
    assert asked == [HERE.url]


def test_the_rubric_is_asked_with_its_system_message(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(strongreject_rubric, "PUBLISHED", HERE)
    monkeypatch.setattr(
        strongreject_rubric,
        "PUBLISHED_SYSTEM",
        replace(HERE, keys=("ASKED", "other"), hash=hash_text("é"), places=(), option="system"),
    )
    request = JudgeRequest(prompt="p", answer="a")
    whole = [{"role": "system", "content": "é"}, {"role": "user", "content": "B: p\nG: a="}]
    assert StrongREJECTRubric().write_messages(request) == whole
    own = tmp_path / "own.txt"
    own.write_text("{behavior} {generation}")
    alone = StrongREJECTRubric(str(own))
    assert alone.write_messages(request) == [{"role": "user", "content": "p a"}]
    assert StrongREJECTRubric(str(own), "published").write_messages(request)[0] == whole[0]
    assert alone.rubric_hash != StrongREJECTRubric(str(own), "published").rubric_hash
    own.write_text("be kind")
    assert StrongREJECTRubric(system=str(own)).write_messages(request)[0]["content"] == "be kind"
    with pytest.raises(UserError, match="system must be published or a readable text file"):
        StrongREJECTRubric(system=str(tmp_path / "absent"))


def test_another_wording_in_a_file_is_said(tmp_path, caplog):
    file = tmp_path / "own.txt"
    file.write_text(WORDING + "\n")
    with caplog.at_level(logging.WARNING):
        read_template(str(file), replace(HERE, other_hashes=(hash_text(WORDING + "\n"),)))
        assert not caplog.records
        read_template(str(file), HERE)
    assert "is not the wording that HarmBenchJudge's authors publish: ASKED.prompt of https://example" in caplog.text


@pytest.mark.parametrize(
    "one",
    [
        strongreject.PUBLISHED,
        harmbench.PUBLISHED,
        wildguard.PUBLISHED,
        strongreject_rubric.PUBLISHED,
        strongreject_rubric.PUBLISHED_SYSTEM,
    ],
)
def test_what_is_published_is_at_a_fixed_commit(one):
    assert len([part for part in one.url.split("/") if len(part) == 40]) == 1
    assert len(one.hash) == 16
    assert one.option in ("template", "system")
