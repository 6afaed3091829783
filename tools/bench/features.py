"""Writing and reading feature files."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from tools.bench.alternate import Times, alternate
from tools.bench.page import Row, Topic
from trex.features.blocks import Blocks, Writer
from trex.features.store import Contents, complete_rows, open_features, write_features
from trex.records.feature_provenance import FeatureProvenance

IMAGES, DIM, BLOCK = 50_000, 2048, 8192
ROUNDS = 5
MADE_BY = FeatureProvenance("bench", "bench", "test", "s" * 64, "e" * 64, "none", "none", "float32", False, {})


def rows() -> Iterator[Row]:
    """Write the same features in the usual ways and in ours, then read them."""
    features = np.random.default_rng(0).standard_normal((IMAGES, DIM), dtype=np.float32)
    names = [f"train/n{i % 1000:04d}/image_{i:08d}.jpg" for i in range(IMAGES)]
    classes = tuple(f"n{i:04d}" for i in range(1000))
    contents = Contents(features.shape, np.arange(IMAGES) % 1000, names, classes, MADE_BY)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        files = _Files(Path(name), features, contents)
        goal, digest = "≥ 0.7", "same bits; ours with a digest, names and labels"
        yield _row("written; usual: numpy.save + fsync", files.time(files.save, files.write), goal, digest)
        yield _row("the same, from blocks as they are computed", files.time(files.save, files.in_place), goal, digest)
        yield _row("written; usual: h5py, its own chunks + fsync", files.time(files.chunks, files.write), "", digest)
        files.save(0)
        files.write(0)
        found = np.array(open_features(files.ours).features)
        assert np.array_equal(found, features)
        yield _row(
            "read; usual: numpy.load", files.time(files.load, files.read, keep=True), "", "ours compares the digest"
        )


class _Files:
    def __init__(self, folder: Path, features: np.ndarray, contents: Contents) -> None:
        self.folder, self.features, self.contents = folder, features, contents
        self.usual, self.ours = folder / "features.npy", folder / "features.h5"

    def time(self, usual: Callable[[int], None], ours: Callable[[int], None], keep: bool = False) -> Times:
        """Time both in seconds that pass, because each waits for the disk."""
        times = alternate(usual, ours, ROUNDS, time.perf_counter)
        if not keep:
            for path in (self.usual, self.ours):
                path.unlink(missing_ok=True)
        return times

    def save(self, _: int) -> None:
        with self.usual.open("wb") as file:
            np.save(file, self.features)
            os.fsync(file.fileno())

    def chunks(self, _: int) -> None:
        with h5py.File(self.usual, "w") as file:
            file.create_dataset("features", data=self.features, chunks=True)
        with self.usual.open("rb") as opened:
            os.fsync(opened.fileno())

    def write(self, _: int) -> None:
        write_features(self.ours, [self.features], self.contents)

    def in_place(self, _: int) -> None:
        blocks = Blocks(self.folder / "parts", IMAGES, BLOCK, DIM, "float32")
        missing = blocks.prepare(MADE_BY, in_place=True, may_skip=False)
        with Writer(blocks, in_place=True) as writer:
            for block in missing:
                images = np.concatenate(blocks.batches(block))
                writer.write(block, images, self.features[images[0] : images[-1] + 1])
        found = blocks.rows_file()
        assert found is not None
        assert complete_rows(self.ours, *found, self.contents, writer.digest)
        for path in blocks.folder.iterdir():
            path.unlink()

    def load(self, _: int) -> None:
        np.load(self.usual).sum()

    def read(self, _: int) -> None:
        np.array(open_features(self.ours).features).sum()


def _row(what: str, times: Times, goal: str, quality: str) -> Row:
    size = IMAGES * DIM * 4
    usual, ours = (f"{size / seconds / 1e9:.2f} GB/s" for seconds in (times.usual_median, times.ours_median))
    return Row(what, usual, ours, times.spread, goal, quality)


TOPIC = Topic(
    title="Feature files",
    about=f"{IMAGES} features of {DIM} float32 numbers ({IMAGES * DIM * 4 / 1e6:.0f} MB), from memory to a file that "
    "is on the disk, in seconds that pass. The ratio is the speed of ours divided by that of the usual way. Ours is "
    "the whole way: an HDF5 file with names, labels and the SHA-256 of its content, written atomically.",
    rows=rows,
    cores=2,
)  # fmt: skip
