"""The values of prompts, and the intervals of their mean or share, over prompts or over clusters of near twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.evaluation.statistics.clusters import cluster_interval, cluster_share_interval
from safety_lightning.evaluation.statistics.intervals import bootstrap_interval, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The values of those prompts that have one.

    Attributes:
        values: The values.
        clusters: The cluster of each; None where each prompt is one of its own.
        seed: Seed of the bootstrap.
    """

    values: list[float]
    clusters: list[int] | None
    seed: int

    @classmethod
    def of(cls, values: Sequence[float | None], clusters: Sequence[int] | None, *, seed: int) -> Sample:
        """Takes the prompts that have a value; where they are all of one cluster, each is one of its own.

        Args:
            values: One per prompt, None where there is none.
            clusters: The cluster of each prompt; None where none are known.
            seed: Seed of the bootstrap.
        """
        scored = [at for at, value in enumerate(values) if value is not None]
        found = None if clusters is None else [clusters[at] for at in scored]
        if found is not None and len(set(found)) < 2:
            found = None
        return cls(values=[value for value in values if value is not None], clusters=found, seed=seed)

    @property
    def num_clusters(self) -> int | None:
        """How many clusters there are, where they are known."""
        return None if self.clusters is None else len(set(self.clusters))

    def where(self, value: float) -> Sample:
        """Returns 1 for each prompt that has this value, and 0 for the others."""
        values = [float(one == value) for one in self.values]
        return Sample(values=values, clusters=self.clusters, seed=self.seed)

    def find_interval(self, span: tuple[float, float]) -> tuple[float, float]:
        """Returns the interval of the mean, within what a mean can be."""
        if self.clusters is None:
            return bootstrap_interval(self.values, seed=self.seed)
        low, high = cluster_interval(self.values, self.clusters)
        return max(low, span[0]), min(high, span[1])

    def find_share_interval(self) -> tuple[float, float]:
        """Returns the interval of the share of values that are 1, the others being 0."""
        if self.clusters is None:
            return wilson_interval(round(sum(self.values)), len(self.values))
        return cluster_share_interval(self.values, self.clusters)
