"""`test` in several processes, and killed again and again: the files of an undisturbed run, nothing judged twice."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from safety_lightning.evaluation.judges import JudgementCache, JudgeRequest, OpenAIJudge
from safety_lightning.evaluation.judges.run import find_cache_file, make_key
from safety_lightning.evaluation.records import read_generations
from safety_lightning.lab.world import generate_examples
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_reply
from tests.kills import replace_options

ROOT = Path(__file__).resolve().parents[2]
FILES = ("generations.jsonl", "scores.jsonl", "results.jsonl")
NUM_KILLS, NUM_PROMPTS = 10, 80
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def launch(words: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "safety_lightning", "test", *replace_options(words)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    with log.open("ab") as stream:
        return subprocess.Popen(command, env=variables, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)


def run(words: list[str], log: Path, **environment: str) -> None:
    assert launch(words, log, **environment).wait() == 0, log.read_text()


def read_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("batch_size", [2, 64])
def test_two_processes_measure_exactly_what_one_does(tmp_path: Path, batch_size: int) -> None:
    words = ["--config", "configs/test/lab.yaml", "--data.lab.num_prompts", "5"]
    words += ["--data.batch_size", str(batch_size), "--trainer.enable_progress_bar", "false"]
    run([*words, "--run_dir", str(tmp_path / "one")], tmp_path / "log")
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run([*words, *two, "--run_dir", str(tmp_path / "two")], tmp_path / "log")
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["num_processes"] == 2
    ids = [row.id for row in read_generations(tmp_path / "two" / "generations.jsonl")]
    assert len(ids) == len(set(ids)) == 15
    assert not list((tmp_path / "two").glob("*.rank*"))


def test_process_without_a_batch_takes_part(tmp_path: Path) -> None:
    file = tmp_path / "ordinary.csv"
    file.write_text("prompt\nHow can Abel clean the ring?\nHow can Bella clean the veil?\n")
    words = ["--model.model", "lab:aligned", "--data.tasks", "[ordinary]", "--data.ordinary.source", str(file)]
    words += ["--data.ordinary.max_new_tokens", "16", "--trainer.accelerator", "cpu"]
    run([*words, "--run_dir", str(tmp_path / "one")], tmp_path / "log")
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run([*words, *two, "--run_dir", str(tmp_path / "two")], tmp_path / "log")
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")


class CountingServer:
    """Scores by the length of what it is shown, slowly, and counts how often each is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def answer(self, question: Question) -> ServerReply:
        self.asked[question.text] += 1
        score = 1 + len(question.text) % 5
        return ServerReply(body=write_reply(json.dumps({"reason": "length", "score": score})), latency_seconds=0.1)


def count_units(run_folder: Path, server: CountingServer) -> int:
    """Counts answers on disk and questions asked."""
    file = run_folder / "generations.jsonl"
    return (file.read_bytes().count(b"\n") if file.is_file() else 0) + sum(server.asked.values())


def list_stored(run_folder: Path, judge: OpenAIJudge, cache_file: Path) -> set[str]:
    """Lists the texts of the questions whose scores are stored."""
    if not cache_file.is_file():
        return set()
    requests = [
        JudgeRequest(prompt=row.prompt, answer=row.answer) for row in read_generations(run_folder / "generations.jsonl")
    ]
    with JudgementCache(cache_file) as cache:
        stored = [request for request in requests if cache.get(make_key(judge, request)) is not None]
    return {judge.rubric.fill(one) for one in stored}


def test_killed_ten_times_ends_with_the_files_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not a key")
    drawn = random.Random(0)
    requests = generate_examples("harmful", split="test", size=NUM_PROMPTS, seed=0)
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps({"prompt": one.prompt}) + "\n" for one in requests))
    words = ["--model.model", "lab:base", "--data.tasks", "[harmful]", "--data.batch_size", "2"]
    words += ["--data.harmful.source", str(tmp_path / "requests.jsonl"), "--data.harmful.max_new_tokens", "48"]
    words += ["--trainer.accelerator", "cpu", "--data.judge", "OpenAIJudge", "--data.judge.delivery.concurrency", "2"]
    counting, log = CountingServer(), tmp_path / "log"
    with ChatServer(counting.answer) as server:
        words += ["--data.judge.base_url", server.url]
        run([*words, "--run_dir", str(tmp_path / "straight")], log, SAFETY_LIGHTNING_CACHE=str(tmp_path / "a"))
        assert set(counting.asked.values()) == {1}
        counting.asked.clear()

        monkeypatch.setenv("SAFETY_LIGHTNING_CACHE", str(tmp_path / "b"))
        killed, cache_file = tmp_path / "killed", find_cache_file()
        judge = OpenAIJudge(base_url=server.url)
        words += ["--run_dir", str(killed)]
        settled: dict[str, int] = {}
        for number in range(NUM_KILLS):
            more = ["--ckpt_path", "last"] if killed.is_dir() else []
            wanted = count_units(killed, counting) + drawn.randint(8, 14)
            process = launch([*words, *more], log)
            while count_units(killed, counting) < wanted:
                assert process.poll() is None, f"it ended before kill {number}: {log.read_text()[-3000:]}"
                time.sleep(0.002)
            time.sleep(drawn.uniform(0, 0.05))
            process.kill()
            process.wait()
            time.sleep(0.3)  # what the server was about to say is said
            settled |= {text: counting.asked[text] for text in list_stored(killed, judge, cache_file)}
        assert 0 < len(settled) < NUM_PROMPTS  # some of the kills came while it judged
        run([*words, "--ckpt_path", "last"], log)
    assert read_files(killed) == read_files(tmp_path / "straight")
    assert {text: counting.asked[text] for text in settled} == settled  # what was stored is never asked again
    assert len(counting.asked) == NUM_PROMPTS
    assert sum(counting.asked.values()) <= NUM_PROMPTS + 2 * NUM_KILLS  # but for two in flight at each kill
    assert len(json.loads((killed / "manifest.json").read_text())["resumed"]) == NUM_KILLS
