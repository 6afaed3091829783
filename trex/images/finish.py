"""Finishes resized crops on the device of the training: jitter, gray, blur, solarize, a whole batch at a time.

The loader's processes then only decode, resize and flip (`crops.device`). The bytes are the same as theirs, so a run
may change between the two. The table of the draws is on the host, so nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from trex.images import batched_color as color
from trex.images import draws

#: The most numbers of the crops that an operation computes at a time; it needs about ten times as many bytes per byte.
_PIECE = 1 << 23

Operation = Callable[[Tensor, Tensor], Tensor]  #: crops, and their rows of the table, to new crops


def finish(images: Tensor, table: np.ndarray) -> Tensor:
    """Apply the color operations and the blur of all crops, in place.

    Args:
        images: uint8 (n, 3, S, S), resized and flipped.
        table: float64 (n, draws.FIELDS), the draws of these crops, on the host.

    Returns:
        `images`.
    """
    steps = [(operation, rows) for operation, rows in _steps(table) if len(rows)]
    if not steps:
        return images
    index = _sent(np.concatenate([rows for _, rows in steps]), images.device)
    numbers = _sent(table, images.device)
    most, begin = max(_PIECE // images[0].numel(), 1), 0
    for operation, rows in steps:
        for at in range(begin, begin + len(rows), most):
            piece = index[at : min(at + most, begin + len(rows))]
            made = operation(images.index_select(0, piece), numbers.index_select(0, piece))
            images.index_copy_(0, piece, made)
        begin += len(rows)
    return images


def _steps(table: np.ndarray) -> Iterator[tuple[Operation, np.ndarray]]:
    """The operations in their order, each with the numbers of the crops that it changes."""
    for place in range(draws.ORDER, draws.ORDER + 4):
        for number, operation in enumerate(_JITTER):
            yield operation, np.flatnonzero(table[:, place] == number)
    yield _to_gray, np.flatnonzero(table[:, draws.GRAYSCALE])
    reach = int(table[:, draws.FULL_PIXELS].max(initial=0)) + 1

    def blur(images: Tensor, rows: Tensor) -> Tensor:
        return color.blur(images, _weights(rows, reach))

    yield blur, np.flatnonzero(table[:, draws.RADIUS])
    yield _solarize, np.flatnonzero(table[:, draws.SOLARIZE])


def _brightness(images: Tensor, rows: Tensor) -> Tensor:
    return color.blend(images, torch.zeros(len(rows), device=rows.device), rows[:, draws.BRIGHTNESS].float())


def _contrast(images: Tensor, rows: Tensor) -> Tensor:
    return color.blend(images, color.mean_gray(images), rows[:, draws.CONTRAST].float())


def _saturation(images: Tensor, rows: Tensor) -> Tensor:
    return color.saturate(images, rows[:, draws.SATURATION].float())


def _hue(images: Tensor, rows: Tensor) -> Tensor:
    return color.shift_hue(images, rows[:, draws.SHIFT])


def _to_gray(images: Tensor, _rows: Tensor) -> Tensor:
    return color.to_gray(images)


def _solarize(images: Tensor, _rows: Tensor) -> Tensor:
    return color.solarize(images)


_JITTER: tuple[Operation, ...] = (_brightness, _contrast, _saturation, _hue)  # by their numbers in the table


def _weights(rows: Tensor, reach: int) -> Tensor:
    """The weights of each crop's box filter, int32 (n, reach + 1): see `batched_color.blur`."""
    distance = torch.arange(reach + 1, device=rows.device)
    full, weight, edge = (rows[:, column, None] for column in (draws.FULL_PIXELS, draws.WEIGHT, draws.EDGE_WEIGHT))
    return torch.where(distance <= full, weight, torch.where(distance == full + 1, edge, 0.0)).int()


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device, without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
