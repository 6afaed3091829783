"""The evaluation image, compared with torchvision's own transforms."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as T

from trex.images.evaluation import evaluation_image
from trex.images.preprocessing import Geometry


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"),
    [
        (375, 500, 224, 224),
        (375, 500, 256, 224),
        (500, 375, 256, 224),
        (224, 224, 224, 224),
        (333, 334, 257, 224),  # the longer side has a fraction, and both margins are odd
        (7, 301, 9, 8),
        (301, 7, 9, 8),
        (8, 8, 64, 33),
    ],
)
def test_evaluation_image_equals_torchvisions(
    photograph: np.ndarray, height: int, width: int, resize: int, crop: int
) -> None:
    image = np.asarray(Image.fromarray(photograph).resize((width, height)))
    reference = T.Compose([T.Resize(resize, T.InterpolationMode.BICUBIC), T.CenterCrop(crop)])
    expected = np.asarray(reference(Image.fromarray(image))).transpose(2, 0, 1)
    found = evaluation_image(image, Geometry(resize, crop))
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("module", ["trex.features.extract", "trex.loading.evaluation"])
def test_evaluation_without_an_encoder_imports_no_torchvision(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
