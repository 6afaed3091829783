"""Compares runs on the test images that they share: differences with intervals, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean

import numpy as np

from trex.probing.predictions import Predictions
from trex.probing.rankings import Rankings
from trex.reporting.cell import Cell, image_scores, images_of_classes, mean_replicates
from trex.reporting.collect import RunData, datasets, probe_kinds
from trex.reporting.metric import METRICS, Metric
from trex.reporting.statistics import (
    Interval,
    SeedVariance,
    bootstrap_comparison,
    difference_interval,
    holm,
    mean_of_intervals,
    normal_test,
    sign_flip_test,
)

#: The dataset of the row for the mean over the datasets.
MEAN = "mean"


@dataclass(frozen=True)
class Comparison:
    """The difference of two runs on one dataset with one kind of probe, or its mean over the datasets."""

    one: str  #: name of the run
    other: str  #: name of the run that is subtracted
    kind: str
    dataset: str  #: MEAN for the mean over the datasets
    metric: str  #: name of the metric; `map11` in place of `top1` for a multi-label dataset
    seeds: int  #: of each run, if both have the same; otherwise of the run with fewer
    gain: float | None  #: difference of the means over the seeds; None if `problem`
    interval: Interval | None = None  #: of `gain`, over test images and seeds
    p: float | None = None  #: of the paired test; None for the mean, and if there is no test
    adjusted_p: float | None = None  #: by Holm's method over the datasets of these runs and this kind
    seed_error: float = 0.0  #: the part of the standard error of `gain` that comes from the seeds
    problem: str = ""  #: why there is no difference or no test; "" if there is

    @property
    def names(self) -> str:
        """The difference in words."""
        return f"{self.one} − {self.other}"


def comparisons(runs: Sequence[RunData], metric: Metric) -> list[Comparison]:
    """Compares each pair of runs with each kind of probe on each dataset for which both have results.

    Datasets without the metric are left out: only multi-label datasets have a mean average precision, and they have
    nothing else. In place of the top-1 accuracy, their `map11` is compared.

    After the datasets of a pair and kind comes the mean over them, if there are several with an interval.
    """
    found = []
    for one, other in combinations(runs, 2):
        for kind in probe_kinds(runs):
            both = one.cells.keys() & other.cells.keys()
            compared = []
            for name in (name for name in datasets(runs, kind) if (kind, name) in both):
                cells = one.cells[kind, name], other.cells[kind, name]
                shown = cells[0].metric(metric)
                if all(cell.multi_label == shown.multi_label for cell in cells):
                    start = Comparison(one.name, other.name, kind, name, shown.name, 0, None)
                    compared.append(_compared(start, *cells))
            adjusted = iter(holm([item.p for item in compared if item.p is not None]))
            found += [item if item.p is None else replace(item, adjusted_p=next(adjusted)) for item in compared]
            found += _mean(compared, metric)
    return found


def _compared(start: Comparison, one: Cell, other: Cell) -> Comparison:
    """`start` with the difference of two cells."""
    places = _places(one, other)
    cells = tuple(zip((one, other), places, strict=True))
    values = [[getattr(cell.results[i].test, start.metric) for i in where] for cell, where in cells]
    if None in values[0] + values[1]:
        return replace(start, problem="this score has no meaning here")
    seeds = [[cell.results[i].seed for i in where] for cell, where in cells]
    variance = SeedVariance.of(values[0], values[1], paired=seeds[0] == seeds[1])
    start = replace(start, seeds=min(map(len, seeds)), gain=mean(values[0]) - mean(values[1]))
    start = replace(start, seed_error=math.sqrt(variance.variance))
    if one.test_images is None or one.test_images != other.test_images:
        return replace(start, problem="different test images, so no paired test is possible")
    if not one.predictions or not other.predictions:
        return replace(start, problem="predictions are missing")
    if start.metric == "ece":
        return replace(start, problem="not a mean over images, so there is no test")
    picked = [tuple(cell.predictions[i] for i in where) for cell, where in cells]
    if not np.array_equal(picked[0][0].label, picked[1][0].label):
        return replace(start, problem="the predictions have different labels, so no paired test is possible")
    if METRICS[start.metric].multi_label:
        both = [[found for found in of if isinstance(found, Rankings)] for of in picked]
        return _resampled(start, both[0], both[1], variance)
    first, second = (tuple(found for found in of if isinstance(found, Predictions)) for of in picked)
    return _tested(start, first, second, variance)


def _places(one: Cell, other: Cell) -> tuple[list[int], list[int]]:
    """The places of the results to compare: of the common seeds if there are any, else of all seeds."""
    common = {result.seed for result in one.results} & {result.seed for result in other.results}
    first, second = (
        [i for i, result in enumerate(cell.results) if not common or result.seed in common] for cell in (one, other)
    )
    return first, second


def _resampled(
    start: Comparison, one: Sequence[Rankings], other: Sequence[Rankings], seeds: SeedVariance
) -> Comparison:
    """`start` with the interval and the test of the difference of two mean average precisions."""
    differences = mean_replicates(one, start.metric) - mean_replicates(other, start.metric)
    interval, p = bootstrap_comparison(start.gain or 0.0, differences, images_of_classes(one[0]), seeds)
    return replace(start, interval=interval, p=p)


def _tested(
    start: Comparison, one: tuple[Predictions, ...], other: tuple[Predictions, ...], seeds: SeedVariance
) -> Comparison:
    """`start` with the interval and the test of the difference."""
    metric = start.metric
    differences = image_scores(one, metric) * len(other) - image_scores(other, metric) * len(one)
    if not np.isfinite(differences).all():
        return replace(start, problem="this score has no meaning here")
    scaled = differences / (len(one) * len(other))
    if metric == "mean_per_class":
        counts = np.bincount(one[0].label)
        weights = len(scaled) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        scaled = scaled * weights[one[0].label]
    p = normal_test(scaled, seeds)
    if metric in ("top1", "top5"):
        exact = sign_flip_test(differences)
        p = max(exact, p) if seeds.variance else exact
    return replace(start, interval=difference_interval(scaled, seeds), p=p)


def _mean(compared: Sequence[Comparison], metric: Metric) -> list[Comparison]:
    """The mean over the datasets with an interval; nothing if there are fewer than two."""
    tested = [(item.gain, item.interval) for item in compared if item.gain is not None and item.interval is not None]
    if len(tested) < 2:
        return []
    gain, both = mean(gain for gain, _ in tested), mean_of_intervals([interval for _, interval in tested])
    seeds = min(item.seeds for item in compared if item.interval is not None)
    error = math.hypot(*(item.seed_error for item in compared if item.interval is not None)) / len(tested)
    start = Comparison(compared[0].one, compared[0].other, compared[0].kind, MEAN, metric.name, seeds, gain)
    return [replace(start, interval=both, seed_error=error)]
