"""Training batches. Stateless worker processes decode and crop the images.

The sampler yields (epoch, image index) pairs, so the same workers serve all epochs, and any batch can be made again
from its epoch and step. This makes resuming exact (docs/adr/0003).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trex.config.schema import CropsConfig
from trex.datasets.split import Split
from trex.images.crops import multi_crop
from trex.images.decode import ImageFault
from trex.loading.order import epoch_order
from trex.loading.shared_memory import PREFETCH
from trex.loading.workers import (
    Wait,
    block_stop_signals,
    end_workers,
    fault_or,
    received,
    start_worker,
    worker_context,
)

SampleIndex = tuple[int, int]  #: (epoch, image index)
Sample = tuple[list[np.ndarray], int, list[ImageFault]]  #: crops, label, broken images that this one replaces


class Batch(NamedTuple):
    """The batch of one rank for one step."""

    crops: tuple[Tensor, ...]  #: one uint8 (count * B, 3, S, S) per resolution, crop-major, global crops first
    labels: Tensor  #: int64 (B,)
    epoch: int
    step: int  #: within the epoch
    broken: tuple[ImageFault, ...] = ()  #: the images of this batch that others replace


class TrainingBatches:
    """The batches of one rank for all epochs.

    Each global batch is divided into `world` equal consecutive parts, and rank r gets part r. So the batches of all
    ranks together are the batch of a single process.

    With `skip_broken`, the next image of the split that can be read takes the place of a broken image. This depends on
    the files only, so it is the same in every worker, rank and resumed run. In a split that is sorted by class, it is
    mostly an image of the same class.
    """

    def __init__(
        self, split: Split, crops: CropsConfig, seed: int, batch_size: int, rank: int, world: int, workers: int,
        skip_broken: bool = False, wait: Wait | None = None,
    ) -> None:  # fmt: skip
        assert batch_size % world == 0, "the global batch must be divisible by the number of ranks"
        self.split, self.crops, self.seed, self.batch_size = split, crops, seed, batch_size
        self.rank, self.world, self.workers, self.skip_broken = rank, world, workers, skip_broken
        self.wait = wait or Wait()
        self.steps_per_epoch = len(split) // batch_size
        self._context = worker_context(workers)  # here, so that its server is ready when the first batch is needed
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
            _Cropped(self.split, self.crops, self.seed, self.skip_broken),
            batch_sampler=_BatchSampler(self, epoch, step),
            num_workers=self.workers,
            multiprocessing_context=self._context,
            worker_init_fn=start_worker,
            collate_fn=fault_or(_collate),
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
            crops, labels, broken = made
            yield Batch(tuple(crops), labels, epoch, step, tuple(broken))
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


class _Cropped(Dataset[Sample | ImageFault]):
    def __init__(self, split: Split, crops: CropsConfig, seed: int, skip_broken: bool) -> None:
        self.split, self.crops, self.seed, self.skip_broken = split, crops, seed, skip_broken

    def __getitem__(self, sample_index: SampleIndex) -> Sample | ImageFault:
        epoch, index = sample_index
        broken: list[ImageFault] = []
        for place in range(index, index + len(self.split)):
            shown = place % len(self.split)
            try:
                rgb = self.split.read(shown, fast=True)
            except ImageFault as fault:
                if not (self.skip_broken and fault.broken):
                    return fault
                broken.append(fault)
            else:
                # The augmentation is that of the replaced image, so that no crop occurs twice in an epoch.
                return multi_crop(rgb, self.crops, self.seed, epoch, index), int(self.split.labels[shown]), broken
        return broken[0]


def _collate(samples: list[Sample]) -> tuple[list[Tensor], Tensor, list[ImageFault]]:
    """Stack the images' crops (count, 3, S, S) to one crop-major tensor (count * B, 3, S, S) per resolution."""
    crops = []
    for resolution in range(len(samples[0][0])):
        stacked = np.stack([sample[0][resolution] for sample in samples], axis=1)
        crops.append(torch.from_numpy(stacked.reshape(-1, *stacked.shape[2:])))
    labels = torch.tensor([sample[1] for sample in samples], dtype=torch.int64)
    return crops, labels, [fault for sample in samples for fault in sample[2]]
