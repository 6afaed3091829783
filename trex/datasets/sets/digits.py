"""scikit-learn's handwritten digits (UCI, 1797 images of 8 x 8 pixels): real images that need no download."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trex.datasets.record import Counts, Dataset, Listing, SplitListing

#: Every fifth image of each class, in the order of the dataset, is a test image.
_TEST_EVERY = 5


def read_digits(digits: range, _folder: Path) -> Listing:
    """Reads the classes `digits`, which are consecutive, as gray RGB images: uint8 (8, 8, 3)."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    order = np.flatnonzero(np.isin(bunch.target, digits))
    place = np.zeros(len(bunch.target), dtype=np.int64)  # index of each image among the images of its class
    for digit in digits:
        of_class = np.flatnonzero(bunch.target == digit)
        place[of_class] = np.arange(len(of_class))
    is_test = place[order] % _TEST_EVERY == _TEST_EVERY - 1

    def listed(chosen: np.ndarray) -> SplitListing:
        labels = [int(label) - digits.start for label in bunch.target[chosen]]
        return SplitListing(
            [f"{index:04d}" for index in chosen], labels, np.repeat(images[chosen, :, :, None], 3, axis=3)
        )

    return Listing(tuple(str(digit) for digit in digits), listed(order[~is_test]), listed(order[is_test]))


DATASETS = (
    Dataset("digits", partial(read_digits, range(10)), Counts(10, 1442, 355), needs_files=False),
    # 0 to 6, for training
    Dataset("digits_seen", partial(read_digits, range(7)), Counts(7, 1014, 250), needs_files=False),
    # 7 to 9, for transfer to classes that training never saw
    Dataset("digits_unseen", partial(read_digits, range(7, 10)), Counts(3, 428, 105), needs_files=False),
)
