"""Multi-crop augmentation for training: crops of an image as uint8.

Training first draws the random parameters of all crops (`draws.draw_crops`), then applies them. The crops have the
distribution of torchvision's RandomResizedCrop, flip, ColorJitter and grayscale and Pillow's blur and solarize on PIL
images. All of it is compiled, which is several times faster (docs/adr/0034).
"""

from __future__ import annotations

import numpy as np

from trex.config.schema import CropsConfig
from trex.images import draws
from trex.images.color import apply_operations
from trex.images.compiled import compiled
from trex.images.resize import prepare, resize_box


def crop_shapes(config: CropsConfig) -> list[tuple[int, int]]:
    """The number of crops of an image and their side in pixels, for each resolution, the global crops first."""
    if config.global_size == config.local_size or config.local_count == 0:
        return [(config.global_count + config.local_count, config.global_size)]
    return [(config.global_count, config.global_size), (config.local_count, config.local_size)]


@compiled
def apply_crops(out: np.ndarray, place: int, image: np.ndarray, table: np.ndarray) -> None:
    """Make the crops of an image that a table describes.

    Args:
        out: uint8 (count, B, 3, S, S), C-contiguous; `out[:, place]` receives the crops.
        place: index of the image in its batch.
        image: what `resize.prepare` returned for the image.
        table: float64 (count, FIELDS), rows of `draws.draw_crops`.
    """
    for number in range(out.shape[0]):
        crop, draw = out[number, place], table[number]
        resize_box(crop, image, int(draw[draws.TOP]), int(draw[draws.LEFT]), int(draw[draws.HEIGHT]),
                   int(draw[draws.WIDTH]), draw[draws.FLIP] > 0)  # fmt: skip
        apply_operations(crop, draw)


def multi_crop_into(
    batch: list[np.ndarray], place: int, rgb: np.ndarray, config: CropsConfig, seed: int, epoch: int, index: int,
    unfinished: bool = False,
) -> np.ndarray:  # fmt: skip
    """Make all crops of one image, in its place of a batch. The result depends on the arguments only.

    Args:
        batch: per resolution (`crop_shapes`) uint8 (count, B, 3, S, S), C-contiguous.
        place: of the image in the batch.
        rgb: uint8 (H, W, 3).
        config: number, size and augmentation of the crops.
        seed: seed of the run.
        epoch: epoch, from 0.
        index: index of the image in its split.
        unfinished: whether the crops are only resized and flipped, and the rest is left to `trex.images.finish`.

    Returns:
        The draws, float64 (crops, draws.FIELDS), global crops first.
    """
    table = draws.draw_crops(rgb.shape[0], rgb.shape[1], config, seed, epoch, index)
    applied = draws.only_geometry(table) if unfinished else table
    image, begin = prepare(np.ascontiguousarray(rgb)), 0
    for out in batch:
        apply_crops(out, place, image, applied[begin : begin + len(out)])
        begin += len(out)
    return table


def multi_crop(rgb: np.ndarray, config: CropsConfig, seed: int, epoch: int, index: int) -> list[np.ndarray]:
    """Like `multi_crop_into`, but return one uint8 (count, 3, S, S) array per resolution, the global crops first."""
    crops = [np.empty((count, 1, 3, size, size), np.uint8) for count, size in crop_shapes(config)]
    multi_crop_into(crops, 0, rgb, config, seed, epoch, index)
    return [out[:, 0] for out in crops]
