"""The batches of a training: whether they fit the data, the ranks and the machine."""

from __future__ import annotations

from trex.config.schema import Config
from trex.datasets.split import Split
from trex.distributed import Ranks
from trex.errors import UserError
from trex.interruption import StopRequest
from trex.loading.training import TrainingBatches
from trex.loading.workers import Wait, require_shared_memory


def make_batches(config: Config, images: Split, ranks: Ranks, stop: StopRequest | None = None) -> TrainingBatches:
    """Return this rank's batches. Every rank must call it.

    Raises:
        UserError: if the batch size is not a multiple of the number of ranks, or exceeds the number of images, or if
            the batches do not fit into the shared memory.
    """
    batch = config.train.batch_size
    if images.multi_label:
        raise UserError(
            f"data.dataset is {images.dataset}: its images may have several classes, and training needs one"
        )
    if batch % ranks.world:
        raise UserError(f"train.batch_size is {batch}: it must be a multiple of the number of processes, {ranks.world}")
    if batch > len(images):
        raise UserError(f"train.batch_size is {batch}, but {images.dataset} has only {len(images)} training images")
    wait = Wait(StopRequest() if stop is None else stop, lambda: ranks.limit.seconds)
    batches = TrainingBatches(
        images, config.crops, config.train.seed, batch, ranks.rank, ranks.world, config.data.workers,
        skip_broken=config.data.broken_images == "skip", wait=wait,
    )  # fmt: skip
    validation = batch // ranks.world * 3 * config.crops.global_size**2  # made while training batches are ready
    require_shared_memory(batches.batch_bytes + validation, config.data.workers, ranks.count_here(), "train.batch_size")
    return batches
