"""Sets of one weight, one idea a file. `make_layer_set` finds them by the spec's name."""

from __future__ import annotations

from onnxadmm.admm.sets._base import Groups, LayerSet, Layout
from onnxadmm.admm.sets.blocks import Blocks
from onnxadmm.admm.sets.columns import Columns
from onnxadmm.admm.sets.filters import Filters
from onnxadmm.admm.sets.input_channels import InputChannels
from onnxadmm.admm.sets.making import (
    LAYER_STRUCTURES,
    Unreachable,
    make_layer_set,
    pool_elements,
)
from onnxadmm.admm.sets.n_of_m import NOfM
from onnxadmm.admm.sets.patterns import KernelPatterns, pattern_library

__all__ = [
    "LAYER_STRUCTURES",
    "Blocks",
    "Columns",
    "Filters",
    "Groups",
    "InputChannels",
    "KernelPatterns",
    "LayerSet",
    "Layout",
    "NOfM",
    "Unreachable",
    "make_layer_set",
    "pattern_library",
    "pool_elements",
]
