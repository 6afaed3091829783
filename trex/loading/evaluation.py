"""Batches for validation and feature extraction: every image once, in order."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from trex.datasets.split import Split
from trex.images.decode import ImageFault
from trex.images.evaluation import evaluation_image
from trex.images.preprocessing import Geometry
from trex.loading.workers import block_stop_signals, end_workers, fault_or, start_worker, worker_context

Sample = tuple[Tensor, int, int]  #: image, label, index


class _Evaluated(Dataset[Sample | ImageFault]):
    def __init__(self, split: Split, indices: np.ndarray, geometry: Geometry) -> None:
        self.split, self.indices, self.geometry = split, indices, geometry

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample | ImageFault:
        index = int(self.indices[position])
        try:
            image = evaluation_image(self.split.read(index), self.geometry)
        except ImageFault as fault:
            return fault
        return torch.from_numpy(image), int(self.split.labels[index]), index


def evaluation_batches(
    split: Split, indices: Sequence[int] | np.ndarray, geometry: Geometry, batch_size: int, workers: int
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """Batches of the images `indices` of `split`, in that order.

    Yields:
        images uint8 (B, 3, crop, crop), labels int64 (B,), indices int64 (B,); the last batch may be smaller.

    Raises:
        ImageFault: if an image cannot be read; the message names the file.
    """
    dataset = _Evaluated(split, np.asarray(indices, dtype=np.int64), geometry)
    workers = min(workers, len(dataset))
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context=worker_context(workers),
        worker_init_fn=start_worker,
        collate_fn=fault_or(default_collate),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not the global one, whose state is part of a training checkpoint
    )
    with block_stop_signals():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, ImageFault):
                raise batch
            yield tuple(batch)
    finally:
        end_workers(batches)
