"""The plots of `report.html`: matplotlib to SVG that takes its colours and type from the page.

Matplotlib draws with sentinel colours, which become CSS variables afterwards, so a plot follows the
page into dark mode and onto paper. Nothing from the model enters a plot: its names stay in the HTML
around it, where they are escaped. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxadmm.report import formatting as fmt

if TYPE_CHECKING:
    from onnxadmm.report.document import Epoch

# Sentinel colour -> CSS variable. No sentinel is a colour that anyone would choose.
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
ORIGINAL, PRUNED, COMPRESSED, SECOND = "#010105", "#010106", "#010107", "#010108"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--paper",
    ORIGINAL: "--original",
    PRUNED: "--pruned",
    COMPRESSED: "--compressed",
    SECOND: "--second",
}
# About the width of a phone, in points: text keeps its size there, and grows a little on a desktop.
WIDTH, HEIGHT = 4.9, 2.6
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.minor.size": 0.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
MANY_POINTS = 30
# Beyond this axes overflow; such a curve has nothing to show but that it left.
HUGE = 1e60
# Below this a logarithmic axis would show one or two powers of ten.
FEW_DECADES = 2.2


def line_plot(
    name: str,
    label: str,
    epochs: Sequence[Epoch],
    series: Sequence[tuple[str, Callable[[Epoch], float | None]]],
    *,
    log: bool = False,
    reference: float | None = None,
    ticks: Callable[[float], str] = fmt.tick,
) -> str | None:
    """Plot series over epochs, with the boundaries of steps and stages marked.

    Args:
        name: Unique on the page; prefixes the ids of the SVG.
        label: What the plot shows, for who can't see it.
        epochs: The history, in order.
        series: (colour, value of an epoch); a None value leaves a gap.
        log: A logarithmic axis; values that are not positive leave a gap.
        reference: A dashed line, for the original's value.
        ticks: How numbers of the vertical axis are written.

    Returns:
        The SVG; None if no series has two points.
    """
    x = np.array([e.epoch for e in epochs], dtype=float)
    curves = []
    for colour, value in series:
        found = [value(e) for e in epochs]
        y = np.array([np.nan if v is None else v for v in found], dtype=float)
        if log:
            y[~(y > 1 / HUGE)] = np.nan
        y = np.clip(y, -HUGE, HUGE)
        if np.isfinite(y).sum() > 1:
            curves.append((colour, y))
    if not curves:
        return None

    def draw(figure: Any) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        axes = figure.subplots()
        if log:
            axes.set_yscale("log")
            decades = np.log10(
                np.nanmax([c[1] for c in curves]) / np.nanmin([c[1] for c in curves])
            )
            steps = (1.0, 2.0, 5.0) if decades < FEW_DECADES else (1.0,)
            axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _mark_boundaries(axes, epochs)
        if reference is not None and abs(reference) <= HUGE:
            axes.axhline(reference, color=ORIGINAL, linestyle=(0, (4, 3)), linewidth=1.2)
        marker = "o" if len(epochs) <= MANY_POINTS else ""
        for colour, y in curves:
            axes.plot(
                x,
                y,
                color=colour,
                marker=marker,
                markersize=4,
                markeredgecolor=PAPER,
                markeredgewidth=0.8,
            )
        margin = max((x[-1] - x[0]) * 0.03, 0.5)
        axes.set_xlim(x[0] - margin, x[-1] + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: ticks(float(v))))
        axes.set_xlabel("epoch", loc="right")

    return to_svg(name, label, draw)


def density_plot(
    name: str, label: str, models: Sequence[tuple[str, str, float, Sequence[float]]]
) -> str | None:
    """Plot how the single runs of each model spread: a density, its runs, and its median.

    Args:
        name: Unique on the page; prefixes the ids of the SVG.
        label: What the plot shows, for who can't see it.
        models: (legend, colour, median in ms, single runs in ms), from top to bottom.

    Returns:
        The SVG; None if no model has single runs.
    """
    shown = [
        (*m[:3], np.array(m[3], dtype=float).clip(0, HUGE))
        for m in models
        if len(m[3]) and max(m[3]) > 0
    ]
    if not shown:
        return None
    limit = axis_limit_ms([m[3] for m in models if len(m[3])])

    def draw(figure: Any) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes = figure.subplots()
        for place, (_, colour, median, samples) in enumerate(reversed(shown)):
            grid, height = _density(samples, limit)
            axes.fill_between(
                grid, place, place + 0.5 * height, color=colour, alpha=0.35, linewidth=0
            )
            axes.plot(grid, place + 0.5 * height, color=colour, linewidth=1.2)
            # One path of many ticks: a mark per run would make the file ten times as long.
            runs = samples[samples <= limit]
            xs = np.repeat(runs, 3)
            ys = np.tile([place - 0.05, place - 0.15, np.nan], len(runs))
            axes.plot(xs, ys, color=colour, linewidth=0.6, solid_capstyle="butt")
            middle = min(median, limit)
            axes.plot([middle, middle], [place - 0.15, place + 0.66], color=INK, linewidth=1.4)
            right = middle < limit * 0.75
            axes.annotate(
                fmt.milliseconds(median),
                (middle, place + 0.58),
                xytext=(6 if right else -6, 0),
                textcoords="offset points",
                ha="left" if right else "right",
            )
        axes.set_ylim(-0.3, len(shown) - 0.26)
        axes.set_xlim(0, limit)
        axes.grid(visible=False)
        axes.set_yticks(range(len(shown)), [m[0] for m in reversed(shown)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        # One unit along the axis, the one that suits its end.
        unit, scale = ("µs", 1e3) if limit < 1 else ("ms", 1.0) if limit < 1e4 else ("s", 1e-3)  # noqa: PLR2004
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: fmt.tick(float(v) * scale)))
        axes.set_xlabel(unit, loc="right")

    return to_svg(name, label, draw, height=0.6 + 0.76 * len(shown))


def axis_limit_ms(runs: Sequence[Sequence[float]]) -> float:
    """Return where the time axis ends: beyond 98 % of each model's runs.

    A stall of the machine would squeeze everything else against zero otherwise.
    """
    ends = [float(np.quantile(np.array(r, dtype=float), 0.98)) for r in runs if len(r)]
    return 1.08 * min(max([*ends, 1e-9]), HUGE)


def _density(samples: Any, limit: float) -> tuple[Any, Any]:
    """Return (positions, heights up to 1) of a Gaussian kernel density over the visible runs."""
    spread = min(float(samples.std()), float(np.subtract(*np.quantile(samples, [0.75, 0.25]))))
    # Silverman's rule, but never narrower than what a screen can show.
    width = max(0.9 * spread * len(samples) ** -0.2, limit / 250)
    low, high = max(samples.min() - 4 * width, 0.0), min(samples.max() + 4 * width, limit)
    grid = np.linspace(low, max(high, low + width), 120)
    height = np.exp(-0.5 * ((grid[:, None] - samples[None, :]) / width) ** 2).sum(axis=1)
    return grid, height / max(float(height.max()), 1e-300)


def _mark_boundaries(axes: Any, epochs: Sequence[Epoch]) -> None:
    """Draw a line where a progressive step or the retraining begins."""
    several = len({e.step for e in epochs if e.stage == "admm"}) > 1
    before: Epoch | None = None
    for epoch in epochs:
        begins = before is None or (epoch.stage, epoch.step) != (before.stage, before.step)
        stays = before is not None and epoch.stage == before.stage == "retrain"
        if begins and not stays:
            place = epoch.epoch - 0.5
            if before is not None:
                axes.axvline(place, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            text = "retrain" if epoch.stage == "retrain" else "ADMM"
            if several and epoch.stage == "admm":
                text = f"step {epoch.step}"
            axes.annotate(
                text,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 3),
                textcoords="offset points",
                color=MUTED,
                fontsize=9,
            )
        before = epoch


def to_svg(name: str, label: str, draw: Callable[[Any], None], height: float = HEIGHT) -> str:
    """Return what `draw` puts on a figure as an SVG in the page's colours and type; `height` in inches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # From matplotlib's own defaults, not the user's matplotlibrc; both come back afterwards.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return _embed(target.getvalue(), name, label)


def _embed(svg: str, name: str, label: str) -> str:
    """Make matplotlib's file a part of a page: themed, labelled, and without clashing ids."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Matplotlib's style sheet holds for `*`, which inside HTML is the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    # Older matplotlibs write the shorthand, newer ones the family by itself.
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    for sentinel, variable in VARIABLES.items():
        body = body.replace(sentinel, f"var({variable})")
    body = re.sub(r"<[^>]*>", _round_coordinates, body)
    body = re.sub(r"\n\s*", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL))
    head = f'<svg class="plot" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img"'
    title = f"<title>{_escape(label)}</title>"
    return f'{head} aria-label="{_escape(label)}">{title}{body.strip()}'


def _round_coordinates(tag: re.Match[str]) -> str:
    """Keep hundredths of a point, finer than any screen; matplotlib writes millionths."""
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag[0])


def _escape(text: str) -> str:
    table = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    return "".join(table.get(c, c) for c in text)
