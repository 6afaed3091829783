"""What a probe of a multi-label dataset finds for the test images, stored next to its result: their ranks per class.

The average precision of a class depends only on the order of the images by their scores, so the ranks are all that is
kept. The file (docs/probes.md) is a compressed `.npz` of two arrays with a row per test image and a column per class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from trex.errors import UserError
from trex.probing.average_precision import average_precisions, rank_dtype, replicates
from trex.probing.predictions import Predictions, read_arrays, read_predictions, write_arrays
from trex.records.probe_result import ProbeResult, Scores, predictions_file


@dataclass(frozen=True, eq=False)
class Rankings:
    """The order of n test images for each of K classes."""

    label: np.ndarray  #: (n, K) int8: 1 for a class that is shown, -1 for others, 0: left out of this class
    rank: np.ndarray  #: (n, K) uint8, uint16 or uint32: the number of images with a higher score

    @cached_property
    def replicates(self) -> np.ndarray:
        """The mean average precisions of resampled images, (2, B): `trex.probing.average_precision.replicates`."""
        return replicates(self.label, self.rank)


def write_rankings(path: Path, found: Rankings) -> str:
    """Write a file of rankings atomically. The same rankings give the same bytes. Returns its SHA-256."""
    return write_arrays(path, {"label": found.label, "rank": found.rank})


def read_rankings(path: Path, digest: str, images: int, classes: int) -> Rankings:
    """Read a file of rankings; arguments and errors as in `read_predictions`."""
    expected = {"label": np.dtype(np.int8), "rank": rank_dtype(images)}
    found = Rankings(**read_arrays(path, digest, expected, (images, classes)))
    labels = np.unique(found.label).tolist()
    if not {1} <= set(labels) <= {-1, 0, 1}:
        raise UserError(f"{path}: it has the labels {labels}, expected 1 and perhaps -1 and 0")
    if (highest := int(found.rank.max(initial=0))) >= max(images, 1):
        raise UserError(f"{path}: it has the rank {highest} for {images} images")
    return found


def read_predictions_of(result: ProbeResult, path: Path) -> Predictions | Rankings:
    """Read the predictions or rankings that belong to the result in the file `path`. Raises UserError as both do."""
    read = read_rankings if result.test.multi_label else read_predictions
    return read(predictions_file(path), result.predictions, result.counts.test, len(result.classes))


def ranking_scores(found: Rankings) -> Scores:
    """The scores of rankings in which an image shows a class."""
    points, area = average_precisions(found.label, found.rank)[:, :, 0]
    shown = np.any(found.label > 0, axis=0)
    return Scores(
        top1=None,
        top5=None,
        mean_per_class=None,
        nll=None,
        ece=None,
        classes_without_test_images=int((~shown).sum()),
        per_class=tuple(float(value) if there else None for value, there in zip(points, shown, strict=True)),
        confusion=(),
        map11=float(points[shown].mean()),
        map_area=float(area[shown].mean()),
    )
