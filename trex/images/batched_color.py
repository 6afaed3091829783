"""The color operations of `color.py` on many crops at once, in torch and on any device, with the same bytes.

`images` is uint8 (n, 3, S, S); a number per crop is a float32, float64 or int32 tensor (n,) on the same device. Each
function returns a new tensor. The arithmetic is that of `color.py`, one rounding after the other: torch computes each
operation on its own, so that no compiler can join two of them and skip a rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def blend(images: Tensor, gray: Tensor, factor: Tensor) -> Tensor:
    """`color.blend` with a gray level and a factor per crop, float32 (n,)."""
    level = gray.view(-1, 1, 1, 1)
    return _truncated(images.float().sub_(level).mul_(factor.view(-1, 1, 1, 1)).add_(level))


def mean_gray(images: Tensor) -> Tensor:
    """The mean gray of each crop, rounded, float32 (n,): see `color.mean_gray`."""
    gray = _gray(images)
    total = gray.flatten(1).sum(1, dtype=torch.int64)
    return (total.double() / gray[0].numel() + 0.5).floor().float()


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """`color.saturate` with a factor per crop, float32 (n,)."""
    gray = _gray(images).float().unsqueeze(1)
    return _truncated(images.float().sub_(gray).mul_(factor.view(-1, 1, 1, 1)).add_(gray))


def to_gray(images: Tensor) -> Tensor:
    """`color.to_gray`."""
    return _gray(images).to(torch.uint8).unsqueeze(1).expand_as(images).contiguous()


def solarize(images: Tensor) -> Tensor:
    """`color.solarize`."""
    return torch.where(images >= 128, 255 - images, images)


def blur(images: Tensor, weights: Tensor) -> Tensor:
    """`color.blur`: a box filter three times along rows and three times along columns, rounded after each.

    Args:
        images: uint8 (n, 3, S, S).
        weights: int32 (n, reach + 1), of the center and of the pixels at distances 1 … reach, in units of 1/2^24.
    """
    now = images.int()
    for axis in (3, 3, 3, 2, 2, 2):
        now = _box(now, weights, axis)
    return now.to(torch.uint8)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """`color.shift_hue` with a shift per crop, float64 (n,), 0 … 255. The casts are those of `color.py`."""
    red, green, blue = images.float().unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    spread = top - torch.minimum(torch.minimum(red, green), blue)
    divisor = spread.clamp(min=1)
    to_red, to_green, to_blue = (top - red) / divisor, (top - green) / divisor, (top - blue) / divisor
    from_green = (to_red.double() + 2.0 - to_blue.double()).float()
    from_blue = (to_green.double() + 4.0 - to_red.double()).float()
    hue = torch.where(red == top, to_blue - to_green, torch.where(green == top, from_green, from_blue))
    turn = hue.double() / 6.0 + 1.0
    turn = (turn - turn.floor()).float().double()
    hue_byte = (turn * 255.0).floor() + shift.view(-1, 1, 1)
    hue_byte = torch.where(hue_byte >= 256.0, hue_byte - 256.0, hue_byte)
    saturation = ((spread / top.clamp(min=1)).double() * 255.0).floor()
    sixth = hue_byte * 6.0 / 255.0
    sector = sixth.floor()
    rest = (sixth - sector).float()
    strength = (saturation / 255.0).float()
    return _from_hsv(top, sector, rest, strength)


def _from_hsv(top: Tensor, sector: Tensor, rest: Tensor, strength: Tensor) -> Tensor:
    value = top.double()
    low = _half_up(value * (1.0 - strength.double()))
    falling = _half_up(value * (1.0 - (strength * rest).double()))
    rising = _half_up(value * (1.0 - strength.double() * (1.0 - rest.double())))
    choices = torch.stack([top.to(torch.uint8), low, falling, rising])
    number = sector.long() % 6
    table = torch.tensor(_SECTORS, device=top.device)  # (3, 6): which of the four choices a channel takes
    return torch.stack([choices.gather(0, table[channel][number].unsqueeze(0))[0] for channel in range(3)], 1)


#: Per channel and sixth of the circle of hues: 0 the value, 1 the low level, 2 the falling, 3 the rising one.
_SECTORS = ((0, 2, 1, 1, 3, 0), (3, 0, 0, 2, 1, 1), (1, 1, 3, 0, 0, 2))


def _half_up(value: Tensor) -> Tensor:
    return value.add_(0.5).floor_().to(torch.uint8)


def _truncated(value: Tensor) -> Tensor:
    return value.clamp_(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """ITU-R 601 gray, int32 (n, S, S): see `color.gray_of`."""
    red, green, blue = images.int().unbind(1)
    return red.mul(19595).add_(green.mul(38470)).add_(blue.mul(7471)).add_(32768).bitwise_right_shift_(16)


def _box(now: Tensor, weights: Tensor, axis: int) -> Tensor:
    """One pass of the box filter along an axis. The sums need 32 bits without a sign; int32 has the same bits."""
    reach, side = weights.shape[1] - 1, now.shape[axis]
    border = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
    wide = pad(now.float(), border, mode="replicate").int()  # whole numbers up to 255 are exact; int32 has no padding
    weight = weights.view(len(weights), -1, 1, 1, 1)
    total = now * weight[:, 0]
    for k in range(1, reach + 1):
        pair = wide.narrow(axis, reach - k, side) + wide.narrow(axis, reach + k, side)
        total += pair * weight[:, k]
    return total.add_(1 << 23).bitwise_right_shift_(24).bitwise_and_(255)
