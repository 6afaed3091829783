"""Batches for validation and feature extraction: every image once, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trex.datasets.split import Split
from trex.images.decode import ImageFault
from trex.images.evaluation import evaluation_image
from trex.images.preprocessing import Geometry
from trex.loading.shared_memory import PREFETCH
from trex.loading.workers import Wait, block_stop_signals, end_workers, received, start_worker, worker_context

EvaluationBatch = tuple[Tensor, Tensor, Tensor]  #: images, labels, indices
Sample = tuple[np.ndarray, np.ndarray, int]  #: image, label or (K,) labels, index


class Part(NamedTuple):
    """What a loader process hands over: the images of one list that could be read, and the faults of the others."""

    images: Tensor  #: uint8 (n, 3, crop, crop)
    labels: Tensor  #: int64 (n,) or int8 (n, K)
    indices: Tensor  #: int64 (n,)
    faults: list[ImageFault]


class _Evaluated(Dataset[Sample | ImageFault]):
    def __init__(self, split: Split, geometry: Geometry) -> None:
        self.split, self.geometry = split, geometry

    def __getitem__(self, index: int) -> Sample | ImageFault:
        try:
            image = evaluation_image(self.split.read(index), self.geometry)
        except ImageFault as fault:
            return fault
        return image, self.split.labels[index], index


class _Lists(Sampler[list[int]]):
    def __init__(self, lists: Sequence[np.ndarray]) -> None:
        self.lists = lists

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self.lists)


def evaluation_parts(
    split: Split, lists: Sequence[np.ndarray], geometry: Geometry, workers: int, wait: Wait | None = None
) -> Generator[Part | None, None, None]:
    """The images of each of the `lists`, in that order, from one set of loader processes.

    Args:
        split: the images.
        lists: the indices of the images of each part, int64 (n,).
        geometry: resize and crop.
        workers: loader processes; 0: the images are read in this process.
        wait: how long to wait for a part.

    Yields:
        one part per list. While a stop is requested: None instead of a part that would have to be waited for.

    Raises:
        TrexError: if a worker process has ended, or has not made its part in time; the message names it.
    """
    workers = min(workers, len(lists))
    loader = DataLoader(
        _Evaluated(split, geometry),
        batch_sampler=_Lists(lists),
        num_workers=workers,
        multiprocessing_context=worker_context(workers),
        worker_init_fn=start_worker,
        collate_fn=_Collate(geometry.crop, split.labels),
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not the global one, whose state is part of a training checkpoint
    )
    with block_stop_signals():
        batches = iter(loader)
    try:
        for made in received(batches, wait or Wait()):
            if made is None:
                yield None
                continue
            images, labels, indices, faults = made
            yield Part(images, torch.from_numpy(labels), torch.from_numpy(indices), faults)
    finally:
        end_workers(batches)


def evaluation_batches(
    split: Split,
    indices: Sequence[int] | np.ndarray,
    geometry: Geometry,
    batch_size: int,
    workers: int,
    on_broken: Callable[[ImageFault], object] | None = None,
    wait: Wait | None = None,
) -> Generator[EvaluationBatch | None, None, None]:
    """Batches of the images `indices` of `split`, in that order.

    If `on_broken` is given, it is called for each broken image, and the batch lacks that image; a batch may be empty.

    Yields:
        images uint8 (B, 3, crop, crop), labels int64 (B,) or int8 (B, K), indices int64 (B,); the last
        batch may be smaller. While a stop is requested: None instead of a batch that would have to be waited for.

    Raises:
        TrexError: if a worker process has ended, or has not made its batch in time; the message names it.
        ImageFault: if an image cannot be read; the message names the file. With `on_broken`, only if the image is not
            broken but its file is missing or cannot be read.
    """
    lists = in_parts(np.asarray(indices, dtype=np.int64), batch_size)
    with contextlib.closing(evaluation_parts(split, lists, geometry, workers, wait)) as parts:
        for part in parts:
            if part is None:
                yield None
                continue
            for fault in part.faults:
                if on_broken is None or not fault.broken:
                    raise fault
                on_broken(fault)
            yield part.images, part.labels, part.indices


def in_parts(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide indices, int64 (n,), into consecutive lists of `size`; the last one may be shorter."""
    return [indices[begin : begin + size] for begin in range(0, len(indices), size)]


class _Collate:
    """Collates the images of a part that could be read, and lists the faults of the others.

    If a worker raised a fault instead, DataLoader would wrap its message in a traceback. Only the images are a tensor,
    because each tensor is handed over through a file of its own, with several messages between the processes.
    """

    def __init__(self, crop: int, labels: np.ndarray) -> None:
        self.crop, self.no_labels = crop, labels[:0]

    def __call__(self, samples: list[Sample | ImageFault]) -> tuple[Tensor, np.ndarray, np.ndarray, list[ImageFault]]:
        faults = [sample for sample in samples if isinstance(sample, ImageFault)]
        read = [sample for sample in samples if not isinstance(sample, ImageFault)]
        images = np.array([image for image, _, _ in read], np.uint8).reshape(len(read), 3, self.crop, self.crop)
        labels = np.array([label for _, label, _ in read], self.no_labels.dtype)
        labels = labels.reshape(len(read), *self.no_labels.shape[1:])
        return torch.from_numpy(images), labels, np.array([index for _, _, index in read], np.int64), faults
