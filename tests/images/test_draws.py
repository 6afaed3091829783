"""The compiled draws are those of numpy's generator, bit for bit, so that a run continues with the same crops."""

from __future__ import annotations

import numpy as np
import pytest

from tests.images import plain
from trex.config.schema import CropsConfig
from trex.images.draws import box_of, draw_crops

BOTH = CropsConfig(global_count=2, local_count=3, solarize=0.7, brightness=1.0, hue=0.5)
#: Boxes this large rarely fit, so several are drawn, and often the central box is used.
LARGE = CropsConfig(global_scale=(0.9, 1.0), local_scale=(0.97, 1.0), blur_radius=(0.1, 20.0), local_blur=1.0)


@pytest.mark.parametrize("config", [CropsConfig(), BOTH, LARGE], ids=["defaults", "both", "large boxes"])
@pytest.mark.parametrize("size", [(375, 500), (500, 200), (90, 640), (20, 2000), (2000, 20), (1, 1), (3000, 4000)])
def test_draws_are_those_of_numpys_philox(config: CropsConfig, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    for number in range(40):
        seed, epoch = (int(rng.integers(2**32)), int(rng.integers(1000))) if number else (2**32 - 1, 0)
        index = int(rng.integers(2_000_000)) if number > 1 else 0
        found, expected = (make(*size, config, seed, epoch, index) for make in (draw_crops, plain.table))
        assert np.array_equal(found, expected)


def test_box_of_the_blur_is_computed_in_pillows_precision() -> None:
    for radius in np.random.default_rng(0).uniform(0.05, 20, 3000):
        assert box_of(radius) == plain.blur_box(radius)
