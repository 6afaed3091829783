"""Average precision of the images that are ranked by their scores for a class, and how much it varies over images.

Two numbers, both from the precision and the recall among the images that are ranked down to some score:

- 11 points: the mean, over the recalls 0, 0.1, …, 1, of the highest precision at that recall or a higher one. This is
  the official number of PASCAL VOC 2007 (`VOCevalcls.m` of its development kit).
- area: the sum over the images that show the class of precision / number of such images, the area under the curve
  without interpolation, as scikit-learn's `average_precision_score`.

Images with the label 0 (VOC: only difficult objects) are left out of their class. Images with equal scores are ranked
down to together, so that the numbers do not depend on the order of the images; VOC's program takes the order of the
file. Recalls are compared as whole numbers: 3 of 10 images have a recall of 0.3, without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Resampled sets of images, for the report. The standard error that they give has a relative error of 2 %.
REPLICATES = 1000
#: The most numbers in a piece of resampling counts.
_PIECE = 1 << 22


def ranks(scores: np.ndarray) -> np.ndarray:
    """The number of images with a higher score for a class.

    Args:
        scores: (n, K) float, not nan.

    Returns:
        (n, K) of the smallest dtype possible: uint8, uint16 or uint32.
    """
    found = np.empty(scores.shape, rank_dtype(len(scores)))
    for label, column in enumerate(scores.T):
        found[:, label] = len(column) - np.searchsorted(np.sort(column), column, side="right")
    return found


def rank_dtype(images: int) -> np.dtype:
    """The smallest dtype for the ranks of this number of images."""
    return np.min_scalar_type(max(images - 1, 0))


def average_precisions(labels: np.ndarray, rank: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """The average precisions of each class.

    Args:
        labels: (n, K) int8, 1 for images that show a class, -1 for others, 0 for those that are left out.
        rank: (n, K) uint, as `ranks` returns them.
        counts: (n, B) float, how often each image counts in each of B sets of images; None: once, in a single set.

    Returns:
        (2, K, B) float64: 11 points and area. nan for a class that no image of the set shows.
    """
    counts = np.ones((len(labels), 1)) if counts is None else counts
    return np.stack([_of_class(labels[:, k], rank[:, k], counts) for k in range(labels.shape[1])], axis=1)


def mean_average_precision(labels: np.ndarray, rank: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """The means of the average precisions over the classes that images show, (2, B); nan if there are none."""
    found = average_precisions(labels, rank, counts)
    known = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, found, 0).sum(1) / known.sum(1)
    return mean


def replicates(labels: np.ndarray, rank: np.ndarray, number: int = REPLICATES) -> np.ndarray:
    """The mean average precisions of sets of n images that are drawn from the images with replacement (bootstrap).

    The draws depend on n alone. So those of two probes are of the same images, and their differences are those of a
    paired bootstrap; and a report always has the same numbers.

    Args:
        labels: (n, K) int8, as in `average_precisions`.
        rank: (n, K) uint.
        number: how many sets, B.

    Returns:
        (2, B) float64: 11 points and area.
    """
    return np.concatenate([mean_average_precision(labels, rank, one) for one in _draws(len(labels), number)], axis=1)


def _draws(images: int, number: int) -> Iterator[np.ndarray]:
    """How often each image is in each set, (images, b) float32, in pieces."""
    chance = np.random.Generator(np.random.Philox(key=images))
    size = max(_PIECE // max(images, 1), 1)
    for first in range(0, number, size):
        piece = np.empty((images, min(size, number - first)), np.float32)
        for place in range(piece.shape[1]):
            piece[:, place] = np.bincount(chance.integers(images, size=images), minlength=images)
        yield piece


def _of_class(labels: np.ndarray, rank: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The average precisions of one class, (2, B)."""
    known = np.flatnonzero(labels)
    known = known[np.argsort(rank[known], kind="stable")]
    shown, order = labels[known] > 0, rank[known]
    if not shown.any():
        return np.full((2, counts.shape[1]), np.nan)
    # The precision is highest down to an image that shows the class, so only the scores of such images matter.
    ends = np.searchsorted(order, np.unique(order[shown]), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    used = counts[known[: ends[-1]]]
    ranked = np.add.reduceat(used, starts, axis=0).cumsum(0, dtype=np.float64)
    hits = np.add.reduceat(used * shown[: ends[-1], None], starts, axis=0).cumsum(0, dtype=np.float64)
    precision = hits / np.maximum(ranked, 1)
    area = (np.diff(hits, axis=0, prepend=0) * precision).sum(0)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    sets = np.arange(counts.shape[1])
    points = [highest[(10 * hits < level * hits[-1]).sum(0), sets] for level in range(11)]
    with np.errstate(invalid="ignore"):
        found = np.minimum(np.stack([np.mean(points, axis=0), area / hits[-1]]), 1.0)  # 1 + 1e-16 by rounding
    return np.where(hits[-1] > 0, found, np.nan)
