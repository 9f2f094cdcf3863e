"""Decisions into the graph: mask, cut, prove, pack, count."""

from __future__ import annotations

from onnxadmm.compact.accounting import Account, account
from onnxadmm.compact.cropping import empty_positions
from onnxadmm.compact.cutting import cut_channels, surviving
from onnxadmm.compact.folding import Folded, fold_idle
from onnxadmm.compact.masking import expand_channels, mask_channels
from onnxadmm.compact.packing import Packing, pack_tensors
from onnxadmm.compact.proving import TOLERANCE, Proof, prove, unproven
from onnxadmm.compact.shapes import shapes_after
from onnxadmm.compact.traces import drop_traces
from onnxadmm.compact.unpacking import SMALLEST_IR_VERSION as SMALLEST_PACKED_IR_VERSION
from onnxadmm.compact.unpacking import SMALLEST_OPSET as SMALLEST_PACKED_OPSET
from onnxadmm.compact.unpacking import unpack_tensors
from onnxadmm.graph import compare_outputs

__all__ = [
    "SMALLEST_PACKED_IR_VERSION",
    "SMALLEST_PACKED_OPSET",
    "TOLERANCE",
    "Account",
    "Folded",
    "Packing",
    "Proof",
    "account",
    "compare_outputs",
    "cut_channels",
    "drop_traces",
    "empty_positions",
    "expand_channels",
    "fold_idle",
    "mask_channels",
    "pack_tensors",
    "prove",
    "shapes_after",
    "surviving",
    "unpack_tensors",
    "unproven",
]
