"""Evaluates a model from Python: one by its name, or a live model such as a projected variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.errors import UserError
from safety_lightning.evaluation.datamodule import EvaluationData, find_context
from safety_lightning.evaluation.measurement import Evaluation
from safety_lightning.evaluation.module import EvaluationModule


def evaluate_model(
    model: str | PreTrainedModel,
    *,
    folder: Path | str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    data: dict[str, Any],
    trainer: dict[str, Any] | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluates a model; the same folder given again resumes where it was.

    Args:
        model: A folder, a hub name or ``lab:NAME``; or a model in memory, whose dtype is the one computed in.
        folder: Where answers, scores and results are written.
        tokenizer: The tokenizer of a model in memory.
        name: What a model in memory is called in results.
        data: Arguments of `EvaluationData` but the model: ``tasks``, ``gsm8k``, ``judge``, ...
        trainer: Further arguments of the Trainer: ``devices``, ``accelerator``, ``logger``, ...
        options: Further arguments of `EvaluationModule`.

    Returns:
        The measurements, one or more per metric, and what came of each prompt.

    Raises:
        UserError: If a model in memory comes without its tokenizer, or as `EvaluationData` and `EvaluationModule`.
    """
    model_name = model if isinstance(model, str) else name or model.name_or_path or type(model).__name__
    prompts = EvaluationData(model=model_name, **data)
    module = EvaluationModule(model_name, folder=str(folder), **options)
    if not isinstance(model, str):
        if tokenizer is None:
            raise UserError("a model in memory must come with its tokenizer, got none")
        prompts.use_tokenizer(tokenizer, max_context_tokens=find_context(model.config))
        module.use_model(model)
    prompts.prepare()
    module.check_measures(prompts)
    prompts.check_judges()
    settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | (trainer or {})
    L.Trainer(default_root_dir=folder, use_distributed_sampler=False, **settings).test(
        module, datamodule=prompts, verbose=False
    )
    return module.evaluation
