"""Small photographs in class folders, and runs that extract their features."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs.plan.runs import save_config
from trex.config import Config, load
from trex.distributed import Ranks
from trex.features.extract import extract
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir

TEXT = """
model: {encoder: resnet18}
extract: {datasets: [photos], weights: untrained, resize: 64, crop: 56, batch_size: 8}
data: {workers: 0}
"""
IMAGES = 44


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Crops of two real photographs, as JPEG files in class folders."""
    root = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 10)):
        for i in range(count):
            label = i % 2
            image = Image.fromarray(load_sample_images().images[label])
            left, top = int(chance.integers(0, 400)), int(chance.integers(0, 200))
            folder = root / "photos" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            image.crop((left, top, left + 150, top + 120)).save(folder / f"{i:03d}.jpg")
    return root


@pytest.fixture
def setup(tmp_path: Path, photos: Path):
    def make(name: str = "run", *overrides: str) -> tuple[RunDir, Config]:
        path = tmp_path / "config.yaml"
        path.write_text(TEXT)
        config = load(path, Config, [f"name={name}", f"runs={tmp_path}/runs", f"data.root={photos}", *overrides])
        run = RunDir.of(config)
        save_config(run, config)
        return run, config

    return make


def make_features(run: RunDir, config: Config, stop: StopRequest | None = None) -> None:
    extract(run, config, "photos", Ranks(), StopRequest() if stop is None else stop)


def command(run: RunDir, processes: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jobs.cli",
        "extract",
        str(run.root),
        "--cluster",
        "local",
        "--processes",
        str(processes),
    ]


def damaged(photos: Path, folder: Path) -> list[Path]:
    """Copy the photographs to `folder` and truncate three of them; returns these three."""
    shutil.copytree(photos, folder)
    files = sorted((folder / "photos" / "train").rglob("*.jpg"))
    broken = [files[1], files[20], files[-1]]
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    return broken
