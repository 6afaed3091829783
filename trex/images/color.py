"""Compiled color operations on planar uint8 crops. Each works in place and gives the same bytes as Pillow.

`p` is a complete crop, (3 * n,) uint8; `r`, `g`, `b` are its planes, (n,) uint8 each.
"""

from __future__ import annotations

import numpy as np

from trex.images.compiled import compiled

Plane = np.ndarray


@compiled
def gray_of(r: int, g: int, b: int) -> int:
    """Gray level as in Pillow's convert("L"): ITU-R 601 weights in units of 1/65536, rounded."""
    return (np.int32(r) * 19595 + np.int32(g) * 38470 + np.int32(b) * 7471 + 32768) >> 16  # type: ignore[return-value]


@compiled
def blend(p: Plane, gray: np.float32, factor: np.float32) -> None:
    """gray + factor * (pixel - gray), clamped to 0 … 255 and truncated, as in Image.blend.

    This is the change of brightness if `gray` is 0, and of contrast if `gray` is the mean gray.
    """
    for i in range(p.size):
        value = gray + factor * (np.float32(p[i]) - gray)
        p[i] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@compiled
def mean_gray(r: Plane, g: Plane, b: Plane) -> int:
    """Mean gray level, rounded: the level that a change of contrast keeps."""
    total = np.int64(0)
    for i in range(r.size):
        total += gray_of(r[i], g[i], b[i])
    return int(total / r.size + 0.5)


@compiled
def saturate(r: Plane, g: Plane, b: Plane, factor: np.float32) -> None:
    """Blend each pixel with its own gray."""
    low, high = np.float32(0), np.float32(255)
    for i in range(r.size):
        gray = np.float32(gray_of(r[i], g[i], b[i]))
        r[i] = np.uint8(min(max(gray + factor * (np.float32(r[i]) - gray), low), high))
        g[i] = np.uint8(min(max(gray + factor * (np.float32(g[i]) - gray), low), high))
        b[i] = np.uint8(min(max(gray + factor * (np.float32(b[i]) - gray), low), high))


@compiled
def to_gray(r: Plane, g: Plane, b: Plane) -> None:
    """Replace each pixel by its gray."""
    for i in range(r.size):
        gray = np.uint8(gray_of(r[i], g[i], b[i]))
        r[i] = gray
        g[i] = gray
        b[i] = gray


@compiled
def solarize(p: Plane) -> None:
    """Invert all values ≥ 128."""
    for i in range(p.size):
        if p[i] >= 128:
            p[i] = np.uint8(255 - p[i])


# Each loop below uses one type. The compiler does not vectorize a loop that mixes bytes with floats or 32-bit integers,
# which makes it four times slower.


@compiled
def _to_float(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = np.float32(source[x])


@compiled
def _to_bytes(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = np.uint8(min(source[x] + np.float32(0.5), np.float32(255)))


@compiled
def _to_words(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = source[x]


@compiled
def _from_words(source: np.ndarray, target: np.ndarray) -> None:
    for x in range(source.size):
        target[x] = source[x]


@compiled
def _weighted(target: np.ndarray, source: np.ndarray, weight: int) -> None:
    factor = np.uint32(weight)
    for x in range(target.size):
        target[x] = source[x] * factor


@compiled
def _add_pair(target: np.ndarray, one: np.ndarray, other: np.ndarray, weight: int) -> None:
    factor = np.uint32(weight)
    for x in range(target.size):
        target[x] += (one[x] + other[x]) * factor


@compiled
def _rounded(row: np.ndarray) -> None:
    for x in range(row.size):
        row[x] = (row[x] + np.uint32(1 << 23)) >> np.uint32(24)


@compiled
def blur(planes: np.ndarray, full_pixels: int, weight: int, edge_weight: int) -> None:
    """Pillow's GaussianBlur on (3, S, S) planes, bit for bit.

    It applies the box filter of `draws.box_of` three times along rows and three times along columns, rounds to bytes
    after each pass, and repeats the edge pixels.
    """
    side = planes.shape[1]
    reach = full_pixels + 1
    now = np.empty((side, side), np.uint32)
    before = np.empty((side, side), np.uint32)
    line = np.empty(side + 2 * reach, np.uint32)
    for c in range(3):
        _to_words(planes[c].reshape(-1), now.reshape(-1))
        for y in range(side):
            row = now[y]
            for _ in range(3):
                middle = line[reach : reach + side]
                _to_words(row, middle)
                for k in range(reach):
                    line[k] = row[0]
                    line[reach + side + k] = row[side - 1]
                _weighted(row, middle, weight)
                for k in range(1, reach + 1):
                    left, right = line[reach - k : reach - k + side], line[reach + k : reach + k + side]
                    _add_pair(row, left, right, weight if k <= full_pixels else edge_weight)
                _rounded(row)
        for _ in range(3):
            now, before = before, now
            for y in range(side):
                row = now[y]
                _weighted(row, before[y], weight)
                for k in range(1, reach + 1):
                    above, below = before[max(0, y - k)], before[min(side - 1, y + k)]
                    _add_pair(row, above, below, weight if k <= full_pixels else edge_weight)
                _rounded(row)
        _from_words(now.reshape(-1), planes[c].reshape(-1))


BLOCK = 1024  #: pixels per block, so that the block's floats fit the processor's cache


@compiled
def shift_hue(r: Plane, g: Plane, b: Plane, shift: int) -> None:
    """Convert to Pillow's uint8 HSV, add `shift` (in 1/255 turns, modulo 256) to the hue, and convert back to RGB.

    Hue and saturation are rounded to bytes as in Pillow; a float HSV would differ by several gray levels.
    """
    floats = np.empty((3, BLOCK), np.float32)
    for begin in range(0, r.size, BLOCK):
        end = min(begin + BLOCK, r.size)
        red, green, blue = floats[0, : end - begin], floats[1, : end - begin], floats[2, : end - begin]
        _to_float(r[begin:end], red)
        _to_float(g[begin:end], green)
        _to_float(b[begin:end], blue)
        _shift_hue(red, green, blue, np.float64(shift))
        _to_bytes(red, r[begin:end])
        _to_bytes(green, g[begin:end])
        _to_bytes(blue, b[begin:end])


@compiled
def _shift_hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, shift: np.float64) -> None:
    """`shift_hue` on float32 planes of whole numbers, without branches, so that the compiler vectorizes the loop.

    The casts between float and double are those of Pillow, because they decide how values are rounded.
    """
    one = np.float32(1)
    for i in range(red.size):
        top = max(red[i], green[i], blue[i])
        spread = top - min(red[i], green[i], blue[i])
        divisor = max(spread, one)
        to_red, to_green, to_blue = (top - red[i]) / divisor, (top - green[i]) / divisor, (top - blue[i]) / divisor
        from_green = np.float32(2.0 + np.float64(to_red) - np.float64(to_blue))
        from_blue = np.float32(4.0 + np.float64(to_green) - np.float64(to_red))
        hue = to_blue - to_green if red[i] == top else (from_green if green[i] == top else from_blue)
        turn = np.float64(hue) / 6.0 + 1.0
        turn = np.float64(np.float32(turn - np.floor(turn)))
        hue_byte = np.floor(turn * 255.0) + shift
        hue_byte = hue_byte - 256.0 if hue_byte >= 256.0 else hue_byte
        saturation = np.floor(np.float64(spread / max(top, one)) * 255.0)
        sixth = hue_byte * 6.0 / 255.0
        sector = np.floor(sixth)
        rest = np.float32(sixth - sector)
        strength = np.float32(saturation / 255.0)
        value = np.float64(top)
        low = np.float32(np.floor(value * (1.0 - np.float64(strength)) + 0.5))
        falling = np.float32(np.floor(value * (1.0 - np.float64(strength * rest)) + 0.5))
        rising = np.float32(np.floor(value * (1.0 - np.float64(strength) * (1.0 - np.float64(rest))) + 0.5))
        sector = sector - 6.0 if sector >= 6.0 else sector
        is_0, is_1, is_2, is_3, is_4 = sector == 0.0, sector == 1.0, sector == 2.0, sector == 3.0, sector == 4.0
        red[i] = falling if is_1 else (low if is_2 or is_3 else (rising if is_4 else top))
        green[i] = rising if is_0 else (top if is_1 or is_2 else (falling if is_3 else low))
        blue[i] = rising if is_2 else (top if is_3 or is_4 else (low if is_0 or is_1 else falling))
