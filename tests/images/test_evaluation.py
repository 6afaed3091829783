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


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (3, 1200), (1200, 3)])
def test_thin_strip_is_resized_within_little_memory(photograph: np.ndarray, shape: tuple[int, int], tmp_path) -> None:
    """A PNG file of 2000 x 1 pixels has 86 bytes, and its resized image would take 0.6 GB."""
    strip = np.asarray(Image.fromarray(photograph).resize(shape[::-1]))
    reference = T.Compose([T.Resize(224, T.InterpolationMode.BICUBIC), T.CenterCrop(224)])
    expected = np.asarray(reference(Image.fromarray(strip))).transpose(2, 0, 1)
    np.save(tmp_path / "strip.npy", strip)
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from trex.images.evaluation import evaluation_image; from trex.images.preprocessing import Geometry\n"
        "strip = np.load(sys.argv[1]); evaluation_image(strip[:1, :1], Geometry(224, 224))\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "before = peak()\n"
        "np.save(sys.argv[2], evaluation_image(strip, Geometry(224, 224)))\n"
        "print(peak() - before)"
    )
    files = (str(tmp_path / "strip.npy"), str(tmp_path / "found.npy"))
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000, "KiB"
    assert np.abs(np.load(files[1]).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("module", ["trex.features.extract", "trex.loading.evaluation"])
def test_evaluation_without_an_encoder_imports_no_torchvision(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
