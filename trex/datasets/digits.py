"""Real images that need no download: scikit-learn's handwritten digits (UCI, 1797 images of 8 x 8 pixels)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trex.datasets.registry import Counts, Listing, dataset

#: Every fifth image of a class, in the order of the set, is a test image.
_TEST_EVERY = 5


@dataset("digits", Counts(10, 1442, 355), needs_files=False)
def read_digits(_folder: Path) -> Listing:
    """All ten digits."""
    return _listing(range(10))


@dataset("digits_seen", Counts(7, 1014, 250), needs_files=False)
def read_digits_seen(_folder: Path) -> Listing:
    """The digits 0 to 6, for training."""
    return _listing(range(7))


@dataset("digits_unseen", Counts(3, 428, 105), needs_files=False)
def read_digits_unseen(_folder: Path) -> Listing:
    """The digits 7 to 9, for transfer to classes that training never saw."""
    return _listing(range(7, 10))


def _listing(digits: range) -> Listing:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    order = np.flatnonzero(np.isin(bunch.target, digits))
    rank = np.zeros(len(bunch.target), dtype=np.int64)  # of an image among those of its class
    for digit in digits:
        of_class = np.flatnonzero(bunch.target == digit)
        rank[of_class] = np.arange(len(of_class))
    is_test = rank[order] % _TEST_EVERY == _TEST_EVERY - 1
    parts = []
    for chosen in (order[~is_test], order[is_test]):
        names = [f"{index:04d}" for index in chosen]
        labels = [int(label) - digits.start for label in bunch.target[chosen]]
        parts.append(((names, labels), np.repeat(images[chosen, :, :, None], 3, axis=3)))
    (trainval, trainval_arrays), (test, test_arrays) = parts
    return Listing(tuple(str(d) for d in digits), trainval, test, trainval_arrays, test_arrays)
