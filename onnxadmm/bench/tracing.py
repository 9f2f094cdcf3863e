"""What a profile needs beside the profile: nodes with names, the graphs as lists, and the session's log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from onnxadmm.bench.regions import Node

LOG = "log.txt"
"""Name of the session's log, in the folder of a trace."""


def nodes_of(file: Path) -> list[Node]:
    """Return the nodes of a model's main graph."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    return [
        Node(
            n.name or next((t for t in n.output if t), ""),
            n.op_type,
            tuple(n.input),
            tuple(n.output),
        )
        for n in model.graph.node
    ]


def with_names(file: Path, folder: Path) -> Path:
    """Return a model whose nodes all have names, which are all that a profile tells of them."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    if all(n.name for n in model.graph.node):
        return file
    if any(t.external_data for t in model.graph.initializer):
        # Its data lies beside it; the nodes go by number then.
        return file
    for node in model.graph.node:
        node.name = node.name or next((t for t in node.output if t), "")
    copy = folder / "named.onnx"
    onnx.save(model, copy)
    return copy


@contextlib.contextmanager
def logged(folder: Path | None) -> Iterator[None]:
    """Within it, what ONNX Runtime logs to standard error goes to `log.txt` in the folder, if any."""
    if folder is None:
        yield
        return
    before = os.dup(2)
    try:
        with (folder / LOG).open("wb") as log:
            os.dup2(log.fileno(), 2)
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)
