"""The results of one run on one dataset with one kind of probe, and its scores with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

import numpy as np

from trex.probing.average_precision import mean_average_precision
from trex.probing.predictions import Predictions
from trex.probing.rankings import Rankings
from trex.probing.scores import TOP
from trex.records.probe_result import ProbeResult, SkippedImages
from trex.reporting.metric import MAP11, METRICS, TOP1, Metric
from trex.reporting.statistics import Interval, mean_interval, proportion_interval, share_interval

#: What the probes found for the test images, one per seed.
Found = tuple[Predictions | Rankings, ...]
#: The row of each metric in what trex/probing/average_precision.py returns.
PLACES = {"map11": 0, "map_area": 1}


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
    predictions: Found = ()  #: one per seed; empty if those of a seed are missing

    @property
    def multi_label(self) -> bool:
        """Whether a test image may have several classes: the scores are then mean average precisions."""
        return self.results[0].test.multi_label

    def metric(self, wanted: Metric) -> Metric:
        """The metric that is shown where `wanted` is: `map11` instead of the top-1 accuracy in multi-label datasets."""
        return MAP11 if self.multi_label and wanted is TOP1 else wanted

    def estimate(self, wanted: Metric) -> Estimate | None:
        """The score that is shown where `wanted` is; None if it has no meaning for a seed."""
        return self.estimates.get(self.metric(wanted).name)

    @property
    def main(self) -> list[float]:
        """Top-1 test accuracies, or `map11` in a multi-label dataset, fractions, one per seed."""
        return [result.test.main for result in self.results]

    @property
    def mean(self) -> float:
        """The mean of `main` over the seeds, a fraction."""
        return mean(self.main)

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
        """log(p / (1 - p)) of the mean accuracy or `map11` p. For n test images, p is limited to 1/(2n) … 1 - 1/(2n),
        because the log-odds of 100 % would be infinite."""
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


def titles(cells: Iterable[Cell], metric: Metric) -> str:
    """The title of a metric, and of the one that is shown instead in multi-label datasets if there are any."""
    return " or ".join(dict.fromkeys(cell.metric(metric).title for cell in cells)) or metric.title


def interval(found: Found, metric: str) -> Interval | None:
    """The interval of the mean score over seeds that have the same test images; None without predictions, and if the
    metric has none for them."""
    if not found or not len(found[0].label) or metric == "ece":
        return None
    rankings = [one for one in found if isinstance(one, Rankings)]
    predictions = tuple(one for one in found if isinstance(one, Predictions))
    if METRICS[metric].multi_label:
        return _ranking_interval(rankings, metric) if rankings else None
    if not predictions:
        return None
    values = image_scores(predictions, metric) / len(predictions)
    if metric == "nll":
        return mean_interval(values) if np.isfinite(values).all() else None
    return share_interval(values, predictions[0].label if metric == "mean_per_class" else None)


def _ranking_interval(rankings: Sequence[Rankings], metric: str) -> Interval:
    """The interval of the mean over seeds of a mean average precision, from the variance over resampled images."""
    place = PLACES[metric]
    values = [mean_average_precision(one.label, one.rank)[place, 0] for one in rankings]
    return proportion_interval(
        float(np.mean(values)), images_of_classes(rankings[0]), float(np.nanvar(mean_replicates(rankings, metric)))
    )


def mean_replicates(rankings: Sequence[Rankings], metric: str) -> np.ndarray:
    """The mean over seeds of a mean average precision in each resampled set of test images, (B,)."""
    mean: np.ndarray = np.mean([one.replicates[PLACES[metric]] for one in rankings], axis=0)
    return mean


def images_of_classes(ranking: Rankings) -> float:
    """The number of images whose share has about the variance of a mean over the classes (Kish): that of the images
    that show a class, if all classes have equally many."""
    counts = np.count_nonzero(ranking.label > 0, axis=0)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum())


def image_scores(predictions: tuple[Predictions, ...], metric: str) -> np.ndarray:
    """The sum over seeds of what each test image contributes to a score, (n,): int64 hits, or float64 nats for `nll`.

    Raises:
        KeyError: for `ece`, which is not a mean over images.
    """
    if metric == "nll":
        return -sum((one.log_probability.astype(np.float64) for one in predictions), np.zeros(1))
    enough = {"top1": 1, "mean_per_class": 1, "top5": TOP}[metric]
    return sum((one.rank < enough for one in predictions), np.zeros(1, np.int64))
