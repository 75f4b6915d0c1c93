# SPDX-License-Identifier: GPL-2.0
"""Plots as SVG, written by hand: bars and lines are all we need."""
import math
from xml.sax.saxutils import escape

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
STYLE = 'font-family="sans-serif" font-size="12"'


def svg(width: int, height: int, body: list[str]) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" {STYLE}>\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n")


def label(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def bars(title: str, groups: dict[str, dict[str, float]], unit: str, digits: int = 0) -> str:
    """Horizontal bars: {group: {name: value}}."""
    width, left, right, step = 900, 230, 90, 18
    top = max((value for group in groups.values() for value in group.values()), default=1) or 1
    body, y = [label(20, 26, title, more='font-size="15" font-weight="bold"'), label(20, 44, unit, more='fill="#555"')], 62
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    for group, values in groups.items():
        y += 12
        body.append(label(20, y + 4, group, more='font-weight="bold"'))
        y += 10
        for name, value in values.items():
            length = max(value, 0) / top * (width - left - right)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            body += [label(left - 8, y + 12, name, "end"),
                     f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{step - 5}" fill="{colour}"/>',
                     label(left + length + 6, y + 12, f"{value:,.{digits}f}")]
            y += step
    return svg(width, y + 20, body)


def step_of(most: float) -> float:
    """A round distance of four to eight lines."""
    unit = 10 ** math.floor(math.log10(most or 1))
    return next(unit * part for part in (0.125, 0.25, 0.5, 1, 2) if most / (unit * part) <= 8)


def lines(title: str, series: dict[str, list[tuple[float, float]]], x_title: str, y_title: str) -> str:
    """Lines over a logarithmic x; y from 0."""
    width, height, left, bottom, top, right = 900, 420, 90, 60, 60, 240
    points = [point for line in series.values() for point in line]
    low, high = math.log10(min(x for x, _ in points)), math.log10(max(x for x, _ in points))
    tick = step_of(max(y for _, y in points))
    most = tick * math.ceil(max(y for _, y in points) / tick)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / ((high - low) or 1)
        return left + share * (width - left - right), height - bottom - y / most * (height - bottom - top)

    body = [label(20, 26, title, more='font-size="15" font-weight="bold"'),
            label((left + width - right) / 2, height - 16, x_title, "middle"), label(20, 48, y_title, more='fill="#555"')]
    for i in range(round(most / tick) + 1):
        value = tick * i
        x, y = at(10 ** low, value)
        body += [f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#ddd"/>',
                 label(x - 8, y + 4, f"{value:,.0f}", "end")]
    for x in sorted({x for x, _ in points}):
        body.append(label(at(x, 0)[0], height - bottom + 18, f"{x:,.0f}", "middle"))
    for i, (name, line) in enumerate(series.items()):
        colour, places = COLOURS[i % len(COLOURS)], [at(x, y) for x, y in line]
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="' +
                    " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + '"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        body += [f'<rect x="{width - right + 16}" y="{top + 20 * i}" width="12" height="12" fill="{colour}"/>',
                 label(width - right + 34, top + 20 * i + 11, name)]
    return svg(width, height, body)
