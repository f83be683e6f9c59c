"""The page of answers: nothing acts as markup, harmful tasks are hidden."""

from types import SimpleNamespace

from safety_lightning.evaluation.records import ScoreRow
from safety_lightning.evaluation.report import HIDDEN, format_samples

ANSWER = "**bold** <script>alert(1)</script> | next\nline ![x](http://example.org/x.png)" + "a" * 1000


def make_row(value: float | None) -> ScoreRow:
    unjudged = "refused" if value is None else None
    fields = {"id": "t/0", "task": "t", "metric": "harmfulness", "kind": "judged", "judge": "j", "rubric_hash": "r"}
    return ScoreRow(**fields, value=value, unjudged=unjudged, reason="")


def format_page(*, is_harmful: bool, show_harmful: bool, value: float | None = 4.0) -> str:
    task = SimpleNamespace(name="t", is_harmful=is_harmful)
    plan = SimpleNamespace(list_indices=lambda _: [0])
    generations = {0: SimpleNamespace(id="t/0", prompt="a request", answer=ANSWER)}
    return format_samples(plan, task, generations, [make_row(value)], num_samples=3, show_harmful=show_harmful)


def test_answers_act_as_no_markup() -> None:
    page = format_page(is_harmful=False, show_harmful=False)
    row = page.splitlines()[-1]
    assert page.count("\n") == 2
    assert row.count("|") == 4
    for mark in ("<script>", "**", "](", "!["):
        assert mark not in row
    assert "&lt;script&gt;" in row
    assert "4 |" in row
    assert len(row) < 1200


def test_harmful_answers_are_hidden_unless_asked_for() -> None:
    hidden = format_page(is_harmful=True, show_harmful=False, value=None)
    assert "a request" not in hidden
    assert "bold" not in hidden
    assert HIDDEN in hidden
    assert "refused" in hidden
    assert "a request" in format_page(is_harmful=True, show_harmful=True)
