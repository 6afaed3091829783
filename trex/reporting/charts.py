"""Charts as inline SVG: line charts, and dots with whiskers. Colors are CSS classes s0 … s7, set by the style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 40
COLORS = 8


@dataclass(frozen=True)
class Series:
    """The points of one line. `color` is an index into the palette."""

    name: str
    points: list[tuple[float, float]]
    color: int
    dashed: bool = False


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False, marks: Sequence[float] = (),
    dots: bool = False, chosen: Sequence[tuple[float, float, int]] = (),
) -> str:  # fmt: skip
    """A chart of lines over a common x axis.

    Args:
        series: the lines.
        x_label: label of the x axis, with its unit.
        y_label: label of the y axis, with its unit.
        log_x: whether the x axis is logarithmic.
        marks: x positions of dashed vertical lines, such as interruptions.
        dots: whether to draw a dot at each point.
        chosen: (x, y, color) of points to draw a ring around.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return '<p class="none">no data</p>'
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks = _log_ticks(min(xs), max(xs)) if log_x else _ticks(min(xs), max(xs))
    y_ticks = _ticks(min(ys), max(ys))
    to_x = _scale(_bounds(xs, x_ticks, log_x), (LEFT, WIDTH - RIGHT), log_x)
    to_y = _scale(_bounds(ys, y_ticks, log=False), (HEIGHT - BOTTOM, TOP), log=False)
    parts = [_axes(x_ticks, y_ticks, to_x, to_y, x_label, y_label)]
    for x in marks:
        if min(xs) <= x <= max(xs):
            parts.append(
                f'<line class="mark" x1="{to_x(x):.1f}" x2="{to_x(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            )
    for one in series:
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in one.points)
        style = f"line s{one.color % COLORS}{' dashed' if one.dashed else ''}"
        parts.append(f'<polyline class="{style}" points="{path}"><title>{escape(one.name)}</title></polyline>')
        for x, y in one.points if dots or len(one.points) == 1 else ():
            parts.append(_dot(to_x(x), to_y(y), one.color, f"{one.name}: {x:g}, {y:.4g}"))
    for x, y, color in chosen:
        parts.append(f'<circle class="ring s{color % COLORS}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="6"/>')
    return _svg(parts, HEIGHT, f"{y_label} against {x_label}")


@dataclass(frozen=True)
class Dot:
    """A value with its interval. `color` is an index into the palette."""

    name: str
    value: float
    low: float
    high: float
    color: int


def whisker_chart(rows: Sequence[tuple[str, list[Dot]]], x_label: str) -> str:
    """A chart with one row per dataset, and in it one dot per run, with a whisker from `low` to `high`.

    Args:
        rows: the datasets and their dots.
        x_label: label of the x axis, with its unit.
    """
    values = [v for _, items in rows for one in items for v in (one.low, one.value, one.high)]
    if not values:
        return '<p class="none">no data</p>'
    widest = max(len(name) for name, _ in rows)
    left = 24 + 7 * widest
    step = 14
    heights = [max(len(items), 1) * step + 14 for _, items in rows]
    height = TOP + sum(heights) + BOTTOM
    ticks = _ticks(min(values), max(values))
    to_x = _scale(_bounds(values, ticks, log=False), (left, WIDTH - RIGHT), log=False)
    parts = []
    for tick in ticks:
        x = to_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    y = float(TOP)
    for (name, items), row_height in zip(rows, heights, strict=True):
        middle = y + row_height / 2 + 4
        parts.append(f'<text class="label" x="{left - 10}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for i, one in enumerate(items):
            dot_y = y + 7 + step * (i + 0.5)
            ends = f'x1="{to_x(one.low):.1f}" x2="{to_x(one.high):.1f}"'
            parts.append(f'<line class="whisker s{one.color % COLORS}" {ends} y1="{dot_y:.1f}" y2="{dot_y:.1f}"/>')
            title = f"{one.name}, {name}: {one.value:.4g} ({one.low:.4g} … {one.high:.4g})"
            parts.append(_dot(to_x(one.value), dot_y, one.color, title))
        y += row_height
    parts.append(_axis_label((left + WIDTH - RIGHT) / 2, height - 6, x_label))
    return _svg(parts, height, x_label)


def legend(names: Sequence[str]) -> str:
    """A legend of the runs' names and colors."""
    items = (f'<span><i class="swatch s{i % COLORS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{"".join(items)}</p>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _dot(x: float, y: float, color: int, title: str) -> str:
    place = f'class="dot s{color % COLORS}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"'
    return f"<circle {place}><title>{escape(title)}</title></circle>"


def _axis_label(x: float, y: float, text: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], to_x: Callable[[float], float],
    to_y: Callable[[float], float], x_label: str, y_label: str,
) -> str:  # fmt: skip
    parts = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(
            f'<line class="tickmark" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_number(tick)}</text>'
        )
    parts.append(_axis_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {middle:.0f})"'
    parts.append(f'<text class="axis" x="14" y="{middle:.0f}" text-anchor="middle" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _bounds(values: Sequence[float], ticks: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min([*values, *ticks]), max([*values, *ticks])
    if low == high:
        return (low / 2, high * 2) if log else (low - 1, high + 1)
    return low, high


def _scale(domain: tuple[float, float], pixels: tuple[float, float], log: bool) -> Callable[[float], float]:
    low, high = (math.log(domain[0]), math.log(domain[1])) if log else domain

    def place(value: float) -> float:
        share = ((math.log(value) if log else value) - low) / (high - low)
        return pixels[0] + share * (pixels[1] - pixels[0])

    return place


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `wanted` of them."""
    if low == high:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(len(powers) // 6, 1)
    return [10.0**power for power in powers if (power - powers[0]) % every == 0]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}"
