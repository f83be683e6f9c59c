"""Rivals in a study: what they add, and what of a finished study stays."""

from dataclasses import replace
from pathlib import Path

import pytest

from safety_lightning.cli import main
from safety_lightning.methods import GuardSpace, Method, SafeLora, SafeMerge
from safety_lightning.study.measuring import MeasureStage
from safety_lightning.study.plan import StudyGraph
from safety_lightning.study.settings import KINDS, StudyRun, VariantSettings
from safety_lightning.study.stages import Stage
from tests.kills import ROOT

FITS = {str(kind): {"data": {"kind": kind}} for kind in KINDS}


def list_stages(folder: Path, methods: list[Method], *, safety_tuned: str | None = None) -> list[Stage]:
    chosen = VariantSettings(fractions=[0.5], num_draws=3, methods=methods, safety_tuned=safety_tuned, per_block=8)
    run = StudyRun(base="lab:base", reference="lab:aligned", finetunes=FITS, variants=chosen, out=folder)
    return StudyGraph(replace(run, pilot_share=0), is_light=True).list_stages()


def plan(folder: Path, methods: list[Method], *, safety_tuned: str | None = None) -> dict[str, MeasureStage]:
    stages = list_stages(folder, methods, safety_tuned=safety_tuned)
    return {one.name: one for one in stages if isinstance(one, MeasureStage)}


def test_two_variants_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = '{"class_path": "SafeMerge", "init_args": {"threshold": %s}}'
    words = ["study", "--config", str(ROOT / "configs/study/lab.yaml"), "--out", str(tmp_path / "study")]
    words += ["--variants.safety_tuned", "lab:planted", "--variants.methods", f"[{method % 0.1}, {method % 0.2}]"]
    with pytest.raises(SystemExit):
        main(words)
    assert "variants of a study must have different names, got safe_merge twice" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_rivals_join_the_last_block_and_leave_the_others_as_they_are(tmp_path: Path) -> None:
    before = plan(tmp_path, [])
    after = plan(tmp_path, [SafeLora(), SafeMerge()], safety_tuned="lab:planted")
    changed = {name for name, stage in before.items() if after[name].recipe != stage.recipe}
    last = {f"measure/{kind}-0/{number}" for kind in KINDS for number in [len(before) // 3 - 1]}
    assert changed == last
    assert len(set(after) - set(before)) in (0, 3)  # at most one more block a fine-tune
    variants = [one for stage in after.values() if stage.kind == "useful" for one in stage.variants]
    assert [one.source for one in variants[-2:]] == ["safe_lora", "safe_merge"]
    assert not any(one.is_blunt for one in variants[-2:])


def test_a_rival_is_measured_again_when_its_file_or_its_model_is_another(tmp_path: Path) -> None:
    file = tmp_path / "covariances.safetensors"
    recipes = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        recipes.append({one.name: one.recipe for one in list_stages(tmp_path, [GuardSpace(covariances=str(file))])})
    differing = [name.partition("/")[0] for name in recipes[0] if recipes[0][name] != recipes[1][name]]
    assert sorted(differing) == ["energies", *["measure"] * len(KINDS)]
    merged = [plan(tmp_path, [SafeMerge()], safety_tuned=name) for name in ("lab:planted", "lab:base")]
    assert any(merged[0][name].recipe != merged[1][name].recipe for name in merged[0])


def test_the_overlay_of_asft_leaves_the_other_options_of_the_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[StudyRun] = []
    monkeypatch.setattr("safety_lightning.study.command.print_plan", lambda run, *_, **__: seen.append(run))
    configs = [word for name in ("lab", "lab_asft") for word in ("--config", str(ROOT / f"configs/study/{name}.yaml"))]
    main(["study", *configs, "--out", str(tmp_path / "study"), "--dry_run", "true"])
    [run] = seen
    assert run.fit["trainer"]["max_steps"] == 150
    assert run.fit["penalty"]["subspace"]["base"] == "lab:base"
