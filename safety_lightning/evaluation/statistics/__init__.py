"""How sure a number is: intervals (of shares, means and ratios; over clusters), comparison of models, agreement."""

from safety_lightning.evaluation.statistics.agreement import Agreement, bootstrap_agreement, measure_agreement
from safety_lightning.evaluation.statistics.clusters import (
    Clusters,
    cluster_interval,
    cluster_prompts,
    cluster_share_interval,
    find_clusters,
)
from safety_lightning.evaluation.statistics.comparison import (
    AccuracyComparison,
    PairedDifference,
    compare_accuracies,
    compare_paired,
)
from safety_lightning.evaluation.statistics.intervals import average, bootstrap_interval, wilson_interval
from safety_lightning.evaluation.statistics.sample import Sample

__all__ = [
    "AccuracyComparison",
    "Agreement",
    "Clusters",
    "PairedDifference",
    "Sample",
    "average",
    "bootstrap_agreement",
    "bootstrap_interval",
    "cluster_interval",
    "cluster_prompts",
    "cluster_share_interval",
    "compare_accuracies",
    "compare_paired",
    "find_clusters",
    "measure_agreement",
    "wilson_interval",
]
