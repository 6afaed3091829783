"""Confidence intervals and tests over the test images of a dataset.

The test images are a sample of the images that the dataset stands for. Several seeds of a probe classify the same
images, so the unit is the image, and the value of an image is its mean over the seeds. The interval of a score takes
the fitted probes as fixed. A difference between two runs shall say something about their encoders, so it also has the
variance over the seeds of the probes. All formulas are closed: nothing is drawn at random, so a report always has the
same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, variance
from typing import Self

import numpy as np

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
#: Smaller p-values are not computed exactly: the products of probabilities are rounded to about this.
SMALLEST_P = 1e-12
#: Numbers of signs that are more standard deviations than this from their mean are left out: their chance is 1e-23.
_REACH = 10


@dataclass(frozen=True)
class Interval:
    """A confidence interval of level LEVEL."""

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2


def share_interval(values: np.ndarray, strata: np.ndarray | None = None) -> Interval:
    """The interval of a mean of numbers in 0 … 1: Wilson's (1927), with an effective number of images.

    With one seed the values are 0 and 1, and this is Wilson's interval. The means of several seeds vary less than 0 and
    1 do. Their design effect, variance / (p (1 - p)), divides the number of images (Korn and Graubard 1998). It is
    computed with two right and two wrong images more, so that it is about 1 if there are hardly any errors.

    Args:
        values: (n,) float, n > 0.
        strata: (n,) int, the class of each image, small numbers: the interval of the mean of the classes' means. The
            number of images of each class counts as fixed. A class with one image has the variance of the others.
            None: the interval of the mean.
    """
    if strata is None:
        value = float(values.mean())
        images, variance = float(len(values)), float(values.var() / len(values))
    else:
        value, images, variance = _stratified(values, strata)
    return proportion_interval(value, images, variance)


def proportion_interval(value: float, images: float, variance: float) -> Interval:
    """The interval of a number in 0 … 1 with this variance, which has about the variance of a share of `images`."""
    shrunk = (images * value + 2) / (images + 4)
    squares = variance * images**2 + images * (value - shrunk) ** 2 + 2 * (1 - shrunk) ** 2 + 2 * shrunk**2
    effect = squares / ((images + 4) * shrunk * (1 - shrunk))
    return _wilson(value, images / max(effect, 1e-9))


def _stratified(values: np.ndarray, strata: np.ndarray) -> tuple[float, float, float]:
    """The mean of the classes' means, the images that would give it this accuracy if it were a plain mean (Kish), and
    its variance."""
    counts = np.bincount(strata)
    means = np.bincount(strata, values) / np.maximum(counts, 1)
    squares = np.bincount(strata, (values - means[strata]) ** 2)[counts > 0]
    means, counts = means[counts > 0], counts[counts > 0]
    several = counts > 1
    pooled = squares.sum() / max(int((counts - 1).sum()), 1)
    variances = np.where(several, squares / np.maximum(counts - 1, 1), pooled)
    classes = len(counts)
    return (
        float(means.mean()),
        float(classes**2 / (1 / counts).sum()),
        float((variances / counts).sum() / classes**2),
    )


def _wilson(value: float, images: float) -> Interval:
    center = (value + _Z**2 / (2 * images)) / (1 + _Z**2 / images)
    half = _Z / (1 + _Z**2 / images) * math.sqrt(value * (1 - value) / images + _Z**2 / (4 * images**2))
    return Interval(max(center - half, 0.0), min(center + half, 1.0))


def mean_interval(values: np.ndarray) -> Interval:
    """The interval of the mean of (n,) numbers without bounds, by the central limit theorem."""
    center, half = (
        float(values.mean()),
        _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0,
    )
    return Interval(center - half, center + half)


@dataclass(frozen=True)
class SeedVariance:
    """The part of the variance of a difference of means that comes from the seeds of the probes."""

    variance: float  #: 0 if it is not known, with one seed
    freedom: float  #: degrees of freedom

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float], paired: bool) -> Self:
        """The variance of mean(one) - mean(other), of the scores of each seed; `paired`: of the same seeds in order."""
        if paired:
            differences = [a - b for a, b in zip(one, other, strict=True)]
            return cls(variance(differences) / len(one), len(one) - 1) if len(one) > 1 else cls(0.0, math.inf)
        parts = [(variance(seeds) / len(seeds), len(seeds) - 1) for seeds in (one, other) if len(seeds) > 1]
        return cls(*_sum_of_variances(parts))


def _sum_of_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of independent variances, and its degrees of freedom (Welch and Satterthwaite)."""
    total = sum(part for part, _ in parts)
    below = sum(part**2 / freedom for part, freedom in parts)
    return total, total**2 / below if below else math.inf


NO_SEEDS = SeedVariance(0.0, math.inf)


def difference_interval(differences: np.ndarray, seeds: SeedVariance = NO_SEEDS) -> Interval:
    """The interval of the mean of paired differences: Bonett and Price (2012), Wald's with two images more.

    The two images have the differences 1 and -1. Without them the interval would be too short if few images differ.
    The variance over the seeds is added to that over the images.

    Args:
        differences: (n,) float.
        seeds: the variance over the seeds.
    """
    images = len(differences) + 2
    center = float(differences.sum()) / images
    over_images = ((float(np.square(differences).sum()) + 2) / images - center**2) / images
    return _t_interval(center, over_images, seeds)


def _t_interval(center: float, over_images: float, seeds: SeedVariance) -> Interval:
    """The interval around `center` with the variances over images and seeds."""
    from scipy.stats import t

    total, freedom = _sum_of_variances([(over_images, math.inf), (seeds.variance, seeds.freedom)])
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
    return Interval(center - half, center + half)


def mean_of_intervals(intervals: Sequence[Interval]) -> Interval:
    """The interval of the mean over datasets, which are fixed and have different test images."""
    count = len(intervals)
    center = sum(one.low + one.high for one in intervals) / (2 * count)
    half = math.sqrt(sum(one.half**2 for one in intervals)) / count
    return Interval(center - half, center + half)


def sign_flip_test(differences: np.ndarray) -> float:
    """The two-sided p-value of the paired permutation test of whole numbers: exact, without drawing permutations.

    If the two runs are equally good, each image's difference is as probable with the other sign. The p-value is the
    share of all 2^n choices of signs whose sum is at least as far from 0. With one seed the differences are -1, 0 and
    1, and this is McNemar's exact test.

    Args:
        differences: (n,) int, small numbers.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    counts = np.bincount(np.abs(differences))
    sizes = np.flatnonzero(counts)
    sizes = sizes[sizes > 0]
    counts = counts[sizes]
    total = abs(int(differences.sum()))
    if total == 0:
        return 1.0
    unit = int(np.gcd.reduce(sizes))
    sizes, total = sizes // unit, total // unit
    chances, first = np.ones(1), 0  # chances of each sum, from `first`, of the sizes whose sign is +
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        reach = _REACH * math.sqrt(count) / 2
        low, high = max(math.floor(count / 2 - reach), 0), min(math.ceil(count / 2 + reach), count)
        one = np.zeros(size * (high - low) + 1)
        one[::size] = binom.pmf(np.arange(low, high + 1), count, 0.5)
        chances, first = fftconvolve(chances, one) if len(chances) > 1 else one, first + size * low
    everything = int((sizes * counts).sum())
    begin = (everything + total + 1) // 2 - first  # 2 · sum - everything >= total
    tail = float(chances[max(begin, 0) :].clip(0).sum())
    return min(max(2 * tail, SMALLEST_P), 1.0)


def normal_test(differences: np.ndarray, seeds: SeedVariance = NO_SEEDS) -> float:
    """The two-sided p-value of the same hypothesis for real numbers, with the variance over images and seeds.

    It is a t-test, and without a variance over seeds the normal approximation of the permutation test. Two images with
    the differences 1 and -1 are added, as in `difference_interval`.

    Args:
        differences: (n,) float.
        seeds: the variance over the seeds.
    """
    images = len(differences) + 2
    over_images = (float(np.square(differences).sum()) + 2) / images**2
    return _t_test(float(differences.sum()) / images, over_images, seeds)


def _t_test(center: float, over_images: float, seeds: SeedVariance) -> float:
    """The two-sided p-value of a difference of 0, with the variances over images and seeds."""
    from scipy.stats import t

    total, freedom = _sum_of_variances([(over_images, math.inf), (seeds.variance, seeds.freedom)])
    return min(max(2 * float(t.sf(abs(center) / math.sqrt(total), freedom)), SMALLEST_P), 1.0)


def bootstrap_comparison(
    gain: float, replicates: np.ndarray, images: float, seeds: SeedVariance = NO_SEEDS
) -> tuple[Interval, float]:
    """The interval and the two-sided p-value of a difference that is no mean over images, such as that of two mAP.

    The variance over images is that of the paired bootstrap. As in `difference_interval`, two images with the
    differences 1 and -1 are added, so that equal rankings do not have an interval of length 0.

    Args:
        gain: the difference.
        replicates: (B,) float, the difference in each resampled set of images.
        images: the number of images whose share has about the variance of one of the two numbers.
        seeds: the variance over the seeds.
    """
    over_images = float(np.nanvar(replicates)) + 2 / (images + 2) ** 2
    return _t_interval(gain, over_images, seeds), _t_test(gain, over_images, seeds)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order of `values`. With them the chance of one or more false positives
    among all of them is at most the level at which they are compared."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted
