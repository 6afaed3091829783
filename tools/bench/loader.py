"""Images per second at the output of a DataLoader: the usual dataset against ours, with 1 and 2 workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from tools.bench.alternate import alternate
from tools.bench.page import Row, Topic
from tools.bench.photographs import photographs
from tools.bench.usual_crops import UsualDataset
from trex.config.schema import CropsConfig
from trex.datasets.split import Names, Split
from trex.loading.training import TrainingBatches

BATCH, ROUNDS = 32, 3
USUAL_BATCHES, OUR_BATCHES, FIRST = 6, 40, 4  #: measured batches of a round, and those before, which start the workers


def split_of(paths: list[Path], copies: int) -> Split:
    """The photographs as a training split, each several times."""
    names = [path.name for path in paths] * copies
    labels = np.zeros(len(names), np.int64)
    return Split("photographs", "trainval", ("a",), labels, Names(names), paths[0].parent)


def usual(paths: list[Path], workers: int) -> Callable[[int], float]:
    """Seconds per image of a DataLoader with `workers` processes."""

    def run(_round: int) -> float:
        dataset = UsualDataset(paths * 8, CropsConfig(), normalize=False)
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True)
        batches = iter(loader)
        return seconds(batches, USUAL_BATCHES)

    return run


def ours(split: Split, workers: int) -> Callable[[int], float]:
    """Seconds per image of our batches with `workers` processes."""

    def run(number: int) -> float:
        made = TrainingBatches(split, CropsConfig(), number, BATCH, 0, 1, workers)
        try:
            return seconds(made.starting_at(0, 0), OUR_BATCHES)
        finally:
            made.close()

    return run


def seconds(batches: Iterator[object], count: int) -> float:
    """Seconds per image of `count` batches, after the first ones and those that are ready then."""
    for _ in islice(batches, FIRST):
        pass
    began = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return (time.perf_counter() - began) / (count * BATCH)


def rows() -> Iterator[Row]:
    """One row per number of workers, and what a second worker adds."""
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder))
        split = split_of(paths, 20)
        for workers in (1, 2):
            clock = _Clock()
            times = alternate(
                clock.measuring(usual(paths, workers)), clock.measuring(ours(split, workers)), ROUNDS, clock.now
            )
            rates["usual", workers], rates["ours", workers] = 1 / times.usual_median, 1 / times.ours_median
            yield Row(
                what=f"{workers} worker{'s' * (workers > 1)}",
                usual=f"{rates['usual', workers]:.0f} images/s",
                ours=f"{rates['ours', workers]:.0f} images/s",
                ratio=times.spread,
                goal="≥ 6" if workers == 1 else "",
                quality="same crops as in the benchmark crops",
            )
    usual_gain, our_gain = (rates[who, 2] / rates[who, 1] for who in ("usual", "ours"))
    yield Row(
        what="2 workers / 1 worker",
        usual=f"{usual_gain:.2f}",
        ours=f"{our_gain:.2f}",
        ratio=f"{usual_gain / our_gain:.2f}",
        goal="ours ≥ 1.8",
        quality="the main process needs a part of a core too",
    )


class _Clock:
    """Counts only the seconds that the measured functions return: not those in which workers start."""

    def __init__(self) -> None:
        self.total = 0.0

    def measuring(self, run: Callable[[int], float]) -> Callable[[int], None]:
        """`run`, whose result is added to the clock."""

        def measured(number: int) -> None:
            self.total += run(number)

        return measured

    def now(self) -> float:
        """The sum of all results."""
        return self.total


TOPIC = Topic(
    title="Training batches from loader processes",
    about=(
        "Images per second at the output of a DataLoader whose consumer does nothing else, seconds that pass. Usual: a "
        "Dataset of PIL and torchvision's transforms, the default collate function, ToTensor without Normalize. Ours: "
        "the batches of the training, in bytes. Batches of 32 photographs of 500 × 375, crops of trex_star."
    ),
    rows=rows,
    cores=2,
)
