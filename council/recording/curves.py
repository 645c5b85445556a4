"""Numbers over time with a bounded number of points, for a recording of any length. Pure.

windows   0 1 2 3 4 5 6 7 8 9 ...        one for each window, up to the largest number of buckets
buckets   [0 1] [2 3] [4 5] ...          then each two become one, with the least and the largest value of both
"""

from __future__ import annotations

from collections.abc import Sequence

_MOST_BUCKETS = 2_048

Extremes = tuple[float, float] | None


class Curves:
    """Several curves over the same time. A bucket has the least and the largest value of each curve, and the count of
    each label of each band."""

    def __init__(self, curves: int, bands: int, most_buckets: int = _MOST_BUCKETS) -> None:
        self._curves, self._bands, self._most = curves, bands, most_buckets
        self._first = -1
        self.windows_per_bucket = 1
        self._extremes: list[list[Extremes]] = []
        self._labels: list[list[dict[str, int]]] = []

    def add(self, window: int, values: Sequence[float | None], labels: Sequence[str]) -> None:
        """The values and labels of a window, which is later than those before it."""
        if self._first < 0:
            self._first = window
        while (window - self._first) // self.windows_per_bucket >= self._most:
            self._halve()
        index = max(0, window - self._first) // self.windows_per_bucket
        while len(self._extremes) <= index:
            self._extremes.append([None] * self._curves)
            self._labels.append([{} for _ in range(self._bands)])
        extremes, counts = self._extremes[index], self._labels[index]
        for curve, value in enumerate(values):
            if value is not None:
                extremes[curve] = _wider(extremes[curve], (value, value))
        for band, label in enumerate(labels):
            counts[band][label] = counts[band].get(label, 0) + 1

    def _halve(self) -> None:
        self.windows_per_bucket *= 2
        if len(self._extremes) % 2:
            self._extremes.append([None] * self._curves)
            self._labels.append([{} for _ in range(self._bands)])
        lows, highs = self._extremes[::2], self._extremes[1::2]
        self._extremes = [[_wider(*two) for two in zip(*both, strict=True)] for both in zip(lows, highs, strict=True)]
        evens, odds = self._labels[::2], self._labels[1::2]
        self._labels = [[_sum(*two) for two in zip(*both, strict=True)] for both in zip(evens, odds, strict=True)]

    def window_of(self, bucket: float) -> float:
        """The window in which the bucket begins."""
        return max(0, self._first) + bucket * self.windows_per_bucket

    @property
    def end_window(self) -> float:
        """The window after the last bucket."""
        return self.window_of(len(self._extremes))

    def line(self, curve: int) -> tuple[list[float], list[float]]:
        """(windows, values) of a curve's line, which passes through the least and the largest value of each bucket.
        NaN where nothing was measured."""
        windows, values = list[float](), list[float]()
        for bucket, found in enumerate(self._extremes):
            least, largest = found[curve] or (float("nan"), float("nan"))
            windows.append(self.window_of(bucket))
            values.append(least)
            if largest > least:
                windows.append(self.window_of(bucket + 0.5))
                values.append(largest)
        return windows, values

    def bounds(self, low: int, high: int) -> tuple[list[float], list[float], list[float]]:
        """(windows, least values of one curve, largest values of another); NaN where one was not measured."""
        nan = float("nan")
        pairs = [(found[low], found[high]) for found in self._extremes]
        return (
            [self.window_of(bucket) for bucket in range(len(pairs))],
            [nan if one is None or other is None else one[0] for one, other in pairs],
            [nan if one is None or other is None else other[1] for one, other in pairs],
        )

    def runs(self, band: int) -> list[tuple[float, float, str]]:
        """(first window, window after the last, label) of each run of buckets with the same most frequent label."""
        found = list[tuple[float, float, str]]()
        for bucket, counts in enumerate(self._labels):
            label = max(sorted(counts[band]), key=lambda name: counts[band][name], default="")
            begin, end = self.window_of(bucket), self.window_of(bucket + 1)
            if found and found[-1][2] == label and found[-1][1] == begin:
                found[-1] = found[-1][0], end, label
            else:
                found.append((begin, end, label))
        return found


def _wider(one: Extremes, other: Extremes) -> Extremes:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
