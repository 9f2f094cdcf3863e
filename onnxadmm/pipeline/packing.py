"""The stage that packs: the result's tensors as streams, checked in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxadmm import bench
from onnxadmm.compact import (
    SMALLEST_PACKED_IR_VERSION,
    SMALLEST_PACKED_OPSET,
    Packing,
    compare_outputs,
    drop_traces,
    pack_tensors,
)
from onnxadmm.errors import VerificationError
from onnxadmm.graph import model_size
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.spec import Spec

TOLERANCE = 1e-6
"""Of an output's scale: packing changes no weight, but ONNX Runtime may fuse in another order."""


def pack(
    model: ir.Model, spec: Spec, inputs: Inputs, journal: Journal
) -> tuple[ir.Model, Sequence[Packing]]:
    """Pack the model where the spec asks for it and the file gets smaller, without exporters' debugging notes.

    Returns:
        The packed copy with what was packed; the model itself and nothing where nothing was gained.

    Raises:
        VerificationError: The packed model computes something else.
    """
    if spec.pack == "none":
        return model, ()
    lean = model.clone()
    drop_traces(lean)
    if model_size(lean) >= model_size(model):
        lean = model
    if model.opset_imports.get("", 0) < SMALLEST_PACKED_OPSET or (
        model.ir_version < SMALLEST_PACKED_IR_VERSION
    ):
        journal.warn(
            f"pack: needs opset {SMALLEST_PACKED_OPSET} and IR version {SMALLEST_PACKED_IR_VERSION}, the model has "
            f"{model.opset_imports.get('', 0)} and {model.ir_version}; export it again with newer ones"
        )
        return lean, ()
    packed = lean.clone()
    packing = pack_tensors(packed)
    if not packing or model_size(packed) >= model_size(lean):
        journal.progress.note("pack: no tensor gets smaller")
        return lean, ()
    left = _check(lean, packed, inputs)
    if left:
        journal.warn(
            f"pack: ONNX Runtime here doesn't fold {', '.join(left)} when it makes the session; the model stays unpacked"
        )
        return lean, ()
    return packed, packing


def _check(before: ir.Model, after: ir.Model, inputs: Inputs) -> list[str]:
    """Compare outputs, and return which operators ONNX Runtime still runs more of than before."""
    with tempfile.TemporaryDirectory() as folder:
        left, graphs = [], []
        for number, graph in enumerate((before, after)):
            trace = Path(folder) / str(number)
            trace.mkdir()
            session = bench.open_isolated(graph, name="the packed model", trace=trace)
            left.append(session)
            held = onnx.load(trace / "optimized.onnx", load_external_data=False)
            graphs.append([n.op_type for n in held.graph.node])
        names = [o.name for o in left[0].get_outputs()]
        for feed in inputs.proof():
            expected, got = (bench.run(s, names, feed) for s in left)
            error = compare_outputs(expected, got)
            if not error <= TOLERANCE:
                raise VerificationError(
                    f"the packed model differs from the unpacked one by {error:.2g} of the largest output (allowed "
                    f"{TOLERANCE:g}); this is a bug in onnxadmm, please report the model, and use pack: none"
                )
        for session in left:
            session.end_profiling()
    return sorted({op for op in graphs[1] if graphs[1].count(op) > graphs[0].count(op)})
