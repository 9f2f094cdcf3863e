"""Sums of products named by letters: equal letters, equal labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import text
from onnxadmm.ops._base import (
    BuildScope,
    Labels,
    LabelScope,
    Operator,
    Shapes,
    describe,
    fix_all,
    register,
    unlabelled,
)

_DOTS = "..."


@dataclass(frozen=True, slots=True)
class _Equation:
    """The names of the axes of every operand and of the result; an ellipsis is one name."""

    operands: list[list[str]]
    result: list[str]


def _read(equation: str) -> _Equation:
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = [_names(term) for term in left.split(",")]
    every = [name for names in operands for name in names]
    if arrow:
        return _Equation(operands, _names(right))
    once = sorted(n for n in set(every) if every.count(n) == 1 and n != _DOTS)
    return _Equation(operands, ([_DOTS] if _DOTS in every else []) + once)


def _names(term: str) -> list[str]:
    before, dots, after = term.partition(_DOTS)
    return [*before, *([dots] if dots else []), *after]


@register
class Einsum(Operator):
    """Products of operands, summed over the letters that the result lacks."""

    op_type = "Einsum"
    versions = (12, 28)
    attributes = frozenset({"equation"})
    weight_ports = (0, 1)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Letters meet; sums over channels of computed tensors take the live ones."""
        equation = _read(text(node, "equation", ""))
        values = [v for v in node.inputs if v is not None]
        if _DOTS in equation.result or any(
            _DOTS in names or len(set(names)) < len(names) for names in equation.operands
        ):
            fix_all(node, scope, f"{describe(node)} uses an ellipsis or a diagonal")
            return
        reason = f"meets {describe(node)}"
        found: dict[str, Labels] = {}
        weighted: set[str] = set()
        moving: set[str] = set()
        for value, names in zip(values, equation.operands, strict=True):
            (moving if constant_of(value) is None else weighted).update(names)
            for name, labels in zip(names, scope.axes(value), strict=True):
                there = found.setdefault(name, labels)
                if len(there) == len(labels):
                    scope.unite(there, labels, reason)
                elif len(there) < len(labels):
                    # A size of 1 is stretched: it says nothing of the channels.
                    found[name] = labels
        if any(found[n].any() for n in found.keys() - set(equation.result) - weighted):
            scope.take_live(node)
        shape = scope.shape(node.outputs[0])
        result = [
            found.get(name, unlabelled(n)) for name, n in zip(equation.result, shape, strict=True)
        ]
        for name, labels in zip(equation.result, result, strict=True):
            if name in weighted - moving:
                scope.produce(node, labels)
        scope.assign(node.outputs[0], result)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's einsum: the same equations."""
        import torch

        equation = text(node, "equation", "").replace(" ", "")
        return scope.call(torch.einsum, equation, *(scope.tensor(v) for v in node.inputs))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """One for each combination of the letters' values, an ellipsis counted once."""
        equation = _read(text(node, "equation", ""))
        sizes: dict[str, int] = {}
        for value, names in zip(node.inputs, equation.operands, strict=True):
            assert value is not None
            shape = shapes[value.name or ""]
            dots = names.index(_DOTS) if _DOTS in names else len(names)
            behind = len(names) - dots - 1 if _DOTS in names else 0
            for name, n in zip(names[:dots], shape[:dots], strict=True):
                sizes[name] = max(sizes.get(name, 1), n)
            if _DOTS in names:
                inner = shape[dots : len(shape) - behind]
                sizes[_DOTS] = max(sizes.get(_DOTS, 1), int(np.prod(inner, dtype=np.int64)))
                for name, n in zip(names[dots + 1 :], shape[len(shape) - behind :], strict=True):
                    sizes[name] = max(sizes.get(name, 1), n)
        return math.prod(sizes.values()) if len(node.inputs) > 1 else 0
