"""Small datasets in the layouts of the official archives: real photographs, annotations in the official formats."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from trex.config.schema import DataConfig
from trex.datasets.registry import load_splits
from trex.datasets.split import Split, SplitName


@cache
def photo() -> bytes:
    """A real photograph as a small JPEG file."""
    out = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).resize((48, 32)).save(out, "JPEG")
    return out.getvalue()


def put(root: Path, *names: str) -> None:
    """Write a photograph to each path `names` below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo())


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def found(split: Split) -> list[tuple[str, str]]:
    """Path and class name of each image. Checks that each image can be decoded."""
    for index in range(len(split)):
        assert split.read(index).shape == (32, 48, 3)
    return [(split.name(i), split.classes[split.labels[i]]) for i in range(len(split))]


@pytest.fixture
def load(tmp_path: Path):
    """A function that reads the dataset `name` from the test's folder, as a subset unless `subset` is False."""

    def read(name: str, *, subset: bool = True) -> dict[SplitName, Split]:
        return load_splits(name, DataConfig(root=str(tmp_path), subsets=(name,) if subset else ()))

    return read


def struct(**columns: list[object]) -> np.ndarray:
    """A MATLAB struct array with one row, in the form that savemat takes."""
    count = len(next(iter(columns.values())))
    array = np.zeros((1, count), dtype=[(name, "O") for name in columns])
    for name, values in columns.items():
        for place, value in enumerate(values):
            array[0, place][name] = value
    return array
