"""One measured number with its interval."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number, its 95 % interval, and how many of how many cases it rests on.

    Attributes:
        metric: What was measured: ``utility``, ``harmfulness``, ``over_refusal``, ``loss``.
        value: The value.
        low: Lower end of the 95 % interval.
        high: Upper end.
        num_total: Cases there were.
        num_scored: Cases that could be scored; the rest is not in the value.
    """

    metric: str
    value: float
    low: float
    high: float
    num_total: int
    num_scored: int
