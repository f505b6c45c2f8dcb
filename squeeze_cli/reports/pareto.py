"""The Pareto front of rate and quality: what nothing else beats in both."""

from __future__ import annotations

from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (rate, quality), whether no other has at most its rate and at least its quality.

    Lower rates and higher qualities are better; of equal points all are on the front.
    """
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]
