"""ADMM: constraint sets with exact projections, the (Z, U) state, and control of ρ."""

from __future__ import annotations

from onnxadmm.admm.constraints import (
    Constraint,
    CoupledChannels,
    Unstructured,
    channel_masks,
    coupled,
    joint_masks,
    kept_channels,
)
from onnxadmm.admm.grids import Grid
from onnxadmm.admm.levels import QuantizedWeight
from onnxadmm.admm.penalty import Penalty, make_penalty
from onnxadmm.admm.pooled import PooledChannels, pooled
from onnxadmm.admm.priced import PricedElements
from onnxadmm.admm.projections import project_unstructured, top_k_mask
from onnxadmm.admm.sets import (
    LAYER_STRUCTURES,
    Layout,
    Unreachable,
    make_layer_set,
    pool_elements,
)
from onnxadmm.admm.solver import Residuals, Solver

__all__ = [
    "LAYER_STRUCTURES",
    "Constraint",
    "CoupledChannels",
    "Grid",
    "Layout",
    "Penalty",
    "PooledChannels",
    "PricedElements",
    "QuantizedWeight",
    "Residuals",
    "Solver",
    "Unreachable",
    "Unstructured",
    "channel_masks",
    "coupled",
    "joint_masks",
    "kept_channels",
    "make_layer_set",
    "make_penalty",
    "pool_elements",
    "pooled",
    "project_unstructured",
    "top_k_mask",
]
