"""The graph: loading it safely, probing it, walking it, writing it. Knows no torch."""

from onnxadmm.graph.calls import Calls, inline_functions, restore_calls
from onnxadmm.graph.containment import open_plain
from onnxadmm.graph.distance import IMPORT_TOLERANCE, compare_outputs, distance
from onnxadmm.graph.inputs import attempts, pin_dims, random_inputs, real_inputs
from onnxadmm.graph.loading import load_model
from onnxadmm.graph.normalise import (
    clear_stale,
    complete_outputs,
    name_nodes,
    shared_uniform,
    showing,
    untie_uniform,
)
from onnxadmm.graph.outputs import Ending, Layout, output_ending, output_layout
from onnxadmm.graph.parts import (
    model_contents,
    model_digest,
    model_size,
    stage_model,
    temporary_folder,
)
from onnxadmm.graph.pieces import Content, Pieces
from onnxadmm.graph.probe import Probe, probe
from onnxadmm.graph.sandbox import run_limited
from onnxadmm.graph.saving import TEMPORARY, model_bytes, save_model, write_atomic
from onnxadmm.graph.walking import all_nodes, constant_of, node_label, since_version, subgraphs
from onnxadmm.graph.widening import OTHER_FLOATS, narrow, widen
from onnxadmm.graph.wrapping import (
    is_wrapped,
    remember_wrapping,
    unwrap_outputs,
    wrapping_of,
)

__all__ = [
    "IMPORT_TOLERANCE",
    "OTHER_FLOATS",
    "TEMPORARY",
    "Calls",
    "Content",
    "Ending",
    "Layout",
    "Pieces",
    "Probe",
    "all_nodes",
    "attempts",
    "clear_stale",
    "compare_outputs",
    "complete_outputs",
    "constant_of",
    "distance",
    "inline_functions",
    "is_wrapped",
    "load_model",
    "model_bytes",
    "model_contents",
    "model_digest",
    "model_size",
    "name_nodes",
    "narrow",
    "node_label",
    "open_plain",
    "output_ending",
    "output_layout",
    "pin_dims",
    "probe",
    "random_inputs",
    "real_inputs",
    "remember_wrapping",
    "restore_calls",
    "run_limited",
    "save_model",
    "shared_uniform",
    "showing",
    "since_version",
    "stage_model",
    "subgraphs",
    "temporary_folder",
    "untie_uniform",
    "unwrap_outputs",
    "widen",
    "wrapping_of",
    "write_atomic",
]
