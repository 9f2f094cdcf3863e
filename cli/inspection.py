"""What `inspect` prints: which channels can go and what they cost, what stays and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxadmm.errors import one_line
from onnxadmm.report import formatting

if TYPE_CHECKING:
    from onnxadmm.channels import ChannelClass
    from onnxadmm.pipeline import Inspection

LAYERS = 3
"""More layers of a class than these are counted."""
ROWS = 30
"""More rows than these are counted."""
NAME = 40


@dataclass(frozen=True, slots=True)
class Row:
    """Classes of one size and cost, which a deep network has many of.

    Attributes:
        classes: The classes, in the graph's order.
        macs: Multiply-accumulates that go with one channel of any of them.
    """

    classes: tuple[ChannelClass, ...]
    macs: int

    @property
    def parameters(self) -> int:
        """Parameters that go with all channels of all classes."""
        return sum(c.size * c.parameters for c in self.classes)


def show_inspection(found: Inspection, *, everything: bool = False) -> None:
    """Print what onnxadmm sees in a model.

    Args:
        found: The model.
        everything: Print every class on a row of its own with all of its layers.
    """
    out = Console(highlight=False)
    a = found.account
    inputs = ", ".join(f"{one_line(n, 40)}: {t}" for n, t in found.inputs.items())
    outputs = ", ".join(one_line(n, 40) for n in found.outputs)
    out.print(
        f"{found.name}: opset {found.opset}, {formatting.size(a.file_bytes)}, "
        f"{formatting.count(a.parameters)} parameters, {formatting.count(a.macs)} MACs a sample\n"
        f"inputs   {inputs}\noutputs  {outputs}\n",
        markup=False,
    )
    free = [c for c in found.classes if not c.fixed]
    if free:
        _show_free(out, found, free, everything=everything)
    _show_fixed(out, found, everything=everything)
    _show_apart(out, found, everything=everything)
    if found.unknown:
        listed = ", ".join(f"{one_line(n, 60)} ({count})" for n, count in found.unknown.items())
        out.print(
            f"\noperators without a rule, and how many: {listed}; channels that reach them stay",
            markup=False,
        )
    plain = [t for t in found.tensors if not t["weight"]]
    out.print(f"\n{len(found.tensors) - len(plain)} weights, {len(plain)} other float tensors")
    for tensor in plain if everything else plain[:ROWS]:
        out.print(
            f"  {one_line(tensor['name'], NAME)} {tensor['shape']}: {one_line(tensor['why'], 90)}",
            markup=False,
        )
    _show_training(out, found, everything=everything)
    if free:
        left = formatting.share(found.half.parameters, a.parameters)
        macs = formatting.share(found.half.macs, a.macs)
        out.print(
            f"\nhalf of every class would leave {left} of the parameters and {macs} of the MACs"
        )
    else:
        out.print("\nno channel can go")
    for text in found.warnings:
        out.print(f"warning: {text}", markup=False)


def _show_training(out: Console, found: Inspection, *, everything: bool) -> None:
    """Print what training would leave to ONNX Runtime, and what it can't do."""
    kept = [t["name"] for t in found.tensors if t["weight"] and not t["learns"]]
    for text, names in (
        ("weights don't learn", kept),
        ("nodes are executed as they are in training, by ONNX Runtime", found.frozen),
    ):
        shown = names if everything else names[:ROWS]
        if names:
            more = f" and {len(names) - len(shown)} more; --all" if len(names) > len(shown) else ""
            listed = ", ".join(one_line(n, NAME) for n in shown)
            out.print(f"\nthese {text} ({len(names)}): {listed}{more}", markup=False)
    if found.refused:
        out.print("\nthe model can be compressed, but not trained:", markup=False)
    for reason in found.refused if everything else found.refused[:ROWS]:
        out.print(f"  {reason}", markup=False)


def _show_free(
    out: Console, found: Inspection, free: Sequence[ChannelClass], *, everything: bool
) -> None:
    rows = _grouped(found, free, apart=everything)
    rows.sort(key=lambda row: -row.parameters)
    limit = len(rows) if everything else ROWS
    table = _table(
        "channels that can go", "channels", "parameters each", "MACs each", "of parameters"
    )
    for row in rows[:limit]:
        first = row.classes[0]
        times = f"{len(row.classes)} × " if len(row.classes) > 1 else ""
        table.add_row(
            _members(row.classes, everything=everything),
            f"{times}{formatting.count(first.size)}",
            formatting.count(first.parameters),
            formatting.count(row.macs),
            formatting.share(row.parameters, found.account.parameters),
        )
    out.print(table)
    if len(rows) > limit:
        hidden = sum(len(row.classes) for row in rows[limit:])
        out.print(f"and {formatting.plural(hidden, 'more class', 'more classes')}; --all")


def _show_fixed(out: Console, found: Inspection, *, everything: bool) -> None:
    reasons: dict[str, list[ChannelClass]] = {}
    for c in found.classes:
        if c.reason is not None:
            reasons.setdefault(c.reason, []).append(c)
    order = sorted(reasons.items(), key=lambda item: -sum(c.size * c.parameters for c in item[1]))
    limit = len(order) if everything else ROWS
    table = _table("channels that stay", "channels", "of parameters")
    table.add_column("because", overflow="fold", ratio=2)
    for reason, classes in order[:limit]:
        cost = sum(c.size * c.parameters for c in classes)
        table.add_row(
            _members(classes, everything=everything),
            formatting.count(sum(c.size for c in classes)),
            formatting.share(cost, found.account.parameters),
            Text(one_line(reason, 200)),
        )
    if order:
        out.print()
        out.print(table)
    if len(order) > limit:
        hidden = sum(len(classes) for _, classes in order[limit:])
        out.print(f"and {formatting.plural(hidden, 'more class', 'more classes')}; --all")


def _show_apart(out: Console, found: Inspection, *, everything: bool) -> None:
    if not found.apart:
        return
    limit = len(found.apart) if everything else ROWS
    table = _table("weights without channels", "of parameters")
    table.add_column("because", overflow="fold", ratio=2)
    for weight in found.apart[:limit]:
        layers = ", ".join(one_line(n, NAME) for n in weight.layers[:LAYERS])
        table.add_row(
            Text(f"{one_line(weight.name, NAME)} of {layers}"),
            formatting.share(weight.parameters, found.account.parameters),
            Text(one_line(weight.reason, 200)),
        )
    out.print()
    out.print(table)
    if len(found.apart) > limit:
        out.print(f"and {formatting.plural(len(found.apart) - limit, 'more weight')}; --all")


def _grouped(found: Inspection, classes: Iterable[ChannelClass], *, apart: bool) -> list[Row]:
    """Put classes together that differ in nothing but their names."""
    groups: dict[object, list[ChannelClass]] = {}
    for c in classes:
        alike = (c.size, c.parameters, found.macs[c.name], len(c.layers))
        groups.setdefault(c.name if apart else alike, []).append(c)
    return [Row(tuple(g), found.macs[g[0].name]) for g in groups.values()]


def _members(classes: Sequence[ChannelClass], *, everything: bool) -> Text:
    """Name the layers that make the channels; the first names its class in a spec's globs."""
    names = list(dict.fromkeys(layer for c in classes for layer in c.layers))
    shown = names if everything else names[:LAYERS]
    text = ", ".join(one_line(n, NAME) for n in shown)
    more = len(names) - len(shown)
    return Text(f"{text} and {more} more" if more else text)


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column(first, overflow="fold", ratio=3, min_width=24)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
