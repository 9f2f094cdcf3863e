"""Decisions into the graph: mask, cut, prove, count."""

from __future__ import annotations

from onnxadmm.compact.accounting import Account, account
from onnxadmm.compact.cutting import cut_channels, expand_channels, mask_channels
from onnxadmm.compact.proving import TOLERANCE, Proof, compare_outputs, prove

__all__ = [
    "TOLERANCE",
    "Account",
    "Proof",
    "account",
    "compare_outputs",
    "cut_channels",
    "expand_channels",
    "mask_channels",
    "prove",
]
