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
from onnxadmm.admm.penalty import Penalty, make_penalty
from onnxadmm.admm.projections import project_unstructured, top_k_mask
from onnxadmm.admm.solver import Residuals, Solver

__all__ = [
    "Constraint",
    "CoupledChannels",
    "Penalty",
    "Residuals",
    "Solver",
    "Unstructured",
    "channel_masks",
    "coupled",
    "joint_masks",
    "kept_channels",
    "make_penalty",
    "project_unstructured",
    "top_k_mask",
]
