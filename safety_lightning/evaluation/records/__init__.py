"""What an evaluation leaves on disk, in the order in which the files are written.

generations   ``generations.jsonl``: each answer, as it comes
scores        ``scores.jsonl``: what came of each prompt under each metric
results       ``results.jsonl``: one measurement of one model each
baseline      ``comparison.jsonl``: differences of two models on the same prompts
"""

from safety_lightning.evaluation.records.baseline import Baseline, ComparisonRow, compare_scores, write_comparisons
from safety_lightning.evaluation.records.generations import Generation, GenerationLog, read_generations
from safety_lightning.evaluation.records.results import ResultFile, ResultRow, read_results
from safety_lightning.evaluation.records.scores import (
    ScoreRow,
    add_scores,
    list_score_rows,
    make_score_row,
    read_scores,
    write_scores,
)

__all__ = [
    "Baseline",
    "ComparisonRow",
    "Generation",
    "GenerationLog",
    "ResultFile",
    "ResultRow",
    "ScoreRow",
    "add_scores",
    "compare_scores",
    "list_score_rows",
    "make_score_row",
    "read_generations",
    "read_results",
    "read_scores",
    "write_comparisons",
    "write_scores",
]
