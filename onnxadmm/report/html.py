"""`report.html`: one file that needs nothing beside it, for a browser, a phone or paper."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
import yaml
from markupsafe import Markup

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.figures import latency_figures, training_figures
from onnxadmm.report.profiling import OPEN_ROWS, slowest, views
from onnxadmm.report.summary import (
    comparison,
    headlines,
    metric_names,
    models_of,
    packing,
    proof,
    quantized,
    remarks,
    verdict,
)
from onnxadmm.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxadmm.report.document import ChannelClass, Report

# Layers shown at once; what is more folds away, and what is beyond the second stays in the JSON.
OPEN_CHANNELS = 40
MAX_CHANNELS = 1000
MAX_MEMBERS = 4
MAX_SPEC_CHARACTERS = 60_000
MARKS = {"passed": "✓", "failed": "✕", "none": "–"}


@dataclass(frozen=True)
class _Bar:
    """A class of channels as a line of the table."""

    name: str
    members: str
    kept: str
    size: str
    share: str
    percent: str
    fixed: bool
    reason: str


def render_html(report: Report) -> str:
    """Return the page. It holds no script and loads nothing; the same report gives the same page."""
    said = verdict(report)
    tiles = headlines(report)
    bars = [_bar(c) for c in report.channels[:MAX_CHANNELS]]
    return page_template(
        "report.html.jinja"
    ).render(
        # Ours, from the package; nothing of a model or spec is marked safe.
        css=Markup(page_text("report.css")),  # noqa: S704
        report=report,
        verdict=said,
        mark=MARKS[said.state],
        headlines=tiles,
        columns=_columns(len(tiles)),
        rows=comparison(report),
        proof=proof(report),
        packing=packing(report),
        peak=_peak(report),
        remarks=remarks(report),
        absent=_absent(report),
        training=training_figures(report),
        latency=latency_figures(models_of(report)),
        profiles=[(view, slowest(view.layers)) for view in views(models_of(report))],
        open_rows=OPEN_ROWS,
        names={name: name.capitalize() for name in models_of(report)},
        bars=bars[:OPEN_CHANNELS],
        more_bars=bars[OPEN_CHANNELS:],
        left_out=len(report.channels) - len(bars),
        channels_text=_channels_text(report.channels),
        spec_text=_spec_text(report),
        total=fmt.duration(sum(s.seconds for s in report.stages)),
        svg=Markup,
    )


def _columns(tiles: int) -> int:
    """Return how many tiles share a line on a wide screen: rows as full as can be."""
    if tiles <= 5:  # noqa: PLR2004
        return tiles
    return min((4, 3), key=lambda columns: (-tiles % columns, -columns))


def page_template(name: str) -> jinja2.Template:
    """Return a template of this package that escapes whatever isn't marked safe."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(page_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["line"] = one_line
    environment.filters["duration"] = fmt.duration
    return environment.get_template(name)


def page_text(name: str) -> str:
    """Return a file of this package."""
    return resources.files("onnxadmm.report").joinpath(name).read_text("utf-8")


def _peak(report: Report) -> str:
    """Say what the machine's matrix product reached: `CPU: float32 95.1, int8 210`."""
    return "; ".join(
        f"{fmt.provider(provider)}: "
        + ", ".join(f"{kind} {fmt.number(v)}" for kind, v in facts.peak_gflops.items())
        for provider, facts in sorted(report.compressed.latency.items())
        if facts.peak_gflops
    )


def _absent(report: Report) -> list[str]:
    """Say what this report doesn't hold, so that nobody looks for it."""
    found = []
    if not report.spec.get("data"):
        found.append("No data: the model was compressed in one shot, and its metrics not measured.")
    elif not metric_names(report):
        found.append("No metrics were measured.")
    if report.spec.get("data") and not report.history:
        found.append("No training: the model was compressed in one shot.")
    elif len(report.history) == 1:
        found.append("Training took one epoch, so there is no curve to show.")
    if not report.spec.get("prune"):
        found.append("Nothing was pruned.")
    if not quantized(report):
        what = "Weights are on levels" if report.spec.get("quantize") else "Nothing was quantized"
        found.append(f"{what}: the compressed model computes in floating point.")
    if not report.compressed.latency:
        found.append("Nothing was timed.")
    return found


def _bar(channels: ChannelClass) -> _Bar:
    members = [one_line(m, 60) for m in channels.members if m != channels.class_name]
    text = ", ".join(members[:MAX_MEMBERS])
    if len(members) > MAX_MEMBERS:
        text += f" and {len(members) - MAX_MEMBERS} more"
    return _Bar(
        name=one_line(channels.class_name, 80),
        members=text,
        kept=fmt.count(channels.kept),
        size=fmt.count(channels.size),
        share=fmt.share(channels.kept, channels.size),
        percent=f"{100 * channels.kept / channels.size:.2f}" if channels.size else "0",
        fixed=channels.fixed,
        reason=one_line(channels.reason or "", 200),
    )


def _channels_text(channels: Sequence[ChannelClass]) -> str:
    free = [c for c in channels if not c.fixed]
    kept, size = sum(c.kept for c in free), sum(c.size for c in free)
    text = f"{fmt.count(kept)} of {fmt.count(size)} removable channels are kept"
    text += f" ({fmt.share(kept, size)})." if size else "."
    fixed = len(channels) - len(free)
    if fixed:
        which = "class is" if fixed == 1 else "classes are"
        text += f" {fmt.count(fixed)} {which} fixed, for the reason shown."
    return text


def _spec_text(report: Report) -> str:
    """Return the spec as YAML: sections in the order of the reference, keys within them sorted."""
    order = [*(k for k in Spec.model_fields if k in report.spec)]
    order += sorted(k for k in report.spec if k not in Spec.model_fields)
    text = "".join(
        yaml.safe_dump({key: report.spec[key]}, allow_unicode=True, width=100) for key in order
    )
    text = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) > MAX_SPEC_CHARACTERS:
        text = text[:MAX_SPEC_CHARACTERS] + "\n… the rest is in report.json\n"
    return text
