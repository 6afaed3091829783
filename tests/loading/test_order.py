"""The order of the images in an epoch."""

from __future__ import annotations

import numpy as np

from trex.loading.order import epoch_order


def test_order_is_a_permutation_that_differs_by_epoch_and_seed() -> None:
    assert sorted(epoch_order(100, 0, 0)) == list(range(100))
    assert np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 0))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 0, 1))
    assert not np.array_equal(epoch_order(100, 0, 0), epoch_order(100, 1, 0))
