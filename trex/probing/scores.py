"""The scores of a probe's predictions on the test images."""

from __future__ import annotations

import numpy as np

from trex.probing.predictions import Outcomes
from trex.records.probe_result import Scores

#: Bins of the expected calibration error, of equal width over 0 … 1.
BINS = 15
#: With at most this many classes, every class is among the five most probable ones.
TOP = 5


def scores(labels: np.ndarray, found: Outcomes, classes: int) -> Scores:
    """The scores of the predictions for n images.

    Args:
        labels: (n,) int64, in 0 … `classes` - 1.
        found: the predictions for these images.
        classes: number of classes.
    """
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[labels == found.predicted], minlength=classes)
    per_class = tuple(float(hits[i] / totals[i]) if totals[i] else None for i in range(classes))
    present = [value for value in per_class if value is not None]
    pairs, counts = np.unique(labels * classes + found.predicted, return_counts=True)
    likelihood = found.log_probability.astype(np.float64)
    return Scores(
        top1=float(hits.sum() / len(labels)),
        top5=float((found.rank < TOP).mean()) if classes > TOP else None,
        mean_per_class=float(np.mean(present)),
        nll=max(float(-likelihood.mean()), 0.0) if np.isfinite(likelihood).all() else None,
        ece=calibration_error(found.confidence, labels == found.predicted),
        classes_without_test_images=int((totals == 0).sum()),
        per_class=per_class,
        confusion=tuple(
            (int(pair // classes), int(pair % classes), int(count)) for pair, count in zip(pairs, counts, strict=True)
        ),
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The expected calibration error (Guo et al., arXiv 1706.04599, eq. 3): Σ_b n_b/n |accuracy_b - confidence_b|.

    Args:
        confidence: (n,) float, the probability of the predicted class.
        correct: (n,) bool, whether that is the image's class.

    Bin b of BINS holds the images whose confidence is in ((b - 1) / BINS, b / BINS].
    """
    places = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(places, correct - confidence.astype(np.float64), minlength=BINS)
    return float(min(np.abs(gaps).sum() / len(confidence), 1.0))
