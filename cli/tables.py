"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxadmm.bench import Comparison, Unmeasured
from onnxadmm.errors import one_line
from onnxadmm.report import formatting

if TYPE_CHECKING:
    from onnxadmm.pipeline import Inspection

LAYERS = 3
ROWS = 60
"""More classes than this are summed up in one line; --json has them all."""


def show_inspection(found: Inspection) -> None:
    """Print what onnxadmm sees in a model."""
    out = Console(highlight=False)
    a, h = found.account, found.half
    inputs = ", ".join(f"{one_line(n, 40)}: {t}" for n, t in found.inputs.items())
    outputs = ", ".join(one_line(n, 40) for n in found.outputs)
    out.print(
        f"{found.name}: opset {found.opset}, {formatting.size(a.file_bytes)}, "
        f"{formatting.count(a.parameters)} parameters, {formatting.count(a.macs)} MACs a sample",
        markup=False,
    )
    out.print(f"inputs  {inputs}\noutputs {outputs}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("class", "left"), ("channels", "right"), ("parameters each", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("layers", overflow="fold", ratio=2)
    table.add_column("tensors", justify="right")
    table.add_column("can go", overflow="fold", ratio=3)
    for c in found.classes[:ROWS]:
        layers = ", ".join(one_line(n, 32) for n in c.layers[:LAYERS])
        more = len(c.layers) - LAYERS
        table.add_row(
            Text(one_line(c.name, 32)),
            str(c.size),
            formatting.count(c.parameters),
            Text(layers + (f" and {more} more" if more > 0 else "")),
            str(len({piece.tensor for piece in c.slices})),
            Text(f"no: {one_line(c.reason, 160)}" if c.reason else "yes"),
        )
    out.print(table)
    if len(found.classes) > ROWS:
        out.print(f"and {len(found.classes) - ROWS} more classes; --json lists them all")
    if found.unknown:
        out.print(
            f"operators without a rule (channels that reach them stay): {', '.join(found.unknown)}",
            markup=False,
        )
    parameters = formatting.share(h.parameters, a.parameters)
    macs = formatting.share(h.macs, a.macs)
    out.print(
        f"half of every class would leave {parameters} of the parameters and {macs} of the MACs"
    )


def show_comparisons(found: Sequence[Comparison | Unmeasured]) -> None:
    """Print latencies and speedups, a table a setting."""
    out = Console(highlight=False)
    for comparison in found:
        if isinstance(comparison, Unmeasured):
            out.print(f"{comparison.setting}: not measured: {comparison.reason}", markup=False)
            continue
        table = Table(
            title=Text(str(comparison.setting)), title_justify="left", box=None, pad_edge=False
        )
        for name in (
            "model",
            "median",
            "p90",
            "p99",
            "samples/s",
            "session",
            "peak memory",
            "speedup",
        ):
            table.add_column(name, justify="left" if name == "model" else "right")
        for name, m in comparison.measurements.items():
            s = comparison.speedups.get(name)
            faster = (
                "baseline"
                if s is None
                else f"{formatting.ratio(s.ratio)} ({s.low:.2f} to {s.high:.2f})"
            )
            table.add_row(
                Text(one_line(name, 60)),
                formatting.milliseconds(m.latency.median_ms),
                formatting.milliseconds(m.latency.p90_ms),
                formatting.milliseconds(m.latency.p99_ms),
                formatting.number(m.latency.throughput_per_s),
                formatting.duration(m.session_s),
                formatting.size(m.peak_memory_bytes),
                faster,
            )
        out.print(table)


def to_plain(found: Sequence[Comparison | Unmeasured]) -> list[dict[str, Any]]:
    """Return a benchmark as plain values, for JSON."""
    return [asdict(c) for c in found]
