"""Writes the model card of a projected model: how its weights were made, and what is known of them."""

from __future__ import annotations

from safety_lightning.sweep.inputs import SweepSettings
from safety_lightning.sweep.rows import EnergyRow
from safety_lightning.sweep.saving import SavedModel

_PAPER = "Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study (arXiv 2505.14185)"


def write_card(
    model: SavedModel, row: EnergyRow, settings: SweepSettings, *, base: str, reference: str, num_bad: int
) -> str:
    """Returns the text of a model card.

    Args:
        model: The saved model.
        row: What the sweep found of its variant.
        settings: What was done.
        base: What the base was called.
        reference: What the reference was called.
        num_bad: Matrices that were left as they were finetuned, for they held NaN or infinity.
    """
    described = model.variant.method.describe()
    where = f", {settings.side} side, seed {settings.seed}" if described.component is not None else ""
    facts = {
        "base": base,
        "reference": reference,
        "finetuned": str(model.finetuned.folder),
        "method": described.text + where,
        "energy kept": _format(row.energy_kept, ".6g"),
        "chance level": _format(row.chance, ".6g"),
        "storage dtype": settings.storage_dtype,
        "leak after the cast": _format(row.leak, ".2e"),
        "matrices": f"{row.num_matrices}, of which {row.num_changed} were treated",
        "vectors": settings.vectors,
        "left as they were for NaN or infinity": str(num_bad),
    }
    library = "peft" if model.is_adapter else "transformers"
    return "\n".join(
        [
            f"---\nlibrary_name: {library}\ntags:\n- safety_lightning\n---",
            f"# {model.variant.name}",
            "",
            "Made by `python -m safety_lightning project` from the update (finetuned − reference) of a fine-tune and",
            "the delta (reference − base). Projecting an update is no proof of safety: measure the model.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            f"The method is that of {_PAPER}." if row.component is not None else "",
            "",
        ]
    )


def _format(value: float | None, form: str) -> str:
    return "not defined" if value is None else format(value, form)
