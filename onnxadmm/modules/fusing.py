"""Torch's own kernels for functions that exporters write as several operators: each pass over memory counts.

What is fused computes the same function with the same numbers; a chain that only comes near one is left as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

_PRODUCT, _QUOTIENT, _SUM = torch.mul, torch.div, torch.add
# Exporters write constants in float32, some of them as the quotient of two rounded numbers.
_NEAR = 1e-6


def fuse(module: fx.GraphModule) -> None:
    """Replace chains of operators by the kernel of the function that they spell, in place.

    So far Gelu, x · ½ · (1 + erf(x / √2)), in any order of its factors (arXiv 1606.08415, section 2).

    Args:
        module: An imported graph; values in it that others read stay.
    """
    held = _Held(module)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is torch.erf:
            _fuse_gelu(node, held)
    module.graph.eliminate_dead_code()


class _Held:
    """The scalars that a module holds and that don't learn."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._buffers = dict(module.named_buffers(remove_duplicate=False))

    def number(self, node: Any) -> float | None:
        """Return what a node stands for if it is a constant scalar."""
        if isinstance(node, int | float):
            return float(node)
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        content = self._buffers.get(str(node.target))
        if not isinstance(content, Tensor) or content.dim() or not content.is_floating_point():
            return None
        return float(content)

    def is_number(self, node: Any, wanted: float) -> bool:
        """Whether a node is this constant."""
        found = self.number(node)
        return found is not None and math.isclose(found, wanted, rel_tol=_NEAR)


def _fuse_gelu(erf: fx.Node, held: _Held) -> None:
    """Replace the product around an error function, if that is a Gelu."""
    argument = erf.args[0]
    if not isinstance(argument, fx.Node) or not _is_call(argument, _PRODUCT, _QUOTIENT):
        return
    x = _scaled(argument, math.sqrt(0.5), held)
    total = _only_reader(erf, _SUM)
    if x is None or total is None or not held.is_number(_other(total, erf), 1.0):
        return
    # What has been multiplied up to here, the sum aside.
    missing, product = [x, 0.5], total
    while missing:
        above = _only_reader(product, _PRODUCT)
        if above is None:
            return
        factors = _factors(_other(above, product), missing, held)
        if factors is None:
            return
        missing, product = factors, above
    with product.graph.inserting_before(product):
        gelu = product.graph.call_function(F.gelu, (x,))
    product.replace_all_uses_with(gelu)


def _factors(factor: Any, missing: list[Any], held: _Held) -> list[Any] | None:
    """Return which factors are still missing after this one; None if it isn't one of them."""
    for k, wanted in enumerate(missing):
        same = factor is wanted or (isinstance(wanted, float) and held.is_number(factor, wanted))
        if same:
            return missing[:k] + missing[k + 1 :]
    if len(missing) > 1 and isinstance(factor, fx.Node) and _is_call(factor, _PRODUCT):
        x, half = missing
        if _scaled(factor, half, held) is x:
            return []
    return None


def _scaled(node: fx.Node, factor: float, held: _Held) -> fx.Node | None:
    """Return the other operand of a node that multiplies by a factor, or divides by its inverse."""
    first, second = node.args[:2]
    if node.target is _QUOTIENT:
        fits = node.kwargs.get("rounding_mode") is None and held.is_number(second, 1 / factor)
        return first if fits and isinstance(first, fx.Node) else None
    for one, other in ((first, second), (second, first)):
        if held.is_number(one, factor) and isinstance(other, fx.Node):
            return other
    return None


def _is_call(node: fx.Node, *functions: Any) -> bool:
    return node.op == "call_function" and node.target in functions


def _only_reader(node: fx.Node, function: Any) -> fx.Node | None:
    """Return the node that alone reads this one, if it calls the function on two operands."""
    readers = list(node.users)
    if len(readers) != 1 or not _is_call(readers[0], function) or readers[0].kwargs:
        return None
    return readers[0] if len(readers[0].args) == 2 else None  # noqa: PLR2004


def _other(node: fx.Node, operand: fx.Node) -> Any:
    """Return the other of a node's two operands; the operand itself where it stands twice."""
    first, second = node.args[:2]
    return second if first is operand else first
