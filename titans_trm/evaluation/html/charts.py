"""Small charts as inline SVG: coloured by the page's style sheet, so that they follow light and dark screens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from titans_trm.evaluation.html.page import Html, join, tag, text

WIDTH, HEIGHT = 440.0, 250.0  # of the drawing's own coordinates; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 8.0, 36.0  # margins
_MOST_POINTS = 300  # of a curve: more would only make the page heavy
_SMOOTHED_ABOVE = 60  # points; a longer curve is drawn faint under its running mean
_COLOURS = 4

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """One curve: x and y, and where it has them the ends of its intervals."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0  # 0..3
    low: Sequence[float] = field(default_factory=tuple)
    high: Sequence[float] = field(default_factory=tuple)
    markers: bool = False  # single measurements: dots, whiskers for intervals, not smoothed
    dashed: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    log: bool = False,
    percent: bool = False,
    diagonal: bool = False,
    whole_x: bool = False,
) -> Html:
    """Draw curves over one pair of axes.

    Args:
        series: what is drawn; empty ones are left out.
        x_label: below the axis.
        y_label: above the axis.
        y_range: ends of the vertical axis; None fits the values.
        x_range: ends of the horizontal axis.
        log: logarithmic vertical axis; needs positive values.
        percent: vertical labels in percent.
        diagonal: draw y = x, where a calibrated model lies.
        whole_x: the horizontal axis counts: a label for whole numbers only.
    """
    series = [_thinned(one) for one in series if len(one.x)]
    if not series:
        return tag("p", "no data yet", class_="missing")
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in (*one.y, *one.low, *one.high)]
    x_low, x_high = x_range or _padded(min(xs), max(xs))
    log = log and min(ys) > 0
    y_low, y_high = y_range or (_log_range(ys) if log else _padded(min(min(ys), 0.0), max(ys)))
    x_at, y_at = _scale(x_low, x_high, LEFT, WIDTH - RIGHT), _scale(y_low, y_high, HEIGHT - BOTTOM, TOP, log=log)
    parts = [_axes(x_low, x_high, y_low, y_high, x_at, y_at, log=log, percent=percent, whole_x=whole_x)]
    if diagonal:
        ends = {"x1": x_at(x_low), "y1": y_at(x_low), "x2": x_at(x_high), "y2": y_at(x_high)}
        parts.append(tag("line", class_="axis dashed", **{k: _number(v) for k, v in ends.items()}))
    parts += [_curve(one, x_at, y_at, percent) for one in series]
    parts.append(tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle"))
    summary = f"{y_label} over {x_label}: {', '.join(one.label for one in series)}"
    return _svg(join(parts), WIDTH, HEIGHT, summary)


def legend(series: Sequence[Series]) -> Html:
    """Return the names of the curves beside their colours; nothing for a single one."""
    shown = [one for one in series if len(one.x)]
    items = [
        tag("span", tag("i", class_=f"k{one.colour}{' dashed' if one.dashed else ''}"), one.label) for one in shown
    ]
    return tag("div", *items, class_="legend")


def interval_bar(low: float | None, value: float | None, high: float | None) -> Html:
    """Draw a share with its interval on a scale from 0 to 1, for a cell of a table."""
    if value is None:
        return Html("")
    at = _scale(0.0, 1.0, 2.0, 148.0)
    parts = [Html('<line class="grid" x1="2" x2="148" y1="8" y2="8"/>')]
    if low is not None and high is not None:
        ends = f'x="{_number(at(low))}" width="{_number(max(at(high) - at(low), 2.0))}"'
        parts.append(Html(f'<rect class="f0" opacity=".3" {ends} y="4" height="8" rx="2"/>'))
    parts.append(Html(f'<circle class="f0" cx="{_number(at(value))}" cy="8" r="3.5"/>'))
    return tag("div", _svg(join(parts), 150.0, 16.0, f"{value:.3f} between 0 and 1"), class_="interval")


def heat_table(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, rows: str, columns: str) -> Html:
    """Return a matrix of counts as a table whose cells are shaded by their share of the row."""
    head = tag("tr", tag("th", f"{rows} ↓  {columns} →"), *(tag("th", label, scope="col") for label in labels))
    body = []
    for label, line in zip(labels, matrix, strict=True):
        total = sum(line) or 1
        cells = [
            tag(
                "td",
                f"{count:,}" if count else "",
                style=f"background: rgba(var(--heat), {0.04 + 0.9 * math.sqrt(count / total):.2f})" if count else None,
                class_="dark" if count / total > 0.3 else None,
                title=f"{rows} {label}: {count:,} of {total:,}",
            )
            for count in line
        ]
        body.append(tag("tr", tag("th", label, scope="row"), *cells))
    grid = tag("table", tag("thead", head), tag("tbody", *body), class_="matrix")
    return tag("div", grid, class_="scroll")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers in [low, high], 1, 2 or 5 times a power of ten apart, about `count` of them."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - count))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(content: Html, width: float, height: float, summary: str) -> Html:
    return tag("svg", content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=summary)


def _axes(
    x_low: float, x_high: float, y_low: float, y_high: float, x_at: Scale, y_at: Scale, *, log: bool, percent: bool,
    whole_x: bool,
) -> Html:  # fmt: skip
    parts = []
    for value in _log_ticks(y_low, y_high) if log else ticks(y_low, y_high):
        y = _number(y_at(value))
        label = f"{100 * value:g} %" if percent else f"{value:g}"
        parts.append(Html(f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y}" y2="{y}"/>'))
        parts.append(tag("text", label, x=LEFT - 6, y=_number(y_at(value) + 3.8), text_anchor="end"))
    for value in ticks(x_low, x_high):
        if whole_x and not float(value).is_integer():
            continue
        x = x_at(value)
        parts.append(Html(f'<line class="axis" x1="{_number(x)}" x2="{_number(x)}" y1="{HEIGHT - BOTTOM:g}" '
                          f'y2="{HEIGHT - BOTTOM + 4:g}"/>'))  # fmt: skip
        parts.append(tag("text", f"{value:,g}", x=_number(x), y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    base = HEIGHT - BOTTOM
    parts.append(Html(f'<line class="axis" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{base:g}" y2="{base:g}"/>'))
    return join(parts)


def _curve(one: Series, x_at: Scale, y_at: Scale, percent: bool) -> Html:
    colour = one.colour % _COLOURS
    parts = []
    whiskers = one.markers and len(one.low) == len(one.x)
    if len(one.low) == len(one.x) > 1 and not (whiskers and len(one.x) < 3):
        edge = [(x_at(x), y_at(y)) for x, y in zip(one.x, one.high, strict=True)]
        edge += [(x_at(x), y_at(y)) for x, y in zip(reversed(one.x), reversed(one.low), strict=True)]
        parts.append(Html(f'<polygon class="band f{colour}" points="{_points(edge)}"/>'))
    dots = [(x_at(x), y_at(y)) for x, y in zip(one.x, one.y, strict=True)]
    style = f"line s{colour}{' dashed' if one.dashed else ''}"
    if len(dots) > _SMOOTHED_ABOVE and not one.markers:
        parts.append(Html(f'<polyline class="{style} faint" points="{_points(dots)}"/>'))
        smooth = _running_mean(one.y, len(dots) // _SMOOTHED_ABOVE + 1)
        dots = [(x_at(x), y_at(y)) for x, y in zip(one.x, smooth, strict=True)]
    if len(dots) > 1:
        parts.append(Html(f'<polyline class="{style}" points="{_points(dots)}"/>'))
    if one.markers or len(dots) == 1:
        for index, (x, y) in enumerate(dots):
            if whiskers:
                low, high = y_at(one.low[index]), y_at(one.high[index])
                ends = f'x1="{_number(x)}" x2="{_number(x)}" y1="{_number(low)}" y2="{_number(high)}"'
                parts.append(Html(f'<line class="line s{colour}" {ends}/>'))
            value = f"{100 * one.y[index]:.1f} %" if percent else f"{one.y[index]:.4g}"
            name = tag("title", f"{one.label}: {value} at {one.x[index]:,g}")
            parts.append(Html(f'<circle class="f{colour}" cx="{_number(x)}" cy="{_number(y)}" r="3.6">{name}</circle>'))
    return join(parts)


def _scale(low: float, high: float, start: float, end: float, *, log: bool = False) -> Scale:
    """Return the map of [low, high] onto [start, end]; values outside stay at the ends."""
    first, last = (math.log10(low), math.log10(high)) if log else (low, high)

    def at(value: float) -> float:
        inner = math.log10(max(value, 1e-12)) if log else value
        share = (inner - first) / (last - first) if last > first else 0.5
        return start + min(max(share, 0.0), 1.0) * (end - start)

    return at


def _thinned(one: Series) -> Series:
    """Return a long curve as the means of neighbouring points."""
    if len(one.x) <= _MOST_POINTS or one.markers or len(one.low):
        return one
    width = math.ceil(len(one.x) / _MOST_POINTS)
    starts = range(0, len(one.x), width)
    mean = [(fmean(one.x[i : i + width]), fmean(one.y[i : i + width])) for i in starts]
    return Series(one.label, [x for x, _ in mean], [y for _, y in mean], one.colour, dashed=one.dashed)


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    windows = [values[max(0, i - width) : i + width + 1] for i in range(len(values))]
    return [fmean(window) for window in windows]


def _padded(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.1, max(values) * 1.1


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**decade for decade in decades for m in (1, 2, 5)]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) <= 8 else [v for v in inside if f"{v:e}".startswith("1.")]


def _points(dots: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in dots)


def _number(value: float) -> str:
    return text(f"{value:.1f}".removesuffix(".0"))
