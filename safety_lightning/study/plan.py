"""Makes the stages of a study out of its settings: what is trained, measured, compared, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from safety_lightning.checkpoints import CheckpointReader, locate_model
from safety_lightning.errors import UserError
from safety_lightning.profiles import SETTINGS, read_settings
from safety_lightning.study.comparing import ActivationOverlapStage, CaptureStage, EnergyStage, WeightOverlapStage
from safety_lightning.study.finetuning import QUIET, FitStage, hash_named_files, merge, read_options, shorten
from safety_lightning.study.measuring import MeasureStage, PilotStage
from safety_lightning.study.reporting import ReportStage, StatisticsStage
from safety_lightning.study.settings import KINDS, Kind, StudyRun
from safety_lightning.study.stages import Stage, sort_stages
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.variants import StudyVariant, list_study_variants
from safety_lightning.study.views.profiles import make_profile_stages

_FORMAT = 2  # of the tables: those of a study of before are made anew


class StudyGraph:
    """All stages of a study.

    Args:
        run: The study.
        is_light: Whether weights are told by their sizes instead of their content, which is read for that: enough for
            a plan that is only shown.
    """

    def __init__(self, run: StudyRun, *, is_light: bool = False) -> None:
        self.run = run
        self.is_light = is_light
        self._weights = {name: self._hash_weights(name) for name in (run.base, run.reference) if name is not None}
        self._stand_in = run.reference or run.base
        self.reference = run.reference or self._make_reference()
        self.finetunes = self._make_finetunes()
        self.measures = self._make_measures()

    def list_stages(self) -> list[Stage]:
        """Lists all stages, each behind what it needs; the pilot first, the report last."""
        energies, overlaps = self._make_energies(), self._make_overlaps()
        made: list[Stage] = [*self._make_pilot(), *self.finetunes.values(), *self.measures, energies, *overlaps]
        settings = self._read_statistics()
        statistics = StatisticsStage(
            name="statistics",
            folder="tables",
            needs=(*self.measures, energies, *overlaps),
            recipe={"statistics": asdict(settings), "null": self.run.null, "format": _FORMAT},
            settings=settings,
            measured=tuple(self.measures),
            energies=energies,
            weights=next((one for one in overlaps if isinstance(one, WeightOverlapStage)), None),
            activations=tuple(one for one in overlaps if isinstance(one, ActivationOverlapStage)),
            num_blunt=min(5, self.run.variants.num_draws) if self.run.null else None,
        )
        profiles = make_profile_stages(overlaps) if self.run.compare_profiles else []
        facts = {"settings": self._list_departures(), "hashes": self._weights}
        report = ReportStage(
            name="report",
            folder="figures",
            needs=(statistics, *profiles[-1:]),
            recipe=facts,
            facts=facts,
            has_profiles=bool(profiles),
        )
        return sort_stages([*made, *profiles, statistics, report])

    def _list_departures(self) -> list[dict[str, Any]]:
        """Lists what was chosen of the settings in which the profiles part; those that are not named are of `sound`."""
        found = read_settings(self._join_options({}))
        return [
            {"name": one.name, "value": found.get(one.name, one.sound), "paper": one.paper, "sound": one.sound}
            | {"why": one.why}
            for one in SETTINGS
        ]

    def _read_statistics(self) -> StatisticsSettings:
        given: dict[str, Any] = {
            "utility": self.run.measures.utility,
            "harm": self.run.measures.harm,
            "seed": self.run.seed,
        }
        known = [one.name for one in fields(StatisticsSettings) if one.name not in given]
        for name in self.run.statistics:
            if name not in known:
                raise UserError(f"statistics must be settings of {', '.join(known)}, got {name}")
        return StatisticsSettings(**given, **self.run.statistics)

    def _make_reference(self) -> FitStage:
        options = self._join_options(self.run.reference_fit or {})
        return self._make_fit("reference", "reference", options, self.run.base, seed=self.run.seed)

    def _make_pilot(self) -> list[Stage]:
        if self.run.pilot_share == 0:
            return []
        pilots: dict[str, FitStage] = {}
        for kind in sorted(KINDS, key=lambda one: "start" in self.run.finetunes[one]):
            options = shorten(self._read_options(kind), self.run.pilot_share)
            start = self.run.finetunes[kind].get("start")
            model = pilots[start] if start else self.reference
            pilots[kind] = self._make_fit(f"pilot/{kind}", f"pilot/{kind}", options, model, seed=self.run.seeds[0])
        measured = PilotStage(
            name="pilot/measures",
            folder="pilot/measures",
            needs=self._need(self.reference, *pilots.values()),
            recipe=self._describe_measures(),
            reference=self.reference,
            pilots=pilots,
            settings=self.run.measures,
            device=self.run.device,
        )
        return [*pilots.values(), measured]

    def _make_finetunes(self) -> dict[tuple[Kind, int], FitStage]:
        stages: dict[tuple[Kind, int], FitStage] = {}
        kinds = sorted(KINDS, key=lambda one: "start" in self.run.finetunes[one])
        for seed, kind in itertools.product(self.run.seeds, kinds):
            start = self.run.finetunes[kind].get("start")
            model = stages[start, seed] if start else self.reference
            name = f"{kind}-{seed}"
            options = self._read_options(kind)
            stages[kind, seed] = self._make_fit(f"finetune/{name}", f"finetunes/{name}", options, model, seed=seed)
        return {(kind, seed): stages[kind, seed] for seed, kind in itertools.product(self.run.seeds, KINDS)}

    def _make_fit(
        self, name: str, folder: str, options: Mapping[str, Any], model: str | FitStage, *, seed: int
    ) -> FitStage:
        return FitStage(
            name=name,
            folder=folder,
            needs=self._need(model),
            recipe={
                "fit": options,
                "seed": seed,
                "data_seed": seed,  # which once was always 0: those fine-tunes are made anew
                "files": hash_named_files(options),
                "weights": self._weights[model] if isinstance(model, str) else None,
            },
            options=options,
            model=model,
            stand_in=self._stand_in,
            fit_seed=seed,
        )

    def _make_measures(self) -> list[MeasureStage]:
        stages, variants = [], list_study_variants(self.run)
        largest = max((one.method.needs.fraction or 0.0 for one in variants), default=0.0) or 1.0
        for (kind, seed), fit in self.finetunes.items():
            for number, block in enumerate(split_blocks(variants, self.run.variants.per_block)):
                name = f"{kind}-{seed}/{number}"
                stages.append(
                    MeasureStage(
                        name=f"measure/{name}",
                        folder=f"measures/{name}",
                        needs=self._need(self.reference, fit),
                        recipe=self._describe_measures() | self._describe_variants(block),
                        base=self.run.base,
                        reference=self.reference,
                        finetune=fit,
                        kind=kind,
                        seed=seed,
                        variants=tuple(block),
                        settings=self.run.measures,
                        choice=self.run.variants,
                        largest_fraction=largest,
                        draw_seed=self.run.seed,
                        device=self.run.device,
                    )
                )
        return stages

    def _make_energies(self) -> EnergyStage:
        choice = self.run.variants
        options = {
            "sources": choice.sources,
            "components": choice.components,
            "fractions": choice.fractions,
            "methods": choice.methods,
            "side": choice.side,
            "exclude": choice.exclude,
            "seed": self.run.seed,
            "device": self.run.device,
        }
        if choice.safety_tuned is not None:
            options["safety_tuned"] = choice.safety_tuned
        described = options | {"methods": [one.to_recipe() for one in choice.methods], "device": None}
        return EnergyStage(
            name="energies",
            folder="energies",
            needs=self._need(self.reference, *self.finetunes.values()),
            recipe={
                "options": described,
                "weights": self._weights,
                "read": self._hash_read(list_study_variants(self.run)),
            },
            options=options,
            base=self.run.base,
            reference=self.reference,
            finetunes={f"{kind}-{seed}": stage for (kind, seed), stage in self.finetunes.items()},
        )

    def _make_overlaps(self) -> list[Stage]:
        overlap, stages = self.run.overlap, list[Stage]()
        if overlap.weights is not None:
            first, second = self.run.seeds[0], self.run.seeds[1:2]
            stages.append(
                WeightOverlapStage(
                    name="overlap/weights",
                    folder="overlap/weights",
                    needs=self._need(self.reference, *self.finetunes.values()),
                    recipe={"options": overlap.weights, "weights": self._weights},
                    options={"device": self._name_device()} | overlap.weights,
                    base=self.run.base,
                    reference=self.reference,
                    updates={kind: self.finetunes[kind, first] for kind in KINDS},
                    ceilings={kind: self.finetunes[kind, seed] for kind in KINDS for seed in second},
                )
            )
        for name in overlap.models if overlap.activations is not None else []:
            stages += self._make_activations(name)
        return stages

    def _make_activations(self, name: str) -> list[Stage]:
        overlap = self.run.overlap
        options = read_options(overlap.activations or {})
        model = self.reference if name == "reference" else self.finetunes[_check_kind(name), self.run.seeds[0]]
        captured = CaptureStage(
            name=f"activations/{name}",
            folder=f"activations/{name}",
            needs=self._need(model),
            recipe={
                "options": options,
                "files": hash_named_files(options),
                "weights": self._weights[model] if isinstance(model, str) else None,
            },
            options=options,
            model=model,
            stand_in=self._stand_in,
        )
        compared = ActivationOverlapStage(
            name=f"overlap/activations-{name}",
            folder=f"overlap/activations-{name}",
            needs=(captured,),
            recipe={"options": overlap.activation_overlap},
            options={"device": self._name_device()} | overlap.activation_overlap,
            captured=captured,
        )
        return [captured, compared]

    def _read_options(self, kind: Kind) -> dict[str, Any]:
        own = {name: value for name, value in self.run.finetunes[kind].items() if name != "start"}
        options = self._join_options(own)
        seed = options.get("data", {}).get("seed")
        if seed is not None:  # the order would be one and the same, and so would the models be
            raise UserError(f"the data of {kind} fine-tunes must take their seed from seeds, got {seed}")
        return options

    def _join_options(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Returns options of a fit over those that all share; a config's projection and comparison are left out."""
        common, given = dict(self.run.fit), dict(own)
        files = [read_options({"config": one.pop("config")}) for one in (common, given) if "config" in one]
        return merge(*files, QUIET, common, given)

    def _describe_measures(self) -> dict[str, Any]:
        settings = asdict(self.run.measures)
        return {"measures": settings, "files": hash_named_files(settings["data"]), "weights": self._weights}

    def _describe_variants(self, variants: Sequence[StudyVariant]) -> dict[str, Any]:
        """Returns what variants are, with the content of the files and of the model that their methods need."""
        return {"variants": [one.to_recipe() for one in variants]} | self._hash_read(variants)

    def _hash_read(self, variants: Sequence[StudyVariant]) -> dict[str, Any]:
        """Returns the content of the files and of the model that methods of variants need."""
        merged = self.run.variants.safety_tuned
        needs_merged = merged is not None and any(one.method.needs.safety_tuned for one in variants)
        weights = {"safety_tuned": self._hash_weights(merged)} if merged is not None and needs_merged else {}
        files = hash_named_files([one.to_recipe() for one in variants])
        return ({"method_files": files} if files else {}) | weights

    def _name_device(self) -> str | None:
        return None if self.run.device == "auto" else self.run.device

    def _need(self, *models: str | FitStage) -> tuple[Stage, ...]:
        return tuple(one for one in models if not isinstance(one, str))

    def _hash_weights(self, name: str) -> dict[str, Any]:
        reader = CheckpointReader(locate_model(name))
        return {str(file): file.stat().st_size for file in reader.files} if self.is_light else reader.hash_files()


def split_blocks(variants: Sequence[StudyVariant], size: int) -> list[tuple[StudyVariant, ...]]:
    """Splits variants into blocks of a size, the last one smaller."""
    return [tuple(variants[at : at + size]) for at in range(0, len(variants), size)]


def _check_kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)
