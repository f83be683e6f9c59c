"""A study that was never run: values of every variant drawn from shares of learning and harm that are known."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from safety_lightning.overlap.rows import ActivationRow, AverageRow, LayerRow
from safety_lightning.study.statistics import StatisticsSettings
from safety_lightning.study.statistics.values import (
    COLUMNS,
    FINETUNED,
    REFERENCE,
    PromptSet,
    TableKey,
    Values,
    ValueTable,
    VariantKey,
)
from safety_lightning.tables import write_csv

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
UTILITY = ("solution_probability", "utility")
HARM = ("expected_harmfulness", "harmfulness")
QUICK = StatisticsSettings(num_resamples=300)
Share = Callable[[float], float]


def keep_alike(fraction: float) -> float:
    """What an entangled world keeps outside the subspace: the rest."""
    return 1 - fraction


def keep_energy(variant: VariantKey) -> float | None:
    """What a variant keeps of the update's energy; draws of random subspaces differ."""
    if variant.fraction is None:
        return None
    kept = variant.fraction if variant.component == "parallel" else 1 - variant.fraction
    return kept + 0.001 * variant.draw


@dataclass(frozen=True, kw_only=True)
class World:
    """How much of learning and harm each variant keeps, and how noisily prompts show it.

    Attributes:
        learning: Share of the learning that lies outside the safety subspace, by its fraction.
        harm: Share of the harm outside.
        taught: What the fine-tune adds to utility.
        brought: What it adds to harm, on the scale from 1 to 5.
        blunt: Share of harm that `scale` by alpha keeps; it keeps alpha of the learning.
        noise: Deviation of a prompt's value in a variant.
        seed_noise: Deviation between seeds of what lies outside the subspace.
    """

    learning: Share = keep_alike
    harm: Share = keep_alike
    taught: float = 0.6
    brought: float = 3.0
    blunt: Share = lambda alpha: alpha
    noise: float = 0.05
    seed_noise: float = 0.0
    seeds: Sequence[int] = (0,)
    num_prompts: int = 60
    num_draws: int = 5
    kinds: Sequence[str] = ("useful", "harmful", "contaminated")
    fractions: Sequence[float] = FRACTIONS
    rivals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def list_variants(self) -> Iterator[tuple[VariantKey, float, float]]:
        """Lists variants with the shares of learning and harm that they keep."""
        yield REFERENCE, 0.0, 0.0
        yield FINETUNED, 1.0, 1.0
        for alpha in np.linspace(0.1, 0.9, 9).round(1).tolist():
            yield VariantKey("scale", alpha=alpha), alpha, self.blunt(alpha)
        for fraction in self.fractions:
            outside = self.learning(fraction), self.harm(fraction)
            yield VariantKey("top_k", 0, "orthogonal", fraction), *outside
            yield VariantKey("top_k", 0, "parallel", fraction), 1 - outside[0], 1 - outside[1]
            yield VariantKey("random_k", 0, "orthogonal", fraction), 1 - fraction, self.blunt(1 - fraction)
            for draw in range(self.num_draws):
                yield VariantKey("random", draw, "orthogonal", fraction), 1 - fraction, self.blunt(1 - fraction)
                yield VariantKey("random", draw, "parallel", fraction), fraction, self.blunt(fraction)
        for name, (learning, harm) in self.rivals.items():
            yield VariantKey(name), learning, harm


SEPARABLE = World(learning=lambda fraction: 1.0, harm=lambda fraction: 0.0)
ENTANGLED = World()


def write_values(study: Path, world: World, *, seed: int = 0) -> Path:
    """Writes ``values.parquet`` of a world."""
    generator = np.random.default_rng(seed)
    prompts = {purpose: generator.normal(0, 0.1, world.num_prompts) for purpose in ("utility", "harm")}
    rows = []
    for kind in world.kinds:
        for fine_seed in world.seeds:
            shift = generator.normal(0, world.seed_noise) if world.seed_noise else 0.0
            for variant, learning, harm in world.list_variants():
                place = (kind, fine_seed, *variant, keep_energy(variant))
                if variant.source == "top_k":
                    learning = learning + shift
                learns, harms = kind != "harmful", kind != "useful"
                level = 0.2 + world.taught * learning * learns
                score = 1.2 + world.brought * harm * harms
                for metrics, purpose, mean, width in ((UTILITY, "utility", level, 1), (HARM, "harm", score, 4)):
                    for metric in metrics:
                        noise = generator.normal(0, world.noise * width, world.num_prompts)
                        values = mean + width * prompts[purpose] + noise
                        rows += [
                            (*place, metric, f"{purpose}-{at}", at // 2, float(value))
                            for at, value in enumerate(values)
                        ]
    study.mkdir(parents=True, exist_ok=True)
    write_rows(study / "values.parquet", rows)
    return study


def write_rows(file: Path, rows: Sequence[tuple[object, ...]]) -> None:
    """Writes rows, in the order of the columns."""
    types = [pa.string(), pa.int64(), pa.string(), pa.int64(), pa.string(), *[pa.float64()] * 3]
    types += [pa.string(), pa.string(), pa.int64(), pa.float64()]
    columns = [list(one) for one in zip(*rows, strict=True)]
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    parquet.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema), file)


def make_values(learning: dict[VariantKey, Sequence[float]], harm: dict[VariantKey, Sequence[float]]) -> Values:
    """Makes the values of a contaminated fine-tune, prompt by prompt."""
    tables, prompts = {}, {}
    for metric, values in ((QUICK.utility, learning), (QUICK.harm, harm)):
        names = tuple(f"{metric}-{at}" for at in range(len(values[REFERENCE])))
        prompts[metric] = PromptSet(names, np.arange(len(names)))
        table = ValueTable(tuple(values), np.array(list(values.values()), dtype=np.float64))
        tables[TableKey("contaminated", 0, metric)] = table
    return Values(tables, prompts, {})


def read_table(file: Path) -> list[dict[str, str]]:
    """Reads a CSV file."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_overlaps(study: Path) -> None:
    """Writes overlaps of weights by layer, and of activations by layer and averaged over layers 2 to 4."""
    etas, layers, known = (0.1, 0.25, 0.5, 0.75, 0.9), range(6), {"profile": "sound", "percentile": None}
    weights = [
        LayerRow(
            **(known | {"pair": pair, "depth": (layer + 1) / 6, "layer": layer}),
            **{"num_tensors": 7, "num_excluded": 0, "num_forced": 0, "ceiling_a": 0.8, "ceiling_b": None},
            **_describe_overlap(eta, base + 0.02 * layer, chance=eta / 3),
        )
        for pair, base in (("useful vs delta", 0.2), ("harmful vs delta", 0.22), ("useful vs harmful", 0.3))
        for eta in etas
        for layer in layers
    ]
    write_csv(study / "overlap_weights.csv", LayerRow, weights)
    pairs = {"harmful vs harmful_b": 0.5, "harmful vs useful": 0.4, "useful vs harmful_b": 0.42}
    spread = {"mso_uncentred": None, "chance_uncentred": None, "null_low": 0.6, "null_high": 0.7}
    spread |= {"p_value": None, "resampled_mean": None}
    ranks = {"num_a": 40, "num_b": 40, "k_a": 4, "k_b": 5, "dimension": 32, "is_forced": False, "forced_minimum": None}
    activations = [
        ActivationRow(
            **(known | ranks | spread | {"pair": pair, "layer": layer, "depth": layer / 6}),
            **{"low": base, "high": base + 0.2},
            **_describe_overlap(eta, base + 0.03 * layer, chance=eta / 4),
        )
        for pair, base in pairs.items()
        for eta in etas
        for layer in layers
    ]
    write_csv(study / "overlap_activation_layers.csv", ActivationRow, activations)
    averages = [
        AverageRow(
            **{"profile": "sound", "pair": pair, "first_layer": 2, "last_layer": 4, "num_layers": 3},
            **(spread | {"num_excluded": 0, "low": base, "high": base + 0.2}),
            **_describe_overlap(eta, base + 0.09, chance=eta / 4),
        )
        for pair, base in pairs.items()
        for eta in etas
    ]
    write_csv(study / "overlap_activations.csv", AverageRow, averages)


def _describe_overlap(eta: float, mso: float, *, chance: float) -> dict[str, Any]:
    return {"eta": eta, "mso": mso, "chance": chance, "excess": (mso - chance) / (1 - chance)}


def write_energies(study: Path) -> None:
    """Writes what matrices keep: in layer 0 two of the safety subspace, and rows that no figure of it shows."""
    row = {"finetuned": "useful-0", "source": "top_k", "component": "orthogonal", "fraction": 0.25, "layer": 0}
    rows = [
        *(row | {"energy_kept": kept} for kept in (0.2, 0.6, float("nan"))),  # NaN: a matrix without an update
        row | {"layer": 1, "energy_kept": 0.9},
        row | {"source": "random", "energy_kept": 0.75},
        row | {"component": "parallel", "energy_kept": 0.6},
        row | {"layer": None, "energy_kept": 0.1},
    ]
    (study / "energies").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), study / "energies" / "tensors.parquet")


def write_settings(study: Path, **more: object) -> None:
    """Writes ``settings.json``."""
    content = {
        "config": {"base": "lab:base", "reference": "lab:aligned", "seeds": [0], "statistics": {}},
        "command": ["python -m safety_lightning", "study", "--config", "configs/study/lab.yaml"],
        "settings": [{"name": "prompt format", "value": "chat", "paper": "plain", "sound": "chat", "why": "templates"}],
        "costs": {"finetune": {"seconds": 24.0}, "measure": {"seconds": 66.0}},
        "hashes": {"lab:base": "0" * 64},
        "git_commit": "0" * 40,
        **more,
    }
    (study / "settings.json").write_text(json.dumps(content))
