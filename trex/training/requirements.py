"""What a training needs of its config, data and processes.

The training refuses what does not fit when it starts. `trex check` and a start on this machine ask the same functions
before a run folder exists. They import PyTorch only where the answer depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trex.config.schema import CheckpointConfig, Config
from trex.errors import UserError
from trex.loading.shared_memory import require_shared_memory
from trex.model.sizes import is_resnet
from trex.wording import counted

if TYPE_CHECKING:
    from trex.datasets.split import Split


def require_training(config: Config, world: int) -> None:
    """Raise the UserError with which a new training of `world` processes on this machine would end at its start."""
    from trex.datasets.registry import load_splits

    require_encoder(config)
    require_fallback_folder(config.checkpoint)
    require_batch(config, world, None)  # before the images are listed
    images = load_splits(config.data.dataset, config.data)["trainval"]
    require_batch(config, world, images)
    require_shared_memory(bytes_per_batch(config, world), config.data.workers, world, "train.batch_size")
    if config.train.start is not None:
        from trex.training.start import start_of

        start_of(config, images)


def require_encoder(config: Config) -> None:
    """Raise UserError if the encoder cannot be trained."""
    if not is_resnet(config.model.encoder):
        from trex.model.encoder import require_trainable

        require_trainable(config.model.encoder)


def require_batch(config: Config, world: int, images: Split | None) -> None:
    """Raise UserError if the batches do not fit the number of processes, or the images.

    Args:
        config: the config of the run.
        world: the number of training processes.
        images: the training images; None if they are not known here.
    """
    batch = config.train.batch_size
    if images is not None and images.multi_label:
        raise UserError(
            f"data.dataset is {images.dataset}: its images may have several classes, and training needs one"
        )
    if batch % world:
        raise UserError(f"train.batch_size is {batch}: it must be a multiple of the number of processes, {world}")
    if batch // world % config.train.accumulate:
        raise UserError(
            f"train.accumulate is {config.train.accumulate}: it must divide the {batch // world} images per step of a "
            f"process (train.batch_size {batch}, {counted(world, 'process')})"
        )
    if images is not None and batch > len(images):
        raise UserError(f"train.batch_size is {batch}, but {images.dataset} has only {len(images)} training images")


def require_fallback_folder(settings: CheckpointConfig) -> None:
    """Raise UserError if `checkpoint.fallback_folder` is set and is no folder on this machine."""
    folder = settings.fallback_folder
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UserError(
            f"checkpoint.fallback_folder is {Path(folder).expanduser()}: expected a folder that exists on every node "
            f"of the training, on another file system than the run"
        )


def bytes_per_batch(config: Config, world: int) -> int:
    """Return the bytes of a batch of one process: the crops, and the validation images that are made beside them."""
    crops = config.crops
    pixels = (crops.global_count + 1) * crops.global_size**2 + crops.local_count * crops.local_size**2
    return config.train.batch_size // world * 3 * pixels
