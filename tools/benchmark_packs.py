"""Compares an image folder with its pack, tar and zip: lists and rate of reading; with its pack, features and training.

The images are small JPEG files of noise, in 100 classes, and a twentieth of them is for validation. The first
reading finds nothing of them in the page cache. Run:
OMP_NUM_THREADS=1 .venv/bin/python tools/benchmark_packs.py --images 20000
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from trex.config import Config, load
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.distributed import Ranks
from trex.features.extract import extract
from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.trainer import train

SETTINGS = [
    "data.dataset=noise", "data.workers=2", "crops.global_size=16", "crops.local_size=8", "crops.local_count=1",
    "model.encoder=resnet18", "method.hidden_dim=32", "method.output_dim=16", "method.memory_bank_size=64",
    "optimizer.lr=0.05", "optimizer.warmup_epochs=0", "train.epochs=1", "train.batch_size=256", "train.precision=off",
    "extract.resize=16", "extract.crop=16", "probe.kinds=[knn20]",
]  # fmt: skip


def write_images(folder: Path, count: int) -> None:
    """Write `count` JPEG files of 16 x 16 pixels."""
    chance = np.random.default_rng(0)
    for number in range(count):
        split = "val" if number % 20 == 0 else "train"
        place = folder / split / f"n{number // 20 % 100:08d}"
        place.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(out, "JPEG")
        (place / f"{number:06d}.JPEG").write_bytes(out.getvalue())


def make_forms(root: Path, count: int) -> list[str]:
    """Write the same dataset as a folder, a pack, a tar and a zip, each in a folder of its own. Returns their names."""
    write_images(root / "folder/noise", count)
    splits = load_splits("noise", DataConfig(root=f"{root}/folder"))
    began = time.perf_counter()
    write_pack(splits, root / "pack/noise.pack", lambda text: print(text, flush=True))
    print(f"packed {count / (time.perf_counter() - began):.0f} images/s")
    for form in ("tar", "zip"):
        shutil.make_archive(f"{root}/{form}/noise", form, f"{root}/folder", "noise")
    return ["folder", "pack", "tar", "zip"]


def forget(folder: Path) -> None:
    """Take the content of the files in `folder` out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure(root: Path, form: str) -> list[str]:
    """Print the seconds of listing and the rate of reading all images in random order. Returns digests."""
    data = DataConfig(root=f"{root}/{form}")
    forget(root / form)
    began = time.perf_counter()
    splits = load_splits("noise", data)
    listed = time.perf_counter() - began
    split = splits["trainval"]
    order = np.random.default_rng(0).permutation(len(split))
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        for index in order:
            split.content(int(index))
        rates.append(len(split) / (time.perf_counter() - began))
    print(
        f"{form:7} listed in {listed:.2f} s; read {rates[0]:.0f} images/s, from the page cache {rates[1]:.0f}",
        flush=True,
    )
    return [found.digest for found in splits.values()]


def outcome(root: Path, form: str) -> tuple[str, str]:
    """Train one epoch and extract features. Returns SHA-256 of the weights and of the features."""
    places = [f"data.root={root}/{form}", f"runs={root}/runs", f"name={form}"]
    config = load(None, Config, [*SETTINGS, *places])
    run = RunDir.of(config)
    run.root.mkdir(parents=True)
    train(run, config, Ranks(), StopRequest())
    extract(run, config, "noise", Ranks(), StopRequest())
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    weights, features = hashlib.sha256(), hashlib.sha256()
    for name, value in sorted(newest.load()["model"].items()):
        weights.update(name.encode() + value.numpy().tobytes())
    for split in ("trainval", "test"):
        features.update(open_features(run.features("noise", split)).features.tobytes())
    return weights.hexdigest(), features.hexdigest()


def main() -> int:
    """Print the figures; return 1 if any form differs from the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--folder", type=Path, help="where to write everything (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        root = Path(temporary)
        forms = make_forms(root, args.images)
        digests = {form: measure(root, form) for form in forms}
        outcomes = {form: outcome(root, form) for form in ("folder", "pack")}
    same = all(found == digests["folder"] for found in digests.values()) and outcomes["pack"] == outcomes["folder"]
    print(f"lists {digests['folder'][0][:16]}, weights {outcomes['folder'][0][:16]}, ", end="")
    print(
        f"features {outcomes['folder'][1][:16]}: {'the same for all' if same else f'DIFFERENT: {digests} {outcomes}'}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
