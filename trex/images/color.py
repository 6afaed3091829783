"""Compiled color operations on planar uint8 crops. Each works in place and gives the same bytes as Pillow.

A loop below uses one type, mostly float32, and has no branches: otherwise LLVM makes no vector instructions. Whole
numbers below 2^24 are exact in float32, so a crop is converted in blocks, all operations of a block are applied to
floats that are whole numbers, and it is converted back.
"""

from __future__ import annotations

import numpy as np

from trex.images.compiled import compiled
from trex.images.draws import (
    BRIGHTNESS,
    CONTRAST,
    EDGE_WEIGHT,
    FULL_PIXELS,
    GRAYSCALE,
    ORDER,
    RADIUS,
    SATURATION,
    SHIFT,
    SOLARIZE,
    WEIGHT,
)

BLOCK = 1024  #: pixels per block, so that the block's floats fit the processor's cache
_ZERO, _ONE, _MOST = np.float32(0), np.float32(1), np.float32(255)


@compiled
def apply_operations(planes: np.ndarray, draw: np.ndarray) -> None:
    """Jitter, gray, blur and solarize a crop, as drawn.

    Args:
        planes: uint8 (3, S, S), C-contiguous.
        draw: float64 (FIELDS,), a row of the table of `draws.draw_crops`.
    """
    flat = planes.reshape(3, planes.shape[1] * planes.shape[2])
    contrast = 4
    for place in range(4):
        if draw[ORDER + place] == 1:
            contrast = place
    mean = np.float32(0)
    if contrast < 4:
        total = _change_colors(flat, draw, 0, contrast, mean)
        mean = np.float32(int(total / flat.shape[1] + 0.5))
    if draw[ORDER] >= 0 or draw[GRAYSCALE] > 0:
        _change_colors(flat, draw, contrast % 4, 4, mean)
    if draw[RADIUS] > 0:
        blur(planes, int(draw[FULL_PIXELS]), np.uint32(draw[WEIGHT]), np.uint32(draw[EDGE_WEIGHT]))
    if draw[SOLARIZE] > 0:
        solarize(planes.reshape(planes.size))


@compiled
def _change_colors(flat: np.ndarray, draw: np.ndarray, begin: int, end: int, mean: np.float32) -> int:
    """Apply the operations `begin` to `end` of the jitter; if the last is among them, also gray.

    Args:
        flat: uint8 (3, pixels).
        draw: see `apply_operations`.
        begin: place of the first operation.
        end: place after the last one.
        mean: the gray level that a change of contrast keeps.

    Returns:
        The sum of the gray levels; 0 if the last operation is among them.
    """
    floats, total, is_last = np.empty((4, BLOCK), np.float32), 0, end == 4
    for first in range(0, flat.shape[1], BLOCK):
        last = min(first + BLOCK, flat.shape[1])
        n = last - first
        red, green, blue, gray = floats[0, :n], floats[1, :n], floats[2, :n], floats[3, :n]
        for c in range(3):
            _to_float(flat[c, first:last], floats[c, :n])
        for place in range(begin, end):
            _operate(int(draw[ORDER + place]), draw, red, green, blue, gray, mean)
        if not is_last or draw[GRAYSCALE] > 0:
            _to_gray(gray, red, green, blue)
        if not is_last:
            total += _sum(gray)
        if begin < end:
            is_gray = is_last and draw[GRAYSCALE] > 0
            for c in range(3):
                _to_bytes(gray if is_gray else floats[c, :n], flat[c, first:last])
    return total


@compiled
def _operate(operation: int, draw: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray, gray: np.ndarray,
             mean: np.float32) -> None:  # fmt: skip
    """Apply an operation of the jitter, 0 … 3 (none if -1), to a block. `gray` is space for its gray levels.

    The arrays are float32 (n,), each contiguous: rows of a part of a larger array are not, for the compiler.
    """
    if operation == 0 or operation == 1:  # noqa: PLR1714 - compiled code has no sets
        level = np.float32(mean if operation == 1 else _ZERO)
        factor = np.float32(draw[CONTRAST] if operation == 1 else draw[BRIGHTNESS])
        for values in (red, green, blue):
            _blend(values, level, factor)
    elif operation == 2:
        _to_gray(gray, red, green, blue)
        for values in (red, green, blue):
            _blend_with(values, gray, np.float32(draw[SATURATION]))
    elif operation == 3:
        _shift_hue(red, green, blue, np.float32(draw[SHIFT]))


@compiled
def _to_float(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = np.float32(source[x])


@compiled
def _to_bytes(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = np.uint8(np.int32(source[x]))


@compiled
def _sum(source: np.ndarray) -> int:
    total = np.int32(0)
    for x in range(source.size):
        total = np.int32(total + np.int32(source[x]))
    return int(total)


@compiled
def _to_gray(gray: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:
    """Gray level as in Pillow's convert("L"): ITU-R 601 weights in units of 1/65536, rounded."""
    for x in range(gray.size):
        level = red[x] * np.float32(19595) + green[x] * np.float32(38470) + blue[x] * np.float32(7471)
        gray[x] = np.floor((level + np.float32(32768)) * np.float32(1 / 65536))


@compiled
def _blend(values: np.ndarray, level: np.float32, factor: np.float32) -> None:
    """level + factor * (value - level), clamped to 0 … 255 and truncated, as in Image.blend.

    This is the change of brightness if `level` is 0, and of contrast if `level` is the mean gray.
    """
    for x in range(values.size):
        value = level + factor * (values[x] - level)
        value = value if value > _ZERO else _ZERO
        values[x] = np.floor(value if value < _MOST else _MOST)


@compiled
def _blend_with(values: np.ndarray, levels: np.ndarray, factor: np.float32) -> None:
    """`_blend` with a level for each value: the change of saturation if `levels` are the pixels' own gray."""
    for x in range(values.size):
        value = levels[x] + factor * (values[x] - levels[x])
        value = value if value > _ZERO else _ZERO
        values[x] = np.floor(value if value < _MOST else _MOST)


@compiled
def _shift_hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, shift: np.float32) -> None:
    """Convert to Pillow's uint8 HSV, add `shift` (in 1/255 turns, modulo 256) to the hue, and convert back to RGB.

    Hue and saturation are rounded to bytes as in Pillow; a float HSV would differ by several gray levels. Pillow
    computes partly in double precision. Here each step is a single rounding or exact, which gives the same bytes for
    all colors.
    """
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        top = max(r, max(g, b))  # noqa: PLW3301 - compiled as two maxima of vectors
        low = min(r, min(g, b))  # noqa: PLW3301
        spread = top - low
        part = (top - (r + g + b - top - low)) / max(spread, _ONE)  # how far the middle value is from the largest
        # Sixths of a turn: a whole number, plus or minus the part.
        of_red = _ONE - part if b == low else part - _ONE
        of_green = np.float32(3) - part if r == low else _ONE + part
        of_blue = np.float32(5) - part if g == low else np.float32(3) + part
        turn = (of_red if r == top else (of_green if g == top else of_blue)) / np.float32(6)
        turn = turn + _ONE if turn < _ZERO else turn
        # floor(255 * turn), without rounding the product
        scaled = turn * np.float32(256)
        hue = np.floor(scaled)
        hue = hue - _ONE if scaled - hue < turn else hue
        hue = hue + shift
        hue = hue - np.float32(256) if hue >= np.float32(256) else hue
        saturation = np.floor(spread * _MOST / max(top, _ONE))
        sixths = hue * np.float32(6)
        sector = np.floor((sixths + np.float32(0.5)) * np.float32(1 / 255))
        rest = sixths - sector * _MOST
        sector = _ZERO if sector == np.float32(6) else sector
        is_odd = sector == _ONE or sector == np.float32(3) or sector == np.float32(5)
        share = rest if is_odd else _MOST - rest
        # top * (1 - saturation / 255 * share / 255), rounded: a division by 65025, then corrected by 1 if need be
        numerator = top * (np.float32(65025) - saturation * share) + np.float32(32512)
        middle = np.floor(numerator * np.float32(1 / 65025))
        over = numerator - middle * np.float32(65025)
        middle = middle + _ONE if over >= np.float32(65025) else middle
        middle = middle - _ONE if over < _ZERO else middle
        low = np.floor((top * (_MOST - saturation) + np.float32(127.5)) * np.float32(1 / 255))
        red[x] = (middle if sector == _ONE or sector == np.float32(4) else
                  (low if sector == np.float32(2) or sector == np.float32(3) else top))  # fmt: skip
        green[x] = (middle if sector == _ZERO or sector == np.float32(3) else
                    (low if sector >= np.float32(4) else top))  # fmt: skip
        blue[x] = (middle if sector == np.float32(2) or sector == np.float32(5) else
                   (low if sector <= _ONE else top))  # fmt: skip


@compiled
def solarize(p: np.ndarray) -> None:
    """Invert all values ≥ 128 of uint8 (n,)."""
    for i in range(p.size):
        inverse = p[i] ^ np.uint8(255)
        p[i] = p[i] if p[i] < inverse else inverse


@compiled
def blur(planes: np.ndarray, full_pixels: int, weight: np.uint32, edge: np.uint32) -> None:
    """Pillow's GaussianBlur on uint8 (3, S, S) planes, bit for bit.

    It applies the box filter of `draws.box_of` three times along rows and three times along columns, rounds to bytes
    after each pass, and repeats the edge pixels. A plane has a margin for them here, so that a pass is one loop over
    all rows.

    Args:
        planes: the crop.
        full_pixels: of `draws.box_of`.
        weight: of these.
        edge: weight of the edge pixels.
    """
    side, margin = planes.shape[1], full_pixels + 1
    pitch = side + 2 * margin
    begin, end = margin * pitch, (margin + side) * pitch
    now, following, sums = np.zeros(pitch * pitch, np.uint8), np.zeros(pitch * pitch, np.uint8), np.empty(0, np.uint32)
    if full_pixels > 1:
        sums = np.empty(side * pitch, np.uint32)
    for c in range(3):
        for y in range(side):
            for x in range(side):
                now[begin + y * pitch + margin + x] = planes[c, y, x]
        for number in range(6):
            step = 1 if number < 3 else pitch
            _repeat_edges(now, begin, end, pitch, margin, step)
            _filter(following[begin:end], now, begin, step, full_pixels, weight, edge, sums)
            now, following = following, now
        for y in range(side):
            for x in range(side):
                planes[c, y, x] = now[begin + y * pitch + margin + x]


@compiled
def _repeat_edges(now: np.ndarray, begin: int, end: int, pitch: int, margin: int, step: int) -> None:
    """Fill the margins left and right (`step` 1) or above and below."""
    if step == 1:
        for row in range(begin, end, pitch):
            for k in range(margin):
                now[row + k] = now[row + margin]
                now[row + pitch - 1 - k] = now[row + pitch - 1 - margin]
    else:
        for k in range(margin):
            for x in range(pitch):
                now[k * pitch + x] = now[begin + x]
                now[end + k * pitch + x] = now[end - pitch + x]


@compiled
def _filter(out: np.ndarray, source: np.ndarray, at: int, step: int, full_pixels: int, weight: np.uint32,
            edge: np.uint32, sums: np.ndarray) -> None:  # fmt: skip
    """Write the weighted sums of the values around each of `source[at : at + n]`, `step` apart, as rounded bytes.

    With more than three pixels of full weight, `sums` is needed, uint32 of the size of `out`.
    """
    n, half = out.size, np.uint32(1 << 23)
    reach = full_pixels + 1
    first, last = source[at - reach * step :][:n], source[at + reach * step :][:n]
    if full_pixels == 0:
        middle = source[at:][:n]
        for x in range(n):
            edges = np.uint32(np.uint32(first[x]) + np.uint32(last[x]))
            out[x] = np.uint32(np.uint32(middle[x]) * weight + edges * edge + half) >> np.uint32(24)
    elif full_pixels == 1:
        left, middle, right = source[at - step :][:n], source[at:][:n], source[at + step :][:n]
        for x in range(n):
            edges = np.uint32(np.uint32(first[x]) + np.uint32(last[x]))
            full = np.uint32(np.uint32(left[x]) + np.uint32(middle[x]) + np.uint32(right[x]))
            out[x] = np.uint32(full * weight + edges * edge + half) >> np.uint32(24)
    else:
        for x in range(n):
            sums[x] = (np.uint32(first[x]) + np.uint32(last[x])) * edge + half
        for k in range(-full_pixels, full_pixels + 1):
            full_pixel = source[at + k * step :][:n]
            for x in range(n):
                sums[x] += np.uint32(full_pixel[x]) * weight
        for x in range(n):
            out[x] = sums[x] >> np.uint32(24)
