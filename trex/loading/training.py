"""Training batches. Stateless worker processes decode and crop the images.

The sampler yields (epoch, image index) pairs, so the same workers serve all epochs, and any batch can be made again
from its epoch and step. This makes resuming exact (docs/adr/0003).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from trex.config.schema import CropsConfig
from trex.datasets.split import Split
from trex.images import draws
from trex.images.crops import crop_shapes, multi_crop_into
from trex.images.decode import RGB, ImageFault
from trex.loading.order import epoch_order
from trex.loading.shared_memory import PREFETCH
from trex.loading.workers import (
    Wait,
    block_stop_signals,
    end_workers,
    received,
    start_worker,
    worker_context,
)

SampleIndex = tuple[int, int]  #: (epoch, image index)
#: Crops, labels, broken images and draws of a batch.
Made = tuple[list[Tensor], Tensor, list[ImageFault], list[np.ndarray]]


class Batch(NamedTuple):
    """The batch of one rank for one step."""

    crops: tuple[Tensor, ...]  #: one uint8 (count * B, 3, S, S) per resolution, crop-major, global crops first
    labels: Tensor  #: int64 (B,)
    epoch: int
    step: int  #: within the epoch
    broken: tuple[ImageFault, ...] = ()  #: the images of this batch that others replace
    #: Per resolution the draws of its crops, float64 (count * B, draws.FIELDS), if their colors are still to be changed
    #: (`trex.images.finish`); otherwise empty.
    draws: tuple[np.ndarray, ...] = ()


class TrainingBatches:
    """The batches of one rank for all epochs.

    Each global batch is divided into `world` equal consecutive parts, and rank r gets part r. So the batches of all
    ranks together are the batch of a single process.

    With `skip_broken`, the next image of the split that can be read takes the place of a broken image. This depends on
    the files only, so it is the same in every worker, rank and resumed run. In a split that is sorted by class, it is
    mostly an image of the same class.

    With `unfinished`, the crops are only resized and flipped, and the batches have their draws.
    """

    def __init__(
        self, split: Split, crops: CropsConfig, seed: int, batch_size: int, rank: int, world: int, workers: int,
        skip_broken: bool = False, wait: Wait | None = None, unfinished: bool = False,
    ) -> None:  # fmt: skip
        assert batch_size % world == 0, "the global batch must be divisible by the number of ranks"
        self.split, self.crops, self.seed, self.batch_size = split, crops, seed, batch_size
        self.rank, self.world, self.workers, self.skip_broken = rank, world, workers, skip_broken
        self.wait, self.unfinished = wait or Wait(), unfinished
        self.steps_per_epoch = len(split) // batch_size
        # Here, so that its server is ready when the first batch is needed.
        self._context = worker_context(workers, crops=True)
        self._batches: object = None

    def starting_at(self, epoch: int, step: int) -> Iterator[Batch | None]:
        """Yields batches endlessly, beginning with step `step` of epoch `epoch`. Ends the workers of an earlier call.

        While a stop is requested, it yields None instead of waiting for a batch, and the batch later.

        Raises:
            TrexError: if a worker process has ended, or has not made its batch in time; the message names it.
            ImageFault: if an image cannot be read; the message names the file. With `skip_broken`, only if the image
                is not broken but its file is missing or cannot be read, or if all images are broken.
        """
        self.close()
        loader = DataLoader(
            _Cropped(self.split, self.crops, self.seed, self.skip_broken, self.unfinished),
            batch_sampler=_BatchSampler(self, epoch, step),
            num_workers=self.workers,
            multiprocessing_context=self._context,
            worker_init_fn=start_worker,
            collate_fn=_as_made,  # type: ignore[arg-type]
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # starting a loader must not change the global random state
            prefetch_factor=PREFETCH if self.workers else None,
        )
        with block_stop_signals():
            self._batches = batches = iter(loader)
        for made in received(batches, self.wait):
            if made is None:
                yield None
                continue
            if isinstance(made, ImageFault):
                raise made
            crops, labels, broken, tables = made
            yield Batch(tuple(crops), labels, epoch, step, tuple(broken), tuple(tables))
            step += 1
            if step == self.steps_per_epoch:
                epoch, step = epoch + 1, 0

    def sample_indices(self, epoch: int, step: int) -> Iterator[list[SampleIndex]]:
        """Yields the samples of each batch endlessly, beginning with step `step` of epoch `epoch`."""
        per_rank = self.batch_size // self.world
        while True:
            order = epoch_order(len(self.split), self.seed, epoch)
            for number in range(step, self.steps_per_epoch):
                begin = number * self.batch_size + self.rank * per_rank
                yield [(epoch, int(index)) for index in order[begin : begin + per_rank]]
            epoch, step = epoch + 1, 0

    def close(self) -> None:
        """End the worker processes."""
        if self._batches is not None:
            end_workers(self._batches)
            self._batches = None


class _BatchSampler(Sampler[list[SampleIndex]]):
    def __init__(self, batches: TrainingBatches, epoch: int, step: int) -> None:
        self.batches, self.epoch, self.step = batches, epoch, step

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        return self.batches.sample_indices(self.epoch, self.step)


class _Cropped(Dataset[Made]):
    """Makes whole batches, in memory that the worker shares with its rank, so that no crop is copied."""

    def __init__(self, split: Split, crops: CropsConfig, seed: int, skip_broken: bool, unfinished: bool) -> None:
        self.split, self.crops, self.seed, self.skip_broken = split, crops, seed, skip_broken
        self.unfinished = unfinished

    def __getitems__(self, indices: list[SampleIndex]) -> Made | ImageFault:
        """The batch of these samples; or a fault, because DataLoader would wrap its message in a traceback."""
        shapes = crop_shapes(self.crops)
        tensors = [_empty((count, len(indices), 3, size, size)) for count, size in shapes]
        arrays, labels = [tensor.numpy() for tensor in tensors], []
        tables = [np.empty((count, len(indices), draws.FIELDS)) for count, _ in shapes]
        broken: list[ImageFault] = []
        for place, (epoch, index) in enumerate(indices):
            try:
                rgb, shown = self._read(index, broken)
            except ImageFault as fault:
                return fault
            # The augmentation is that of the replaced image, so that no crop occurs twice in an epoch.
            drawn = multi_crop_into(arrays, place, rgb, self.crops, self.seed, epoch, index, self.unfinished)
            begin = 0
            for table in tables:
                table[:, place], begin = drawn[begin : begin + len(table)], begin + len(table)
            labels.append(int(self.split.labels[shown]))
        left = [table.reshape(-1, draws.FIELDS) for table in tables] if self.unfinished else []
        return [tensor.flatten(0, 1) for tensor in tensors], torch.tensor(labels, dtype=torch.int64), broken, left

    def _read(self, index: int, broken: list[ImageFault]) -> tuple[RGB, int]:
        """Image `index`, or the one that takes its place, and its index. Broken images are added to `broken`."""
        count = len(self.split)
        for shown in (place % count for place in range(index, index + count)):
            try:
                return self.split.read(shown, fast=True), shown
            except ImageFault as fault:
                if not (self.skip_broken and fault.broken):
                    raise
                broken.append(fault)
        raise broken[-count]


def _as_made(made: Made | ImageFault) -> Made | ImageFault:
    """`collate_fn` for batches that are complete."""
    return made


def _empty(shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor, in a worker process in memory that is handed over without a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
