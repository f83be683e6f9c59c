"""The report of a study: files, tables in every form, the paper's numbers, what is missing, and the command."""

import csv
import dataclasses
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
from safety_lightning.study.report.page import list_numbers
from safety_lightning.study.report.paper import find_model, list_paper_sheets, read_facts
from safety_lightning.study.report.results import read_results
from safety_lightning.study.report.sheet import Sheet
from safety_lightning.study.report.tables import list_gaps, list_sheets
from safety_lightning.study.report.vega import has_vega, make_spec
from safety_lightning.study.statistics import StatisticsSettings, write_statistics
from safety_lightning.study.statistics.nulls import NullRow
from safety_lightning.study.statistics.tables import SelectivityRow
from safety_lightning.tables import write_csv
from tests.study.conftest import PLANTED
from tests.study.world import write_values

WITH_VEGA = pytest.mark.skipif(not has_vega(), reason="the extra report (vl-convert-python) is not installed")


def copy_study(study: Path, folder: Path) -> Path:
    """Copies a shared study, so that a test may write in it."""
    return Path(shutil.copytree(study, folder / "study"))


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
    assert set(charts) == set(NAMES)
    tradeoff = charts["tradeoff"]
    assert "safe_lora" in tradeoff.series
    assert tradeoff.panels == ["experiment 1", "experiment 2"]
    assert {chart.name for chart in list_charts(read_results(bare_study))} == {
        *("measures_orthogonal", "measures_parallel", "selectivity", "tradeoff", "energy"),
    }


def test_energies_are_means_over_draws_and_over_the_matrices_of_a_layer(planted_study: Path) -> None:
    charts = {chart.name: chart for chart in list_charts(read_results(planted_study))}
    [random] = [
        mark.y
        for mark in charts["energy"].marks
        if (mark.panel, mark.series, mark.x) == ("useful fine-tune, orthogonal", "random subspace (chance)", 0.25)
    ]
    assert random == pytest.approx(0.752)  # five draws keep 0.75, 0.751 … 0.754
    layers = [(mark.panel, mark.series, mark.x, mark.y) for mark in charts["energy_by_layer"].marks]
    assert layers == [("useful-0", "ρ = 0.25", 0, pytest.approx(0.4)), ("useful-0", "ρ = 0.25", 1, 0.9)]


def test_overlap_of_activations_is_that_of_the_averaged_layers(planted_study: Path) -> None:
    charts = {chart.name: chart for chart in list_charts(read_results(planted_study))}
    curve, by_layer = charts["mso_activations"], charts["activation_map"]
    found = [mark.y for mark in curve.marks if (mark.series, mark.x) == ("harmful vs useful", 0.9)]
    assert found[0] == pytest.approx(0.49)  # of layers 2 to 4; the mean over all six is 0.475
    assert "the mean over layers 2 to 4," in curve.text
    assert [mark.y for mark in by_layer.marks if mark.series == "harmful vs useful"] == pytest.approx(
        [0.4, 0.43, 0.46, 0.49, 0.52, 0.55]
    )
    rows = [row for row in read_results(planted_study).excesses if row.subject == "activations"]
    assert {(row.num_places, row.share_larger, row.null_low) for row in rows} == {(3, None, 0.6)}


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


def test_report_is_made_anew_from_results_alone(
    plain_report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_report = copy_study(plain_report, tmp_path)
    monkeypatch.setattr(writing, "has_vega", lambda: False)
    write_report(plain_report)  # the page names its folder
    names = ("report.md", "report.html", "figures/tradeoff.svg", "tables/paper_table_4.tex")
    before = [(plain_report / name).read_text() for name in names]
    (plain_report / "values.parquet").unlink()
    write_report(plain_report)
    after = [(plain_report / name).read_text() for name in names]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, True]


@WITH_VEGA
def test_with_the_extra_one_specification_gives_page_svg_and_png(planted_study: Path, tmp_path: Path) -> None:
    planted_study = copy_study(planted_study, tmp_path)
    before = {file for file in planted_study.rglob("*") if file.is_file()}
    written = write_report(planted_study)
    assert written[0] == planted_study / "report.html"
    assert set(written) == {file for file in planted_study.rglob("*") if file.is_file()} - before
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
    plain_report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_report = copy_study(plain_report, tmp_path)
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


def test_twin_studies_are_named(planted_study: Path, bare_study: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"different studies, got {planted_study} twice")):
        compare([bare_study, planted_study, planted_study])


def test_null_is_counted_and_what_was_skipped_is_listed(planted_study: Path, tmp_path: Path) -> None:
    study = copy_study(planted_study, tmp_path)
    rows = [
        NullRow(draw=draw, verdict=verdict, reason="", selectivity=None, low=None, high=None)
        for draw, verdict in enumerate(["undecided", "separable", "not_separable"])
    ]
    write_csv(study / "tables" / "null.csv", NullRow, rows)
    verdict = json.loads((study / "verdict.json").read_text())
    (study / "verdict.json").write_text(json.dumps(verdict | {"skipped": ["experiment 1, seed 2 is left out"]}))
    results = read_results(study)
    assert ("null: random subspaces that are called separable", "1 of 3 (tables/null.csv)") in list_numbers(results)
    assert "experiment 1, seed 2 is left out" in list_gaps(results)


def test_attack_says_which_loss_was_allowed(tmp_path: Path) -> None:
    write_values(tmp_path, dataclasses.replace(PLANTED, kinds=("contaminated",)))
    write_statistics(tmp_path, StatisticsSettings(num_resamples=100, largest_loss=0.25))
    [sheet] = [one for one in list_sheets(read_results(tmp_path)) if one.name == "attack"]
    assert sheet.note == "Allowed are variants that keep at least 75% of the reference's utility."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("overlap_weights.csv", "a,b\n1,2\n", r"overlap_weights\.csv must be a table with the columns profile, pair"),
        ("overlap_activations.csv", "\x00", r"overlap_activations\.csv must be a table with the columns profile"),
        ("energies/tensors.parquet", "none", r"tensors\.parquet must be a Parquet file, got an error"),
        ("variants.parquet", "none", r"variants\.parquet must be a Parquet file, got an error"),
        ("config.yaml", "a: [1", r"config\.yaml must be a mapping in YAML, got an error: while parsing"),
        ("config.yaml", "- 1", r"config\.yaml must be a mapping in YAML, it holds a list"),
        ("settings.json", "[[1, 2]]", r"settings\.json must be a mapping in JSON, it holds a list"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, message: str, planted_study: Path, tmp_path: Path) -> None:
    study = copy_study(planted_study, tmp_path)
    (study / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(study)


def test_a_row_that_was_cut_off_is_named(planted_study: Path, tmp_path: Path) -> None:
    study = copy_study(planted_study, tmp_path)
    file = study / "overlap_weights.csv"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(UserError, match=r"overlap_weights\.csv must be .* row 90 has not as many cells as the header"):
        read_results(study)


def test_damaged_results_are_named(planted_study: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(planted_study, study)
    (study / "selectivity.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"selectivity\.csv must be a table with the columns experiment, component"):
        read_results(study)
    (study / "verdict.json").write_text("{}")
    with pytest.raises(UserError, match=r"verdict\.json must be a verdict, it is not"):
        read_results(study)


def test_a_long_table_is_referred_to_by_a_file_that_is_there(
    planted_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copy_study(planted_study, tmp_path)
    rows = read_results(study).selectivity
    write_csv(study / "selectivity.csv", SelectivityRow, [*rows] * (60 // len(rows) + 1))
    monkeypatch.setattr(writing, "list_charts", lambda _: [])
    write_report(study)
    pattern = r"^Selectivity of the safety subspace: `(.*)` \(\d+ rows\)\.$"
    [named] = re.findall(pattern, (study / "report.md").read_text(), re.M)
    assert (study / named).is_file()


def test_no_two_groups_of_a_scatter_look_alike() -> None:
    marks = [Mark(panel="p", series=f"method {number}", x=0.1, y=0.2) for number in range(20)]
    chart = Chart(name="n", title="t", text="x", kind="scatter", x_title="x", y_title="y", marks=marks)
    looks = [(chart.colours[name], chart.shapes[name]) for name in chart.series]
    assert len(set(looks)) == len(looks)
    assert set(chart.shapes.values()) <= set(range(len(PALETTE)))
