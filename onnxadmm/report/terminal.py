"""The report as a table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from onnxadmm.errors import one_line
from onnxadmm.report.summary import comparison

if TYPE_CHECKING:
    from onnxadmm.report.document import Report

STYLES = {"good": "green", "bad": "red", "plain": ""}


def summary_table(report: Report) -> Table:
    """Return original, pruned (where there is one), compressed and change as a rich table.

    Every cell is a `Text`: brackets in a stranger's names are no markup.
    """
    table = Table(title=Text(one_line(report.model, 80)), title_justify="left")
    table.add_column("")
    pruned = report.pruned is not None
    for head in ("original", *(["pruned"] if pruned else []), "compressed", "change"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in comparison(report):
        if row.minor:
            continue
        change = Text(row.change, style=STYLES[row.tone])
        if row.interval:
            change.append(f"\n{row.interval}", style="dim")
        cells = [row.original, *([row.pruned] if pruned else []), row.compressed]
        table.add_row(Text(row.label), *map(Text, cells), change)
    return table
