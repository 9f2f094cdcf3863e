"""The figures of `report.html`: which plots a report has, and the words that go with each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report import plots
from onnxadmm.report.summary import objective_metric, settings, where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxadmm.report.document import Epoch, ModelFacts, Report

MAX_TIMED = 12


@dataclass(frozen=True)
class Figure:
    """A plot with its title and what it says in words."""

    title: str
    caption: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()  # (what, CSS variable of its colour)


def training_figures(report: Report) -> list[Figure]:
    """Return loss, metric, residuals and ρ over the epochs; those that were recorded."""
    epochs = report.history
    if not epochs:
        return []
    found = [_loss(epochs), _metric(report), _residuals(epochs), _rho(epochs)]
    return [figure for figure in found if figure is not None]


def latency_figures(models: Mapping[str, ModelFacts]) -> list[Figure]:
    """Return one figure a setting: how the runs of each model spread.

    Args:
        models: What they are called in a figure -> facts, the original first.
    """
    between = [plots.PRUNED, plots.SECOND]
    colours = [between[(i - 1) % 2] for i in range(len(models))]
    colours[-1], colours[0] = plots.COMPRESSED, plots.ORIGINAL
    found: list[Figure] = []
    for setting in settings(models.values()):
        shown = []
        for (legend, model), colour in zip(models.items(), colours, strict=True):
            facts = model.latency_at(setting)
            if facts is not None and facts.samples_ms:
                shown.append((legend, colour, facts.median_ms, facts.samples_ms, facts.runs))
        title = where(setting)
        medians = ", ".join(f"{m[0]} {fmt.milliseconds(m[2])}" for m in shown)
        svg = plots.density_plot(
            f"runs-{len(found)}", f"{title}: median {medians}", [m[:4] for m in shown]
        )
        if svg is None:
            continue
        limit = plots.axis_limit_ms([m[3] for m in shown])
        beyond = sum(sample > limit for m in shown for sample in m[3])
        caption = f"Median {medians}, of {_runs([m[4] for m in shown])}."
        if beyond:
            caption += f" {fmt.plural(beyond, 'slow run')} beyond the end of the axis."
        found.append(Figure(title, caption, svg))
    return found[:MAX_TIMED]


def _runs(runs: list[int]) -> str:
    if len(set(runs)) == 1:
        return fmt.plural(runs[0], "run") + (" each" if len(runs) > 1 else "")
    return " / ".join(fmt.count(r) for r in runs) + " runs"


def _loss(epochs: tuple[Epoch, ...]) -> Figure | None:
    first, last = epochs[0].loss, epochs[-1].loss
    said = f"From {fmt.number(first)} to {fmt.number(last)} in {fmt.plural(len(epochs), 'epoch')}."
    series = [(plots.COMPRESSED, lambda e: e.loss)]
    svg = plots.line_plot("loss", f"Training loss by epoch. {said}", epochs, series)
    return Figure("Training loss", said, svg) if svg else None


def _metric(report: Report) -> Figure | None:
    name = objective_metric(report)
    scored = [e for e in report.history if e.metric is not None]
    if not scored:
        return None
    reference = report.original.metrics.get(name)
    shown = one_line(name, 40)
    said = f"Ends at {fmt.metric(name, scored[-1].metric)}, on held-out data, before quantization."
    if not report.spec.get("quantize"):
        said = said.replace(", before quantization", "")
    if reference is not None:
        said += f" Dashed: the original, {fmt.metric(name, reference)}."
    svg = plots.line_plot(
        "metric",
        f"{shown} by epoch. {said}",
        report.history,
        [(plots.COMPRESSED, lambda e: e.metric)],
        reference=reference,
        ticks=lambda value: fmt.tick_metric(name, value),
    )
    return Figure(shown.capitalize(), said, svg) if svg else None


def _residuals(epochs: tuple[Epoch, ...]) -> Figure | None:
    measured = [e for e in epochs if e.primal is not None or e.dual is not None]
    if not measured:
        return None
    last = measured[-1]
    said = f"At the end of ADMM: primal {_exact(last.primal)}, dual {_exact(last.dual)}."
    if last.constraints:
        name, worst = max(last.constraints.items(), key=lambda item: (item[1].primal, item[0]))
        said += f" Furthest from its constraint: {one_line(name, 60)} ({_exact(worst.primal)})."
    svg = plots.line_plot(
        "residuals",
        f"Relative ADMM residuals by epoch, on a logarithmic axis. {said}",
        measured,
        [
            (plots.COMPRESSED, lambda e: e.primal),
            (plots.SECOND, lambda e: e.dual),
        ],
        log=True,
    )
    legend = (("primal", "compressed"), ("dual", "second"))
    return Figure("Residuals", said, svg, legend) if svg else None


def _rho(epochs: tuple[Epoch, ...]) -> Figure | None:
    measured = [e for e in epochs if e.rho is not None]
    if not measured:
        return None
    said = (
        f"How hard the weights are pulled to their constraint: from {_exact(measured[0].rho)} "
        f"to {_exact(measured[-1].rho)}."
    )
    svg = plots.line_plot(
        "rho",
        f"Penalty ρ by epoch, on a logarithmic axis. {said}",
        measured,
        [(plots.COMPRESSED, lambda e: e.rho)],
        log=True,
    )
    return Figure("Penalty ρ", said, svg) if svg else None


def _exact(value: float | None) -> str:
    return fmt.NOTHING if value is None else fmt.number(value)
