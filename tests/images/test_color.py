"""Each compiled color operation gives the same bytes as Pillow."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

import trex
from tests import refusing
from trex.images import color, draws
from trex.images.draws import box_of

FACTORS = np.linspace(0.6, 1.4, 9)


def ours(rgb: np.ndarray, **values: float) -> np.ndarray:
    """Apply the operations of a row with these values: `ORDER=1, CONTRAST=0.7` changes the contrast."""
    planes, draw = np.ascontiguousarray(rgb.transpose(2, 0, 1)), np.zeros(draws.FIELDS)
    draw[draws.ORDER : draws.ORDER + 4] = -1
    for name, value in values.items():
        draw[getattr(draws, name)] = value
    color.apply_operations(planes, draw)
    return planes.transpose(1, 2, 0)


@pytest.fixture(params=["photograph", "noise"])
def rgb(request, photograph: np.ndarray) -> np.ndarray:
    if request.param == "photograph":
        return photograph[:200, :200]
    return np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, ORDER=0, BRIGHTNESS=factor)
    assert np.array_equal(found, np.asarray(F.adjust_brightness(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, ORDER=1, CONTRAST=factor)
    assert np.array_equal(found, np.asarray(F.adjust_contrast(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation_equals_pillows(rgb: np.ndarray, factor: float) -> None:
    found = ours(rgb, ORDER=2, SATURATION=factor)
    assert np.array_equal(found, np.asarray(F.adjust_saturation(Image.fromarray(rgb), factor)))


@pytest.mark.parametrize("shift", [-0.1, -0.03, -0.001, 0.0, 0.002, 0.05, 0.1, 0.5])
def test_hue_equals_pillows_uint8_hsv(rgb: np.ndarray, shift: float) -> None:
    found = ours(rgb, ORDER=3, SHIFT=int(shift * 255) % 256)
    assert np.array_equal(found, np.asarray(F.adjust_hue(Image.fromarray(rgb), shift)))


def test_gray_equals_pillows(rgb: np.ndarray) -> None:
    found = ours(rgb, GRAYSCALE=1)
    assert np.array_equal(found, np.asarray(Image.fromarray(rgb).convert("L").convert("RGB")))


def test_solarize_equals_pillows(rgb: np.ndarray) -> None:
    found = ours(rgb, SOLARIZE=1)
    assert np.array_equal(found, np.asarray(ImageOps.solarize(Image.fromarray(rgb), 128)))


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.7, 1.0, 1.3, 1.7, 2.0, 2.6, 4.0, 9.5, 20.0])
def test_blur_equals_pillows(rgb: np.ndarray, radius: float) -> None:
    full_pixels, weight, edge_weight = box_of(radius)
    found = ours(rgb, RADIUS=radius, FULL_PIXELS=full_pixels, WEIGHT=weight, EDGE_WEIGHT=edge_weight)
    assert np.array_equal(found, np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius))))


@pytest.mark.parametrize("shift", [0, 1, 25, 127, 254, 255])
def test_hue_of_every_color_equals_pillows(shift: int) -> None:
    """Hue is computed with single roundings in float32, and Pillow partly computes in double precision."""
    values = np.arange(256, dtype=np.uint8)
    for red in range(shift % 3, 256, 3):
        rgb = np.stack(np.broadcast_arrays(np.uint8(red), values[:, None], values), axis=2)
        hsv = np.array(Image.fromarray(rgb).convert("HSV"))
        hsv[..., 0] += np.uint8(shift)
        expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
        assert np.array_equal(ours(rgb, ORDER=3, SHIFT=shift), expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_operations_are_applied_in_their_order_and_rounded_after_each(rgb: np.ndarray, order: tuple[int, ...]) -> None:
    factors = {"BRIGHTNESS": 1.3, "CONTRAST": 0.7, "SATURATION": 1.2}
    places = {0: "BRIGHTNESS", 1: "CONTRAST", 2: "SATURATION"}
    planes, draw = np.ascontiguousarray(rgb.transpose(2, 0, 1)), np.zeros(draws.FIELDS)
    draw[draws.ORDER : draws.ORDER + 4], draw[draws.SHIFT], draw[draws.GRAYSCALE] = order, 20, sum(order[:2]) == 3
    for name, factor in factors.items():
        draw[getattr(draws, name)] = factor
    color.apply_operations(planes, draw)
    one_by_one = rgb
    for operation in order:
        values = {"SHIFT": 20} if operation == 3 else {places[operation]: factors[places[operation]]}
        one_by_one = ours(one_by_one, ORDER=operation, **values)
    if draw[draws.GRAYSCALE]:
        one_by_one = ours(one_by_one, GRAYSCALE=1)
    assert np.array_equal(planes.transpose(1, 2, 0), one_by_one)


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
