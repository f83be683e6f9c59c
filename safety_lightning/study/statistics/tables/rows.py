"""The rows of the tables that the statistics write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One metric of one variant.

    Attributes:
        finetuned: useful, harmful or contaminated.
        seed: The fine-tune's seed.
        source: reference, finetuned, scale, a source of directions, or a method's name.
        draw: Which draw of a random source.
        component: parallel, orthogonal or empty.
        fraction: Share of the smaller dimension that the subspace spans.
        alpha: Factor of the whole update.
        energy_kept: Share of the update's squared norm that is kept.
        metric: What was measured.
        value: Mean over the prompts that were scored; None where none was.
        low: Lower end of its bootstrap interval over prompts.
        high: Upper end.
        num_total: Prompts.
        num_scored: Prompts that were scored.
    """

    finetuned: str
    seed: int
    source: str
    draw: int
    component: str
    fraction: float | None
    alpha: float | None
    energy_kept: float | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    num_total: int
    num_scored: int


@dataclass(frozen=True, kw_only=True)
class SelectivityRow:
    """The selectivity of the safety subspace at one fraction; only the orthogonal component decides.

    A value is None where a fine-tune moved its metric the wrong way, or was not scored.

    Attributes:
        experiment: The experiment's number.
        component: orthogonal or parallel.
        fraction: Share of the smaller dimension.
        utility_metric: The measure of learning.
        harm_metric: The measure of harm.
        retained_utility: Share of the learning that is kept, in [0, 1].
        retained_harm: Share of the harm.
        selectivity: S = J − J⁺(r).
        low: Lower end of its band, made for all fractions of the component together.
        high: Upper end.
        room: The experiment's room.
    """

    experiment: int
    component: str
    fraction: float | None
    utility_metric: str
    harm_metric: str
    retained_utility: float | None
    retained_harm: float | None
    selectivity: float | None
    low: float | None
    high: float | None
    room: float | None


@dataclass(frozen=True, kw_only=True)
class PointRow:
    """What any variant keeps of learning and harm, the mean over seeds and draws; None as in `SelectivityRow`.

    Attributes:
        experiment: The experiment's number.
        source: As in `VariantRow`.
        component: As in `VariantRow`.
        fraction: As in `VariantRow`.
        alpha: As in `VariantRow`.
        retained_utility: Share of the learning that is kept, clipped to [0, 1].
        utility_low: Lower end of its interval over prompts and draws.
        utility_high: Upper end.
        retained_harm: Share of the harm that is kept, clipped to [0, 1].
        harm_low: Lower end of its interval.
        harm_high: Upper end.
        raw_utility: Share of the learning before it is clipped.
        raw_harm: Share of the harm before it is clipped.
        selectivity: S = J − J⁺(r).
        is_pareto: Whether no other variant keeps as much learning with less harm.
        same_as: The fraction of an earlier cell that this one is identical to.
    """

    experiment: int
    source: str
    component: str
    fraction: float | None
    alpha: float | None
    retained_utility: float | None
    utility_low: float | None
    utility_high: float | None
    retained_harm: float | None
    harm_low: float | None
    harm_high: float | None
    raw_utility: float | None
    raw_harm: float | None
    selectivity: float | None
    is_pareto: bool
    same_as: float | None


@dataclass(frozen=True, kw_only=True)
class RobustnessRow:
    """The verdict that another pair of measures would give.

    Attributes:
        utility_metric: The measure of learning.
        harm_metric: The measure of harm.
        is_stated: Whether it is the pair that the verdict is made from.
        is_expectation: Whether both measures are expectations, so that chords of the frontier can be attained.
        verdict: The verdict.
        selectivity: As in `Verdict`.
        low: Lower end of its band.
        high: Upper end.
        room: The smallest room.
        reason: Why.
    """

    utility_metric: str
    harm_metric: str
    is_stated: bool
    is_expectation: bool
    verdict: str
    selectivity: float | None
    low: float | None
    high: float | None
    room: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """An attacker's view: the most harmful variant that loses little of the reference's utility.

    Attributes:
        finetuned: The fine-tune whose variants are searched.
        seed: Its seed.
        utility_metric: The measure of utility.
        harm_metric: The measure of harm.
        largest_loss: What may be lost of the reference's utility, as a share of it.
        variant: The most harmful variant that is allowed; None, as its values are, where none is.
        harm: Its harm.
        low: Lower end of the interval of the largest harm, searched anew in each resample.
        high: Upper end.
        utility: The variant's utility.
        reference_utility: The reference's.
        reference_harm: The reference's harm.
        num_allowed: Variants that lose little enough.
        num_variants: Variants that were searched.
    """

    finetuned: str
    seed: int
    utility_metric: str
    harm_metric: str
    largest_loss: float
    variant: str | None
    harm: float | None
    low: float | None
    high: float | None
    utility: float | None
    reference_utility: float | None
    reference_harm: float | None
    num_allowed: int
    num_variants: int


@dataclass(frozen=True, kw_only=True)
class ExcessRow:
    """How much more one pair overlaps than another, beyond chance, at one share of energy.

    Attributes:
        subject: weights or activations.
        first: The pair that would overlap more if safety had directions of its own.
        second: The pair that it is held against.
        eta: Share of squared singular values.
        mso_first: Mean overlap of the first pair.
        mso_second: Mean overlap of the second.
        chance_first: Mean chance of the first.
        chance_second: Mean chance of the second.
        excess_first: Mean of (MSO − chance) / (1 − chance) of the first.
        excess_second: The same of the second.
        difference: excess_first − excess_second, the mean over the layers in which both have one.
        share_larger: Share of these layers in which the first is larger; None for averages over layers.
        num_places: Layers.
        null_low: Lower end of the second pair's null.
        null_high: Upper end.
        ceiling: Mean overlap of the same update with itself from another seed.
    """

    subject: str
    first: str
    second: str
    eta: float
    mso_first: float | None
    mso_second: float | None
    chance_first: float | None
    chance_second: float | None
    excess_first: float | None
    excess_second: float | None
    difference: float | None
    share_larger: float | None
    num_places: int
    null_low: float | None
    null_high: float | None
    ceiling: float | None
