"""The pictures of a comparison of runs: quality against time and size, with the Pareto front of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxadmm.report import formatting as fmt
from onnxadmm.report import plots
from onnxadmm.report.figures import Figure
from onnxadmm.report.runs import pareto_front

if TYPE_CHECKING:
    from onnxadmm.report.runs import Point, RunComparison

SMALLEST_AREA, LARGEST_AREA = 30.0, 420.0
"""Of a bubble, in square points."""
HEIGHT = 3.3
CHARACTER, LINE = 6.0, 11.0
"""Width of a character and height of a line, in points."""
WIDE = 5.0
"""Beyond this ratio of the ends an axis is logarithmic."""
NEAR = 0.08
"""Points this near, as a share of the axis, share a label."""


@dataclass(frozen=True)
class Axis:
    """A quantity: how a point has it, its cost (less is better), and how numbers of it are written."""

    title: str
    value: Callable[[Point], float | None]
    cost: Callable[[float], float]
    tick: Callable[[float], str]
    interval: Callable[[Point], tuple[float, float] | None] = lambda _: None


def front_figures(found: RunComparison) -> list[Figure]:
    """Return quality against time and against size; time against size where there is no quality."""
    size = Axis("file size", lambda p: float(p.file_bytes), lambda v: v, _size_tick)
    time = Axis(
        "time, share of the original's" if found.relative else "time, ms",
        lambda p: p.time.value if p.time else None,
        lambda v: v,
        (lambda v: f"{fmt.tick(100 * v)}{fmt.SPACE}%") if found.relative else fmt.tick,
        lambda p: (p.time.low, p.time.high) if p.time else None,
    )
    pairs: list[tuple[Axis, Axis]] = []
    if found.metric is not None:
        name = found.metric
        metric = Axis(
            name,
            lambda p: p.metric,
            lambda v: -v if found.rising else v,
            lambda v: fmt.tick_metric(name, v),
        )
        pairs += [(time, metric)] if found.setting else []
        pairs.append((size, metric))
    elif found.setting is not None:
        pairs.append((time, size))
    figures = []
    for number, (x, y) in enumerate(pairs):
        figure = _figure(f"front-{number}", x, y, found.points, bubbles=size not in (x, y))
        if figure is not None:
            figures.append(figure)
    return figures


def _figure(
    name: str, x: Axis, y: Axis, points: Sequence[Point], *, bubbles: bool
) -> Figure | None:
    shown = [
        (p, a, b) for p in points if (a := x.value(p)) is not None and (b := y.value(p)) is not None
    ]
    if not shown:
        return None
    front = pareto_front([(x.cost(a), y.cost(b)) for _, a, b in shown])
    best = [p.mark for (p, _, _), f in zip(shown, front, strict=True) if f]
    said = f"On the front of these two: {', '.join(best)}."
    if bubbles:
        said += " The area of a bubble is the size of the file."
    largest = max(p.file_bytes for p, _, _ in shown) or 1

    def draw(figure: Any) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        axes = figure.subplots()
        values = [a for _, a, _ in shown]
        if min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_xscale("log")
        steps = sorted((a, b) for (_, a, b), f in zip(shown, front, strict=True) if f)
        axes.step(
            [a for a, _ in steps],
            [b for _, b in steps],
            where="post",
            color=plots.COMPRESSED,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
        )
        radius = 0.0
        for (point, a, b), f in zip(shown, front, strict=True):
            colour = (
                plots.ORIGINAL
                if point.kind == "original"
                else plots.PRUNED
                if point.kind == "float"
                else plots.COMPRESSED
            )
            area = SMALLEST_AREA
            if bubbles:
                area += (LARGEST_AREA - SMALLEST_AREA) * point.file_bytes / largest
            ends = x.interval(point)
            if ends is not None and ends[1] > ends[0]:
                axes.plot(ends, (b, b), color=colour, linewidth=1.2)
            axes.scatter(
                [a],
                [b],
                s=area,
                facecolor=colour if f else plots.PAPER,
                edgecolor=plots.PAPER if f else colour,
                linewidth=1.2,
                zorder=3,
            )
            radius = max(radius, area**0.5 / 2)
        axes.margins(x=0.14, y=0.16)
        axes.grid(visible=True, axis="both")
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=7))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: x.tick(float(v))))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: y.tick(float(v))))
        axes.set_xlabel(x.title, loc="right")
        _write_marks(figure, axes, _gathered(shown), 2 + radius / 2)

    title = f"{y.title.capitalize()} against {x.title}"
    svg = plots.to_svg(name, f"{title}. {said}", draw, height=HEIGHT)
    return Figure(title, said, svg)


def _write_marks(
    figure: Any, axes: Any, groups: Sequence[tuple[list[str], float, float]], away: float
) -> None:
    """Write each group's marks beside its point, on the side where no others stand.

    Args:
        figure: The whole picture, whose layout is settled here.
        axes: Where the points are.
        groups: Marks, and the place of their point.
        away: Distance from the point, in points.
    """
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    points = [axes.transData.transform((a, b)) * scale for _, a, b in groups]
    # Points are obstacles too, but one's own.
    taken = [(px - 3, py - 3, px + 3, py + 3) for px, py in points]
    for number, ((marks, a, b), (px, py)) in enumerate(zip(groups, points, strict=True)):
        text = ", ".join(marks)
        width = CHARACTER * len(text)
        others = [box for i, box in enumerate(taken) if i != number]
        sides = [(right, up) for right in (True, False) for up in (True, False)]
        boxes = [_box(px, py, width, away, right=r, up=u) for r, u in sides]
        overlaps = [sum(_overlap(box, other) for other in others) for box in boxes]
        best = overlaps.index(min(overlaps))
        right, up = sides[best]
        taken.append(boxes[best])
        axes.annotate(
            text,
            (a, b),
            xytext=(away if right else -away, away if up else -away),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if up else "top",
            zorder=4,
        )


def _box(
    x: float, y: float, width: float, away: float, *, right: bool, up: bool
) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of a text beside a point."""
    left = x + away if right else x - away - width
    bottom = y + away if up else y - away - LINE
    return left, bottom, left + width, bottom + LINE


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the area that two boxes share."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)


def _gathered(
    shown: Sequence[tuple[Point, float, float]],
) -> list[tuple[list[str], float, float]]:
    """Put the marks of points together that lie on one another, so that they can be read."""
    spread = max(b for _, _, b in shown) - min(b for _, _, b in shown)
    found: list[tuple[list[str], float, float]] = []
    for point, a, b in shown:
        for marks, x, y in found:
            if abs(a - x) <= NEAR * max(a, x) and abs(b - y) <= NEAR * spread:
                marks.append(point.mark)
                break
        else:
            found.append(([point.mark], a, b))
    return found


def _size_tick(value: float) -> str:
    if value < 0:
        return ""
    amount, _, unit = fmt.size(round(value)).partition(fmt.SPACE)
    return f"{amount.rstrip('0').rstrip('.') if '.' in amount else amount}{fmt.SPACE}{unit}"
