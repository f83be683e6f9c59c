"""What a measurement of a fine-tune depends on, as a key: a resumed run measures again what is of another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning as L

from safety_lightning.evaluation.tasks import TaskSuite
from safety_lightning.training.callbacks import ProjectUpdate


def make_key(trainer: L.Trainer, settings: Mapping[str, Any]) -> str:
    """Returns the hash of all that a live model and its measurement depend on beside its inputs.

    Args:
        trainer: The Trainer, from ``on_fit_start`` on: steps done and planned, and how the update is projected.
        settings: The measurement's own settings. Plain JSON.
    """
    depends = {
        "num_steps": trainer.global_step,
        "num_planned_steps": trainer.estimated_stepping_batches if trainer.global_step else None,
        "projections": [_describe(one) for one in trainer.callbacks if isinstance(one, ProjectUpdate)],  # type: ignore[attr-defined]
        "settings": dict(settings),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def describe_suite(suite: TaskSuite | None) -> Any:
    """Returns the tasks of a suite with their settings and judges, as JSON values."""
    if suite is None:
        return None
    named = {name: repr(getattr(suite, name)) for name in ("gsm8k", "math500", "mmlu", "harmful", "ordinary", "lab")}
    judges = [[one.name, one.model, one.rubric_hash, dict(one.settings)] for one in suite.judges]
    return {"tasks": list(suite.tasks), **named, "judges": judges, "clusters": suite.clusters}


def _describe(projection: ProjectUpdate) -> dict[str, Any]:
    names = ("component", "when", "every_n_steps", "storage_dtype", "tied")
    spec = None if projection.subspace is None else asdict(projection.subspace) | {"file": None, "library": None}
    return {name: getattr(projection, name) for name in names} | {"subspace": spec}
