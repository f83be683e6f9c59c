"""Resamples prompts and draws, and takes the mean of every variant in each resample.

Shapes in this file: V = variants, P = prompts, C = clusters, D = draws, B = 1 + resamples. Column 0 is the sample
itself.
"""

from __future__ import annotations

import numpy as np

from safety_lightning.study.statistics.values import Floats, PromptSet, TableKey, Values


class Resamples:
    """Resamples of a study: the same ones for all fine-tunes, variants and metrics, so that all differences are paired.

    Prompts are drawn in clusters of near twins. Metrics that share prompts share what is drawn; metrics without a
    common prompt are drawn independently. Draws of random subspaces are drawn by their number, for all fractions and
    fine-tunes at once, because a draw's subspaces are nested and the same for all fine-tunes.

    Args:
        values: The study's values.
        num_resamples: How many.
        seed: Seed of what is drawn.
    """

    def __init__(self, values: Values, *, num_resamples: int, seed: int) -> None:
        self.num_columns = 1 + num_resamples
        self._values = values
        self._seed = seed
        generator = np.random.default_rng([seed, 0])
        self._weights = {
            metric: weights_PB
            for group in group_metrics(values)
            for metric, weights_PB in self._draw_group(group, generator).items()
        }
        self._draw_weights: dict[int, Floats] = {}
        self._means: dict[TableKey, Floats] = {}

    def mean(self, key: TableKey) -> Floats:
        """Returns the mean over prompts of every variant of a table in every resample, shape ``(V, B)``.

        A resample in which a variant has no scored prompt has NaN.
        """
        if key not in self._means:
            values_VP, weights_PB = self._values.tables[key].values_VP, self._weights[key.metric]
            is_scored_VP = ~np.isnan(values_VP)
            sums_VB = np.nan_to_num(values_VP) @ weights_PB
            counts_VB = (is_scored_VP @ weights_PB) if not is_scored_VP.all() else weights_PB.sum(0, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                self._means[key] = sums_VB / counts_VB
        return self._means[key]

    def weigh_draws(self, num_draws: int) -> Floats:
        """Returns how often each draw is drawn in every resample, shape ``(D, B)``."""
        if num_draws not in self._draw_weights:
            generator = np.random.default_rng([self._seed, 1, num_draws])
            self._draw_weights[num_draws] = _count_drawn(num_draws, self.num_columns, generator)
        return self._draw_weights[num_draws]

    def _draw_group(self, group: list[str], generator: np.random.Generator) -> dict[str, Floats]:
        clusters = {metric: self._values.prompts[metric].clusters_P for metric in group}
        known, numbers_P = np.unique(np.concatenate(list(clusters.values())), return_inverse=True)
        counts_CB = _count_drawn(len(known), self.num_columns, generator)
        ends = np.cumsum([len(one) for one in clusters.values()])[:-1]
        return {metric: counts_CB[own] for metric, own in zip(group, np.split(numbers_P, ends), strict=True)}


def group_metrics(values: Values) -> list[list[str]]:
    """Groups metrics that share prompts, directly or through others; a prompt is its name with its cluster."""
    groups: list[tuple[set[tuple[str, int]], list[str]]] = []
    for metric, own in values.prompts.items():
        names, members = _name_prompts(own), [metric]
        kept = []
        for other, metrics in groups:
            if other & names:
                names, members = names | other, [*metrics, *members]
            else:
                kept.append((other, metrics))
        groups = [*kept, (names, members)]
    return [members for _, members in groups]


def _name_prompts(prompts: PromptSet) -> set[tuple[str, int]]:
    return set(zip(prompts.names, prompts.clusters_P.tolist(), strict=True))


def _count_drawn(num_things: int, num_columns: int, generator: np.random.Generator) -> Floats:
    """Returns how often each thing is drawn, shape ``(things, B)``; each once in column 0."""
    counts_BC = generator.multinomial(num_things, np.full(num_things, 1 / num_things), size=num_columns - 1)
    return np.vstack([np.ones((1, num_things)), counts_BC]).T.copy()
