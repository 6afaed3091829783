"""Cuts a box out of an image and resizes it, as torch's antialiased bicubic interpolation of uint8 does, bit for bit.

Rows are weighted first, then columns; each result is rounded to a byte. The weights have 16 bits. The image is prepared
once for all of its crops: transposed, so that the sum over a row's pixels is one over vectors of rows, and in pairs of
pixels, of which one instruction multiplies and adds both.
"""

from __future__ import annotations

import numpy as np

from trex.images.compiled import compiled
from trex.images.vectors import LANES, PIXELS, ROWS, transpose_pairs, transpose_pixels, weighted_sum


@compiled
def prepare(rgb: np.ndarray) -> np.ndarray:
    """Transpose an image for `resize_box`.

    Args:
        rgb: uint8 (H, W, 3), C-contiguous.

    Returns:
        uint8 (ceil(W / 2) * 3, 2 * H + a margin): row 3p + c has the values of channel c of the pixels 2p and 2p + 1 of
        each row of the image, alternating.
    """
    height, width = rgb.shape[0], rgb.shape[1]
    stride, pitch = 2 * (height + LANES), 3 * width
    pairs = np.empty(((width + 1) // 2 * 3, stride), np.uint8)
    whole_rows, whole_columns = height >= ROWS, width // PIXELS * PIXELS if height >= ROWS else 0
    if whole_rows:
        for x in range(0, whole_columns, PIXELS):
            for row in range(0, height, ROWS):
                y = min(row, height - ROWS)
                transpose_pixels(pairs, x // 2 * 3 * stride + 2 * y, stride, rgb, y * pitch + 3 * x, pitch)
    for x in range(whole_columns, width):
        for c in range(3):
            row_of_pairs = pairs[x // 2 * 3 + c]
            for y in range(height):
                row_of_pairs[2 * y + x % 2] = rgb[y, x, c]
    return pairs


@compiled
def _weights(first: np.ndarray, pairs: np.ndarray, table: np.ndarray, size_in: int, offset: int) -> int:
    """Compute the weights of bicubic interpolation (a = -1/2), whose filter is as wide as an output pixel.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981.

    Args:
        first: int64 (S,), receives the first pair of each output pixel.
        pairs: int64 (S,), receives their number.
        table: int32 (S, N), receives the weights of each pair: two int16, the first in the lower half.
        size_in: pixels of the box along this axis; S are those of the result.
        offset: the place of the box's first pixel.

    Returns:
        The precision: weights are in units of 1 / 2^precision.
    """
    size = first.size
    exact = np.zeros((size, 2 * table.shape[1]))
    scale = size_in / size
    wide = max(scale, 1.0)
    support, narrow = 2.0 * wide, 1.0 / wide
    largest = 0.0
    for x in range(size):
        center = scale * (x + 0.5)
        begin = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), size_in) - begin
        odd = (begin + offset) % 2
        first[x], pairs[x] = (begin + offset) // 2, (odd + count + 1) // 2
        row = exact[x, odd : odd + count]
        for k in range(count):
            d = abs((k + begin - center + 0.5) * narrow)
            near = (1.5 * d - 2.5) * d * d + 1.0
            far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
            row[k] = near if d < 1.0 else (far if d < 2.0 else 0.0)
        total = 0.0
        for k in range(count):
            total += row[k]
        for k in range(count):
            row[k] /= total
            largest = max(largest, row[k])
    precision = 0
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    for x in range(size):
        for k in range(pairs[x]):
            one, other = exact[x, 2 * k] * (1 << precision), exact[x, 2 * k + 1] * (1 << precision)
            lower, upper = int(one - 0.5 if one < 0 else one + 0.5), int(other - 0.5 if other < 0 else other + 0.5)
            table[x, k] = np.int32((upper << 16) | (lower & 0xFFFF))
    return precision


@compiled
def resize_box(out: np.ndarray, image: np.ndarray, top: int, left: int, height: int, width: int, flip: bool) -> None:
    """Resize a box of an image.

    Args:
        out: uint8 (3, S, S), receives the result.
        image: what `prepare` returned.
        top: of the box, pixels; as left, height and width.
        left: see top.
        height: see top.
        width: see top.
        flip: whether left and right are exchanged after the resize.
    """
    size, stride = out.shape[1], image.shape[1]
    first, pairs = np.empty(size, np.int64), np.empty(size, np.int64)
    table = np.empty((size, 2 * (max(height, width) // size + 2) + 2), np.int32)
    lanes, side = (height + LANES - 1) // LANES * LANES, (size + LANES - 1) // LANES * LANES
    precision = _weights(first, pairs, table, width, left)
    rows = np.empty((3 * side, lanes), np.uint8)
    for x in range(size):
        at = size - 1 - x if flip else x
        for c in range(3):
            begin = (3 * first[x] + c) * stride + 2 * top
            for y in range(0, lanes, LANES):
                weighted_sum(rows, (c * side + at) * lanes + y, image, begin + 2 * y, 3 * stride, table,
                             x * table.shape[1], pairs[x], precision)  # fmt: skip
    pitch = 6 * side
    upright = np.empty((lanes // 2, pitch), np.uint8)
    for x in range(0, 3 * side, 8):
        for y in range(0, lanes, 16):
            transpose_pairs(upright, y // 2 * pitch + 2 * x, pitch, rows, x * lanes + y, lanes)
    precision = _weights(first, pairs, table, height, 0)
    whole = out if side == size else np.empty((3, size, side), np.uint8)
    for y in range(size):
        for c in range(3):
            for x in range(0, side, LANES):
                weighted_sum(whole, (c * size + y) * side + x, upright, first[y] * pitch + 2 * (c * side + x), pitch,
                             table, y * table.shape[1], pairs[y], precision)  # fmt: skip
    if side != size:
        _cut(whole, out)


@compiled
def _cut(source: np.ndarray, target: np.ndarray) -> None:
    """Copy the first columns of each row."""
    for c in range(3):
        for y in range(target.shape[1]):
            for x in range(target.shape[2]):
                target[c, y, x] = source[c, y, x]
