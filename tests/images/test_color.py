"""Each compiled color operation gives the same bytes as Pillow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

import trex
from tests import refusing
from trex.images import color
from trex.images.draws import box_of

FACTORS = np.linspace(0.6, 1.4, 9)


def planar(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def ours(rgb: np.ndarray, operation: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], object]) -> np.ndarray:
    planes = planar(rgb)
    operation(planes.reshape(-1), *(plane.reshape(-1) for plane in planes))
    return planes.transpose(1, 2, 0).astype(int)


@pytest.fixture(params=["photograph", "noise"])
def rgb(request, photograph: np.ndarray) -> np.ndarray:
    if request.param == "photograph":
        return photograph[:200, :200]
    return np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, lambda p, r, g, b: color.blend(p, np.float32(0), np.float32(factor)))
    assert np.array_equal(found, np.asarray(F.adjust_brightness(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, lambda p, r, g, b: color.blend(p, np.float32(color.mean_gray(r, g, b)), np.float32(factor)))
    assert np.array_equal(found, np.asarray(F.adjust_contrast(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, lambda p, r, g, b: color.saturate(r, g, b, np.float32(factor)))
    assert np.array_equal(found, np.asarray(F.adjust_saturation(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("shift", [-0.1, -0.03, -0.001, 0.0, 0.002, 0.05, 0.1, 0.5])
def test_hue_equals_pillows_uint8_hsv(rgb: np.ndarray, shift: float) -> None:
    found = ours(rgb, lambda p, r, g, b: color.shift_hue(r, g, b, int(shift * 255) % 256))
    assert np.array_equal(found, np.asarray(F.adjust_hue(Image.fromarray(rgb), shift)))


def test_gray_equals_pillows(rgb: np.ndarray) -> None:
    found = ours(rgb, lambda p, r, g, b: color.to_gray(r, g, b))
    assert np.array_equal(found, np.asarray(Image.fromarray(rgb).convert("L").convert("RGB")))


def test_solarize_equals_pillows(rgb: np.ndarray) -> None:
    found = ours(rgb, lambda p, r, g, b: color.solarize(p))
    assert np.array_equal(found, np.asarray(ImageOps.solarize(Image.fromarray(rgb), 128)))


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.7, 1.0, 1.3, 1.7, 2.0])
def test_blur_equals_pillows(rgb: np.ndarray, radius: float) -> None:
    planes = planar(rgb)
    color.blur(planes, *box_of(radius))
    expected = np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius)))
    assert np.array_equal(planes.transpose(1, 2, 0), expected)


def test_compiled_functions_work_where_neither_the_installation_nor_a_home_can_be_written(tmp_path: Path) -> None:
    package, home = tmp_path / "site", tmp_path / "home"
    home.mkdir()
    shutil.copytree(Path(trex.__file__).parent, package / "trex", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [home, package, *(path for path in package.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    program = (
        "import numpy as np, trex; from trex.images.color import solarize; p = np.array([9, 200], np.uint8)\n"
        "solarize(p); print(trex.__file__, p.tolist())"
    )
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run(
        refusing.as_user(sys.executable, "-P", "-c", program),
        env={**variables, "PYTHONPATH": str(package), "HOME": str(home)},
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    for folder in folders:
        folder.chmod(0o755)
    assert done.stdout == f"{package}/trex/__init__.py [9, 55]\n", done.stderr
    assert not list(package.rglob("*.nbi"))
