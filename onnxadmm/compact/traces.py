"""What exporters note at each node for their own debugging: stack traces, module paths, rewriting rules."""

from __future__ import annotations

import onnx_ir as ir

from onnxadmm.graph import all_nodes

EXPORTERS = ("pkg.torch.", "pkg.onnxscript.")
KEYS = frozenset({"namespace"})
"""What torch's exporter notes without a prefix of its own."""
TRACE = 'File "'


def drop_traces(model: ir.Model) -> None:
    """Take exporters' debugging notes out of a model, in place; nothing computes with them.

    They can be as large as a small network, and name the folders of the machine that exported it. The model's own
    metadata and doc strings stay, and so does every other note.
    """
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for scope in scopes:
        _drop(scope.metadata_props)
        for node in all_nodes(scope):
            _drop(node.metadata_props)
            # The legacy exporter writes the stack into the doc string when it is told to be verbose.
            if node.doc_string and TRACE in node.doc_string:
                node.doc_string = None
            for value in node.outputs:
                _drop(value.metadata_props)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _drop(value.metadata_props)


def _drop(notes: dict[str, str]) -> None:
    for key in [k for k in notes if k in KEYS or k.startswith(EXPORTERS)]:
        del notes[key]
