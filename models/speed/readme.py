"""The tables of this folder's README, each written by the command that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().with_name("README.md")


def write_table(command: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace the table that a command wrote before; numbers stand on the right.

    Args:
        command: The file name of the command, as the README's marks name it.
        header: The names of the columns.
        rows: The cells of each line.
    """
    begin, end = f"<!-- written by {command} -->", f"<!-- end of {command} -->"
    before, rest = README.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
    README.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
