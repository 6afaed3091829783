"""The results of one run on one dataset with one kind of probe, and its scores with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

import numpy as np

from trex.probing.predictions import Predictions
from trex.probing.scores import TOP
from trex.records.probe_result import ProbeResult, SkippedImages
from trex.reporting.metric import METRICS
from trex.reporting.statistics import Interval, mean_interval, share_interval


@dataclass(frozen=True)
class Estimate:
    """A score of a cell."""

    value: float  #: mean over the seeds
    interval: Interval | None  #: over the test images; None without predictions, and for `ece`
    spread: float | None  #: standard deviation over the seeds; None for a single seed


@dataclass(frozen=True, eq=False)
class Cell:
    """The results of one run on one dataset with one kind of probe, for all seeds."""

    results: tuple[ProbeResult, ...]  #: one per seed, all with the same classes
    predictions: tuple[Predictions, ...] = ()  #: one per seed; empty if those of a seed are missing

    @property
    def top1(self) -> list[float]:
        """Top-1 test accuracies, fractions, one per seed."""
        return [result.test.top1 for result in self.results]

    @property
    def mean(self) -> float:
        """Mean top-1 test accuracy over the seeds, a fraction."""
        return mean(self.top1)

    @property
    def comparable(self) -> bool:
        """Whether the dataset is the official one, so that the result is comparable with published numbers."""
        return all(result.comparable for result in self.results)

    @property
    def skipped(self) -> SkippedImages:
        """The broken images that the results lack: of any seed, which all have the same features."""
        return next((result.skipped for result in self.results if result.skipped), SkippedImages())

    @property
    def edges(self) -> list[str]:
        """The seeds that chose a hyper-parameter at an end of its range, such as `seed 0: high`."""
        return [f"seed {one.seed}: {one.search.edge}" for one in self.results if one.search.edge]

    @property
    def mean_per_class(self) -> float:
        """Mean per-class accuracy, a fraction, averaged over the seeds."""
        return mean(result.test.mean_per_class for result in self.results)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.results[0].classes

    @property
    def test_images(self) -> str | None:
        """The digest of the test images' names and labels; None if the seeds have different ones."""
        found = {result.provenance.test_images for result in self.results}
        return found.pop() if len(found) == 1 else None

    @property
    def log_odds(self) -> float:
        """log(p / (1 - p)) of the mean accuracy p. For n test images, p is limited to 1/(2n) … 1 - 1/(2n), because the
        log-odds of 100 % would be infinite."""
        half = 0.5 / max(self.results[0].counts.test, 1)
        p = min(max(self.mean, half), 1 - half)
        return math.log(p / (1 - p))

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The scores by the name of their metric, without those that have no meaning for a seed."""
        found = {}
        for name in METRICS:
            values = [getattr(result.test, name) for result in self.results]
            if None not in values:
                spread = stdev(values) if len(values) > 1 else None
                found[name] = Estimate(mean(values), interval(self.predictions, name), spread)
        return found


def interval(predictions: tuple[Predictions, ...], metric: str) -> Interval | None:
    """The interval of the mean score over seeds that have the same test images; None without predictions."""
    if not predictions or not len(predictions[0].label) or metric == "ece":
        return None
    values = image_scores(predictions, metric) / len(predictions)
    if metric == "nll":
        return mean_interval(values) if np.isfinite(values).all() else None
    return share_interval(values, predictions[0].label if metric == "mean_per_class" else None)


def image_scores(predictions: tuple[Predictions, ...], metric: str) -> np.ndarray:
    """The sum over seeds of what each test image contributes to a score, (n,): int64 hits, or float64 nats for `nll`.

    Raises:
        KeyError: for `ece`, which is not a mean over images.
    """
    if metric == "nll":
        return -sum((one.log_probability.astype(np.float64) for one in predictions), np.zeros(1))
    enough = {"top1": 1, "mean_per_class": 1, "top5": TOP}[metric]
    return sum((one.rank < enough for one in predictions), np.zeros(1, np.int64))
