"""The report of a study: files, tables in every form, the paper's numbers, what is missing, and the command."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from safety_lightning.cli import main
from safety_lightning.errors import UserError
from safety_lightning.study.report import compare, write_report
from safety_lightning.study.report import write as writing
from safety_lightning.study.report.chart import PALETTE, Chart, Mark
from safety_lightning.study.report.figures import NAMES, list_charts
from safety_lightning.study.report.paper import find_model, list_paper_sheets, read_facts
from safety_lightning.study.report.results import read_results
from safety_lightning.study.report.sheet import Sheet
from safety_lightning.study.report.vega import has_vega, make_spec

WITH_VEGA = pytest.mark.skipif(not has_vega(), reason="the extra report (vl-convert-python) is not installed")


@pytest.fixture(scope="module")
def plain_report(planted_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report made without the extra."""
    study = tmp_path_factory.mktemp("plain") / "study"
    shutil.copytree(planted_study, study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "has_vega", lambda: False)
        write_report(study)
    return study


def test_without_the_extra_figures_are_static_and_the_report_says_so(plain_report: Path) -> None:
    page = (plain_report / "report.html").read_text()
    assert "Drawn without the extra" in page
    assert "matplotlib" in (plain_report / "report.md").read_text()
    assert page.count("<svg") == len(list(plain_report.glob("figures/*.png"))) >= 6
    assert "vegaEmbed(fresh" in page  # the script is there, and does nothing without its library
    assert len(page) < 1_500_000


def test_verdict_comes_first_and_sections_follow_in_order(plain_report: Path) -> None:
    sentence = json.loads((plain_report / "verdict.json").read_text())["sentence"]
    page, text = (plain_report / "report.html").read_text(), (plain_report / "report.md").read_text()
    assert page.index(sentence) < page.index('<h2 id="settings"') < page.index('<h2 id="tables"')
    assert page.index('<h2 id="tables"') < page.index('<h2 id="figures"') < page.index('<h2 id="repeat"')
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [
        *("Settings", "Tables", "Figures", "The paper's tables", "Skipped, unjudged, cut off", "Cost"),
        "How to repeat it",
    ]
    assert text.startswith("# Study study: Separable")
    assert "python -m safety_lightning study --config configs/study/lab.yaml" in text
    assert "0" * 64 in text


def test_page_fetches_nothing_and_has_no_open_ends(plain_report: Path) -> None:
    page = (plain_report / "report.html").read_text()
    outside = re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", outside)
    assert "default-src 'none'" in page
    for tag in ("table", "details", "figure", "section", "tr", "td"):
        assert len(re.findall(rf"<{tag}[\s>]", outside)) == outside.count(f"</{tag}>")


def test_what_the_study_names_cannot_break_the_page(
    planted_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    shutil.copytree(planted_study, study)
    settings = json.loads((study / "settings.json").read_text())
    settings["config"]["note"] = "<script>alert(1)</script>"
    (study / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr(writing, "list_charts", lambda _: [])
    write_report(study)
    assert "<script>alert" not in (study / "report.html").read_text()


def test_figures_show_what_was_measured_and_name_what_was_not(planted_study: Path, bare_study: Path) -> None:
    charts = {chart.name: chart for chart in list_charts(read_results(planted_study))}
    assert set(charts) == set(NAMES) - {"energy", "energy_by_layer"}
    tradeoff = charts["tradeoff"]
    assert "safe_lora" in tradeoff.series
    assert tradeoff.panels == ["experiment 1", "experiment 2"]
    assert {chart.name for chart in list_charts(read_results(bare_study))} == {
        *("measures_orthogonal", "measures_parallel", "selectivity", "tradeoff"),
    }


def test_specification_keeps_zeros_and_leaves_out_what_is_absent(planted_study: Path) -> None:
    [chart] = [one for one in list_charts(read_results(planted_study)) if one.name == "tradeoff"]
    values = make_spec(chart)["data"]["values"]
    assert all("x" in value and "y" in value for value in values)
    assert any(value["y"] == 0 for value in values)
    assert not any("low" in value for value in values if value.get("is_line"))


def test_paper_tables_hold_its_numbers_beside_ours(planted_study: Path) -> None:
    sheets = {sheet.name: sheet for sheet in list_paper_sheets(read_results(planted_study))}
    rows = [row for row in sheets["paper_table_4"].rows if row[0] == "useful"]
    ours, paper = (next(row for row in rows if row[2:4] == ("top_k", who)) for who in ("ours", "paper"))
    assert paper[4:8] == (0.21, 0.47, 0.61, 0.5)  # of Table 4, Qwen2.5-1.5B, aligned
    assert ours[4] is None  # the base was not measured
    assert ours[5] == pytest.approx(0.2, abs=0.1)
    assert ours[10] is None  # nor this fraction
    assert len(sheets["paper_table_5"].rows) == 12


def test_facts_of_the_paper_are_whole() -> None:
    facts = read_facts()
    assert len(facts) == 504
    assert {row["table"] for row in facts} == {"4", "5"}
    assert len({row["model"] for row in facts}) == 5


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"base": "meta-llama/Llama-3.2-1B@abc", "reference_fit": {}}, ("Llama-3.2-1B", "safety_tuned")),
        ({"base": "meta-llama/Llama-2-7b-hf", "reference": "meta-llama/Llama-2-7b-chat-hf"}, ("Llama-2-7B", "aligned")),
        ({"base": "lab:base", "reference": "lab:aligned"}, (None, "aligned")),
    ],
)
def test_models_of_the_paper_are_found(config: dict[str, object], found: tuple[str | None, str]) -> None:
    assert find_model(config) == found


def test_sheet_in_every_form() -> None:
    sheet = Sheet(name="a", title="50 % of A_1", columns=("who ↓", "S"), rows=[("a|b & c", 0.12345), ("d", None)])
    assert list(csv.reader(sheet.to_csv().splitlines())) == [["who ↓", "S"], ["a|b & c", "0.12345"], ["d", ""]]
    assert sheet.to_markdown() == "| who ↓ | S |\n| --- | ---: |\n| a\\|b & c | 0.123 |\n| d |  |\n"
    latex = sheet.to_latex()
    assert r"\begin{tabular}{lr}" in latex
    assert r"a|b \& c & 0.123 \\" in latex
    assert r"\caption{50 \% of A\_1}" in latex
    assert r"\toprule" in latex


def test_negative_zero_is_not_shown() -> None:
    assert Sheet(name="a", title="", columns=("x",), rows=[(-0.0001,)]).to_markdown().endswith("| 0.000 |\n")


def test_report_is_made_anew_from_results_alone(plain_report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "has_vega", lambda: False)
    names = ("report.md", "report.html", "figures/tradeoff.svg", "tables/paper_table_4.tex")
    before = [(plain_report / name).read_text() for name in names]
    (plain_report / "values.parquet").unlink(missing_ok=True)
    write_report(plain_report)
    after = [(plain_report / name).read_text() for name in names]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, True]


@WITH_VEGA
def test_with_the_extra_one_specification_gives_page_svg_and_png(planted_study: Path) -> None:
    write_report(planted_study)
    page = (planted_study / "report.html").read_text()
    assert len(page.encode()) < 2_000_000
    for stem in ("tradeoff", "selectivity", "activation_map"):
        spec = json.loads((planted_study / "figures" / f"{stem}.vl.json").read_text())
        assert spec["data"]["values"]
        assert f'data-name="{stem}"' in page
        assert (planted_study / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (planted_study / "figures" / f"{stem}.svg").read_text().startswith("<svg")


def test_compare_sets_studies_side_by_side(planted_study: Path, bare_study: Path) -> None:
    console = Console(width=120, record=True)
    with console.capture() as captured:
        compare([planted_study, bare_study], console=console)
    text = captured.get()
    assert "planted0/study" in text
    assert "bare0/study" in text
    assert "separable" in text
    assert "experiment 1" in text
    assert "What differs" in text


def test_command_makes_the_report(
    plain_report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.setattr(writing, "list_charts", lambda _: [])
    main(["report", "--study", str(plain_report)])
    assert f"Report: {plain_report / 'report.html'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report must be given --study DIR, or --compare DIR1 DIR2, got both or none"),
        (["--study", "nowhere"], "study nowhere must be the folder of a study with a verdict, it has no verdict.json"),
        (["--compare", "nowhere"], "--compare must name two studies or more, got 1"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    with pytest.raises(SystemExit):
        main(["report", *words])
    assert message in capsys.readouterr().err


def test_damaged_results_are_named(planted_study: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(planted_study, study)
    (study / "selectivity.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"selectivity\.csv must be a table with the columns experiment, component"):
        read_results(study)
    (study / "verdict.json").write_text("{}")
    with pytest.raises(UserError, match=r"verdict\.json must be a verdict, it is not"):
        read_results(study)


def test_no_two_groups_of_a_scatter_look_alike() -> None:
    marks = [Mark(panel="p", series=f"method {number}", x=0.1, y=0.2) for number in range(20)]
    chart = Chart(name="n", title="t", text="x", kind="scatter", x_title="x", y_title="y", marks=marks)
    looks = [(chart.colours[name], chart.shapes[name]) for name in chart.series]
    assert len(set(looks)) == len(looks)
    assert set(chart.shapes.values()) <= set(range(len(PALETTE)))
