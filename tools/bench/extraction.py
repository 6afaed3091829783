"""Extraction of small and large sets with different numbers of loader processes."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from tools.bench.page import Row, Topic
from tools.bench.photographs import photographs
from tools.bench.slow_reads import READ_SECONDS, SlowSplit
from trex.config.loader import load
from trex.config.schema import Config
from trex.datasets.split import Names
from trex.distributed import Ranks
from trex.features.extract import _Extraction
from trex.features.source import Source
from trex.features.store import open_features
from trex.images.preprocessing import Preprocessing
from trex.interruption import StopRequest
from trex.loading.evaluation import evaluation_parts, in_parts
from trex.loading.shared_memory import PART
from trex.model.preprocessing import preprocessing
from trex.records.feature_provenance import FeatureProvenance

SMALL, LARGE = 2000, 10_000
WORKERS = (1, 2, 4, 8)
LARGE_WORKERS = 4
BATCH = 256
MADE_BY = FeatureProvenance("bench", "bench", "test", "s" * 64, "e" * 64, "none", "none", "float32", False, {})


def encode(images: torch.Tensor) -> torch.Tensor:
    """An encoder that takes no time, so that the loading is the limit: (B, 3, S, S) to means of 8 x 8 squares."""
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1)


class SlowImages(Dataset[torch.Tensor]):
    """The usual data set."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = T.Compose([T.Resize(224, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.PILToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(READ_SECONDS)
        image: torch.Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return image


def usual(paths: list[Path], workers: int) -> tuple[np.ndarray, float]:
    """The features, and the seconds until the first batch."""
    began, first, found = time.perf_counter(), 0.0, []
    for images in DataLoader(SlowImages(paths), batch_size=BATCH, num_workers=workers):
        first = first or time.perf_counter() - began
        found.append(encode(images))
    return torch.cat(found).numpy(), first


class Ours:
    """Extracts features into a folder."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        labels, names = np.zeros(len(paths), np.int64), Names([path.name for path in paths])
        self.split = SlowSplit("bench", "test", ("a",), labels, names, paths[0].parent)
        self.target = folder / "test.h5"

    def __call__(self, workers: int) -> np.ndarray:
        """The features."""
        self.target.unlink(missing_ok=True)
        config = load(None, Config, [f"data.workers={workers}", f"extract.batch_size={BATCH}"])
        seen: Preprocessing = preprocessing(config)
        source = Source(encode, 3 * 8 * 8, seen, "none", "none")
        made_by = replace(MADE_BY, split_digest=self.split.digest)
        _Extraction(config, self.split, source, made_by, self.target, Ranks(), StopRequest()).run()
        return np.array(open_features(self.target).features)

    def first(self, workers: int) -> float:
        """Seconds until the first part of a batch is there."""
        began = time.perf_counter()
        seen = preprocessing(load(None, Config, []))
        parts = evaluation_parts(self.split, in_parts(np.arange(len(self.split)), PART), seen.geometry, workers)
        next(parts)
        seconds = time.perf_counter() - began
        parts.close()
        return seconds


_notes: list[str] = []


def rows() -> Iterator[Row]:
    """A small set with each number of loader processes, then a large one."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        some = photographs(Path(name))
        small, large = ([some[i % len(some)] for i in range(count)] for count in (SMALL, LARGE))
        ours = Ours(Path(name), small)
        began = time.perf_counter()
        Ours(Path(name), small[:PART])(1)
        _notes.append(
            f"The server of the loader processes, once per job, and 32 images: {time.perf_counter() - began:.1f} s."
        )
        rates: dict[int, float] = {}
        for workers in WORKERS:
            began = time.perf_counter()
            expected, first = usual(small, workers)
            usual_seconds, began = time.perf_counter() - began, time.perf_counter()
            found = ours(workers)
            seconds = time.perf_counter() - began
            rates[workers] = len(small) / seconds
            assert np.array_equal(found, expected)
            yield Row(
                f"{SMALL} images, {workers} loader process{'es' if workers > 1 else ''} on {cores} cores",
                f"{len(small) / usual_seconds:.0f} images/s", f"{rates[workers]:.0f} images/s",
                f"{usual_seconds / seconds:.2f}", "", "same features",
            )  # fmt: skip
            _notes.append(
                f"{workers} loader processes: the first images are there after {ours.first(workers):.2f} s "
                f"(usual: the first batch of {BATCH} after {first:.2f} s)."
            )
        began = time.perf_counter()
        Ours(Path(name), large)(LARGE_WORKERS)
        rate = LARGE / (time.perf_counter() - began)
        yield Row(
            f"{SMALL} images in place of {LARGE}, {LARGE_WORKERS} loader processes, images/s",
            f"{LARGE}: {rate:.0f} images/s", f"{SMALL}: {rates[LARGE_WORKERS]:.0f} images/s",
            f"{rates[LARGE_WORKERS] / rate:.2f}", "≥ 0.95", "",
        )  # fmt: skip


def notes() -> str:
    """How long the starts took."""
    return "\n".join(_notes)


TOPIC = Topic(
    title="Extraction",
    about=f"Photographs of 500 x 375 pixels, each read after a wait of {READ_SECONDS * 1000:.0f} ms as on a file "
    "system of a network, with an encoder that takes no time. Usual: PIL and torchvision in a DataLoader, batches of "
    f"{BATCH}, features kept in memory. Ours: from the start of the loader processes to the feature file on the disk. "
    "In seconds that pass, one measurement each, because it takes so long and uses other processes.",
    rows=rows,
    notes=notes,
    cores=sys.maxsize,
)  # fmt: skip
