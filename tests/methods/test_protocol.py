"""Every method is its formula: what is summed, sampled, stored and expanded equals the plain form in float64."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from safety_lightning.checkpoints import CheckpointReader, select_slots
from safety_lightning.cli import main
from safety_lightning.methods import (
    Description,
    Kept,
    MatrixUpdate,
    Method,
    Needs,
    Opposite,
    RemoveEnergy,
    Resta,
    SafeLora,
    SafeMerge,
    Scale,
    SubspaceComponent,
    Variant,
    list_variants,
)
from safety_lightning.methods.delta import MatrixDelta, span_bases
from safety_lightning.methods.update import UNTREATED, keep_plainly
from safety_lightning.subspaces import decompose_delta
from safety_lightning.sweep import EnergyRow, SweepMatrixRow
from safety_lightning.sweep.sweep import make_recipe
from safety_lightning.tables import read_parquet
from tests.sweep.test_sweep import run

# inside PEFT (2026-11, peft 0.21, transformers 5.23)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUERY = "model.layers.0.self_attn.q_proj.weight"


@dataclass(frozen=True, kw_only=True)
class Signs(Method):
    """A method from outside the package: adds the sign of every number of the delta.

    Attributes:
        size: What is added.
    """

    size: float = 0.001

    def keep(self, matrix: MatrixUpdate) -> Kept:
        return Kept(own=1.0, extra=lambda: self.size * matrix.delta.delta_MN.sign())

    def describe(self) -> Description:
        return Description(source="signs", fraction=self.size, text=f"{self.size:g} times the signs of the delta")


@dataclass(frozen=True, kw_only=True)
class HalfAway(Method):
    """Another: halves the part in the subspace, so that the update lies in neither component."""

    @property
    def needs(self) -> Needs:
        return Needs(source="random_k", fraction=0.5)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        rank, _ = matrix.delta.choose_rank("random_k", 0.5)
        return Kept(own=1.0, inside=-0.5, source="random_k", rank=rank)

    def describe(self) -> Description:
        return Description(source="half_away", text="half of the parallel part", keeps_rank=True)


METHODS: list[Method] = [
    *(
        SubspaceComponent(source=source, component=component, fraction=fraction)  # type: ignore[arg-type]
        for source in ("top_k", "random_k", "random")
        for component in ("parallel", "orthogonal")
        for fraction in (0.1, 0.5, 1.0)
    ),
    *(Opposite(source=source, fraction=0.25) for source in ("top_k", "random")),  # type: ignore[arg-type]
    *(Scale(alpha=alpha) for alpha in (0.0, 0.3, 1.0)),
    *(RemoveEnergy(share=share) for share in (0.3, 0.9)),
    SafeLora(threshold=1.0),
    SafeMerge(threshold=1.0),
    Resta(scale=0.2),
    Signs(),
    HalfAway(),
]


def make_update(checkpoints: dict[str, Path], side: str) -> tuple[MatrixDelta, MatrixUpdate]:
    readers = {name: CheckpointReader(folder) for name, folder in checkpoints.items()}
    [slot] = select_slots(readers["reference"], include=[QUERY], exclude=[], vectors="project")
    weights = {name: reader.read(QUERY).float() for name, reader in readers.items()}
    variants = [Variant(finetuned="-", method=method) for method in METHODS]
    recipe = make_recipe(variants, side=side, seed=0)  # type: ignore[arg-type]
    start = weights["reference"]
    delta = span_bases(slot, start, start - weights["base"], recipe, decompose_delta)

    def turn(matrix: Tensor) -> Tensor:
        return matrix if side == "left" else matrix.mT

    update = MatrixUpdate(
        delta, turn(weights["useful"] - start), safety_MN=turn(weights["harmful"] - start), is_vector=False
    )
    return delta, update


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, dataclasses.astuple(method))))
def test_quick_form_equals_the_plain_one(checkpoints: dict[str, Path], side: str, method: Method) -> None:
    delta, update = make_update(checkpoints, side)
    kept = method.keep(update)
    basis = delta.pick_columns(kept.source, slice(0, kept.rank)).double()
    plain = keep_plainly(kept, update.update_MN.double(), basis)
    torch.testing.assert_close(update.expand(kept).double(), plain, atol=1e-7, rtol=1e-4)
    sums = update.sum_up(kept, (0.0, None))
    size = float(update.update_MN.double().square().sum())
    assert sums.total == pytest.approx(size, rel=1e-6)
    assert sums.kept == pytest.approx(float(plain.square().sum()), rel=1e-4, abs=1e-6 * size)
    assert sums.dot_update == pytest.approx(float((plain * update.update_MN).sum()), rel=1e-4, abs=1e-6 * size)
    dot = float((plain * delta.delta_MN).sum())
    assert sums.dot_delta == pytest.approx(dot, rel=1e-3, abs=1e-5 * size**0.5 * delta.norm)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, dataclasses.astuple(method))))
def test_chance_is_the_mean_over_random_updates(checkpoints: dict[str, Path], method: Method) -> None:
    delta, update = make_update(checkpoints, "left")
    kept = method.keep(update)
    chance = update.sum_up(kept, (0.0, None)).chance
    if kept.extra is not None or kept.inside == 0:
        assert chance is None
        return
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(len(update.update_MN), 4000, generator=generator)
    basis = delta.pick_columns(kept.source, slice(0, kept.rank))
    share = float(keep_plainly(kept, draws, basis).square().sum() / draws.square().sum())
    assert chance == pytest.approx(share, abs=0.02)


def test_larger_ranks_add_to_smaller_ones(checkpoints: dict[str, Path]) -> None:
    _, update = make_update(checkpoints, "left")
    keeps = [(method.describe(), method.keep(update)) for method in METHODS]
    seen = {key: kept_MN.clone() for key, kept_MN in update.iterate_kept(keeps)}
    assert len(seen) == len(keeps)
    for key, kept in keeps:
        torch.testing.assert_close(seen[key], update.expand(kept), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_factor_of_an_adapter_is_treated_like_the_update(checkpoints: dict[str, Path], side: str) -> None:
    _, update = make_update(checkpoints, side)
    generator = torch.Generator().manual_seed(0)
    b_MR, a_RN = (torch.randn(size, generator=generator) for size in ((len(update.update_MN), 3), (3, 7)))
    for method in METHODS:
        if method.describe().keeps_rank:
            kept = method.keep(update)
            basis = update.delta.pick_columns(kept.source, slice(0, kept.rank))
            expected = keep_plainly(kept, b_MR @ a_RN, basis)
            torch.testing.assert_close(update.keep_factor(kept, b_MR) @ a_RN, expected, atol=1e-5, rtol=1e-4)


def test_component_is_told_by_the_formula() -> None:
    assert Kept(inside=1.0).component == Kept(inside=-1.0).component == "parallel"
    assert Kept(own=0.5, inside=-0.5).component == "orthogonal"
    assert Kept(own=1.0, inside=-0.5).component is UNTREATED.component is None
    assert Kept(own=1.0, inside=-1.0, extra=lambda: torch.empty(0)).component is None


def test_opposite_and_scale_are_saved_as_they_say(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    methods = [Opposite(fraction=0.5), Scale(alpha=0.5), Scale(alpha=0.0)]
    out = run(checkpoints, tmp_path / "out", sources=["top_k"], methods=methods, save_models=["all"])
    names = ("opposite_top_k/0.5", "scale/0.5", "scale/0", "top_k/parallel/0.5")
    opposite, half, none, parallel = (load_file(out / "models/useful" / name / "model.safetensors") for name in names)
    reference, tuned = (load_file(checkpoints[name] / "model.safetensors") for name in ("reference", "useful"))
    for name, start in reference.items():
        torch.testing.assert_close(opposite[name], 2 * start - parallel[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(half[name], (start + tuned[name]) / 2, atol=1e-7, rtol=0)
        torch.testing.assert_close(none[name], start, atol=0, rtol=0)
    rows = {(row.source, row.fraction): row for row in read_parquet(out / "energy.parquet", EnergyRow)}
    assert rows["scale", 0.5].energy_kept == pytest.approx(0.25)
    assert rows["scale", 0.5].leak is rows["scale", 0.5].chance is None
    assert rows["opposite_top_k", 0.5].leak < 1e-4
    assert "reference minus the part parallel" in (out / "models/useful/opposite_top_k/0.5/README.md").read_text()


def test_method_from_outside_the_package_is_one_class(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    words = ["project", "--base", str(checkpoints["base"]), "--reference", str(checkpoints["reference"])]
    words += ["--finetuned", str(checkpoints["useful"]), "--sources", "top_k", "--fractions", "0.5"]
    given = f'[{{"class_path": "{__name__}.Signs", "init_args": {{"size": 0.002}}}}, {{"class_path": "Opposite"}}]'
    out = tmp_path / "out"
    main([*words, "--methods", given, "--save_models", "*/signs/*", "--out", str(out), "--device", "cpu"])
    stored = load_file(out / "models/useful/signs/0.002/model.safetensors")
    base, reference, tuned = (
        load_file(checkpoints[name] / "model.safetensors") for name in ("base", "reference", "useful")
    )
    for name, weights in stored.items():
        expected = tuned[name] + 0.002 * (reference[name] - base[name]).sign()
        torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    rows = [row for row in read_parquet(out / "tensors.parquet", SweepMatrixRow) if row.source == "signs"]
    assert len(rows) == len(stored)
    assert {row.source for row in read_parquet(out / "energy.parquet", EnergyRow)} == {
        "top_k",
        "signs",
        "opposite_top_k",
    }
    assert "0.002 times the signs of the delta" in (out / "models/useful/signs/0.002/README.md").read_text()
    assert f"class_path: {__name__}.Signs" in (out / "config.yaml").read_text()
    with pytest.raises(SystemExit):  # the same class with another size is another sweep
        main([*words, "--methods", given.replace("0.002", "0.003"), "--out", str(out), "--device", "cpu"])


def test_method_that_acts_on_untrained_matrices_leaves_the_rows_of_others_alone(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from tests.sweep.test_adapters import make_adapter

    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter")
    known = {**checkpoints, "adapter": adapter}
    save = ["*/top_k/parallel/0.5", "*/resta"]
    out = run(known, tmp_path / "out", ("adapter",), sources=["top_k"], rivals=["resta"], save_models=save)
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    trained = {row.name for row in rows if row.source == "top_k"}
    assert len(trained) < len({row.name for row in rows if row.source == "resta"})
    assert (out / "models/adapter/top_k/parallel/0.5/adapter_model.safetensors").is_file()
    assert (out / "models/adapter/resta/model.safetensors").is_file()


def test_variants_need_different_names() -> None:
    with pytest.raises(ValueError, match=r"methods must have different names, got a/scale/0.5 twice"):
        list_variants(["a"], [Scale(alpha=0.5), Scale(alpha=0.5)])
    with pytest.raises(ValueError, match="must make at least one variant"):
        list_variants(["a"], [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(alpha=float("nan")), "scale.alpha must be finite, got nan"),
        (lambda: Opposite(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: SubspaceComponent(fraction=1.5), r"fraction must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
