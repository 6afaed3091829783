"""The batches of a training: whether they fit the data, the ranks and the machine."""

from __future__ import annotations

import os

from trex.config.schema import Config
from trex.datasets.split import Split
from trex.distributed import Ranks
from trex.errors import UserError
from trex.interruption import StopRequest
from trex.loading.shared_memory import require_shared_memory
from trex.loading.training import TrainingBatches
from trex.loading.workers import Wait
from trex.training.requirements import bytes_per_batch, require_batch

#: Loader processes, each on its CPU, that make whole crops in time for one GPU (docs/performance.md).
ENOUGH_CPUS = 8


def make_batches(config: Config, images: Split, ranks: Ranks, stop: StopRequest | None = None) -> TrainingBatches:
    """Return this rank's batches. Every rank must call it.

    Raises:
        UserError: if the batch size is not a multiple of the number of ranks, or exceeds the number of images, or if
            the batches do not fit into the shared memory.
    """
    require_batch(config, ranks.world, images)
    size, workers = bytes_per_batch(config, ranks.world), config.data.workers
    require_shared_memory(size, workers, ranks.count_here(), "train.batch_size")
    wait = Wait(StopRequest() if stop is None else stop, lambda: ranks.limit.seconds)
    return TrainingBatches(
        images, config.crops, config.train.seed, config.train.batch_size, ranks.rank, ranks.world, workers,
        skip_broken=config.data.broken_images == "skip", wait=wait, unfinished=finishes_on_gpu(config, ranks),
    )  # fmt: skip


def finishes_on_gpu(config: Config, ranks: Ranks) -> bool:
    """Return whether the colors of the crops are changed on the GPU: see `crops.device`.

    Raises:
        UserError: if that is asked for and there is no GPU.
    """
    if config.crops.device == "cuda" and ranks.device.type != "cuda":
        raise UserError("crops.device is cuda, but this training has no GPU: set it to auto or cpu")
    if config.crops.device == "auto":
        busy = min(config.data.workers, len(os.sched_getaffinity(0)))
        return ranks.device.type == "cuda" and busy < ENOUGH_CPUS
    return config.crops.device == "cuda"
