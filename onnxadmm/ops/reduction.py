"""Reductions over axes, running sums and the places of extremes.

A value that is computed over all of an axis depends on how many channels there are: a reduction is taken
over the live ones, and its channels are renormalised. The others pass on.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    normal_axis,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.counts import dividers, reduced_axes
from onnxadmm.ops.sizes import known, normal_axes, settled


class Reduction(Operator):
    """Some axes, or all of them, become one value."""

    attributes = frozenset({"axes", "keepdims", "noop_with_empty_axes"})
    plain: ClassVar[bool] = True
    """Whether reducing no axis at all changes nothing."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Renormalise the axes that are reduced; hand the others on."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        given = node.attributes.get("axes")
        port = optional_input(node, 1)
        values: Any = list(given.as_ints()) if given is not None else []
        if given is None and port is not None:
            values = settled(port, scope)
            if values is None:
                fix_all(node, scope, f"{describe(node)} computes its axes at run time")
                return
        reduced = set(reduced_axes(node, len(axes), values))
        keep = integer(node, "keepdims", 1)
        result = []
        for a, labels in enumerate(axes):
            if a in reduced:
                scope.renormalise(node, labels, f"{describe(node)} is computed over them")
            if a not in reduced:
                result.append(labels)
            elif keep:
                result.append(unlabelled(1))
        if any(axes[a].any() for a in reduced):
            # The reference divides by the number of live ones too.
            for user, _ in dividers(node, math.prod(len(axes[a]) for a in reduced)):
                scope.take_live(user)
        scope.assign(node.outputs[0], result)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch reduction over the axes.

        Raises:
            UnsupportedError: No axes where the standard leaves the result open.
        """
        x = node.inputs[0]
        assert x is not None
        given = node.attributes.get("axes")
        port = optional_input(node, 1)
        values: Any = list(given.as_ints()) if given is not None else []
        if given is None and port is not None:
            values = known(port, scope)
            if values is None:
                return scope.call(
                    _over_computed,
                    self.op_type,
                    scope.tensor(x),
                    scope.tensor(port),
                    bool(integer(node, "keepdims", 1)),
                    bool(integer(node, "noop_with_empty_axes", 0)),
                )
        axes = sorted(normal_axes(values, scope.rank(x)))
        if not axes and integer(node, "noop_with_empty_axes", 0):
            if self.plain:
                return scope.tensor(x)
            raise UnsupportedError(
                f"{describe(node)}: {self.op_type} over no axis can't be trained yet; compress without training"
            )
        axes = axes or list(range(scope.rank(x)))
        keep = bool(integer(node, "keepdims", 1))
        return scope.call(self.function(), scope.tensor(x), axes, keep)

    def function(self) -> Any:
        """Return the function of (tensor, axes, keep) that computes it."""
        raise NotImplementedError


def _over_computed(op_type: str, x: Any, axes: Any, keep: bool, noop: bool) -> Any:
    """Reduce over the axes that a tensor holds; over all of them, or none, where it is empty."""
    function = _FUNCTIONS[op_type][1]
    chosen = sorted(a % max(x.dim(), 1) for a in axes.reshape(-1).tolist())
    if not chosen and noop:
        # Over no axis each element is reduced alone.
        return function(x.unsqueeze(-1), [x.dim()], False)
    return function(x, chosen or list(range(x.dim())), keep)


def _mean(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the mean over the axes."""
    return x.mean(dim=axes, keepdim=keep)


def _sum(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the sum over the axes, in the tensor's own type."""
    return x.sum(dim=axes, keepdim=keep, dtype=x.dtype)


def _max(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the largest value over the axes."""
    return _extreme(x, "amax", axes, keep)


def _min(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the smallest value over the axes."""
    return _extreme(x, "amin", axes, keep)


def _extreme(x: Any, function: str, axes: list[int], keep: bool) -> Any:
    """Return the extreme over the axes; over nothing, the type's other end."""
    import torch

    if all(x.shape[a] for a in axes):
        return getattr(torch, function)(x, dim=axes, keepdim=keep)
    if x.dtype == torch.bool:
        nothing: Any = function == "amin"
    elif x.dtype.is_floating_point:
        nothing = -torch.inf if function == "amax" else torch.inf
    else:
        ends = torch.iinfo(x.dtype)
        nothing = ends.min if function == "amax" else ends.max
    shape = torch.sum(x, dim=axes, keepdim=keep).shape
    return torch.full(shape, nothing, dtype=x.dtype, device=x.device)


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the product over the axes, one after the other: torch's own takes one."""
    for axis in reversed(axes):
        x = x.prod(dim=axis, keepdim=keep, dtype=x.dtype)
    return x


def _l1(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the sum of absolute values over the axes."""
    return _sum(x.abs(), axes, keep)


def _l2(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the Euclidean norm over the axes; its gradient at zero is zero."""
    import torch

    return torch.linalg.vector_norm(x, dim=axes, keepdim=keep)


def _square_sum(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the sum of squares over the axes."""
    return _sum(x * x, axes, keep)


def _log_sum(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the logarithm of the sum over the axes."""
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Any, axes: list[int], keep: bool) -> Any:
    """Return the logarithm of the sum of exponentials over the axes, without overflow."""
    return x.logsumexp(dim=axes, keepdim=keep)


_FUNCTIONS = {
    "ReduceMean": ((1, 11, 13, 18), _mean, True, "The mean over axes."),
    "ReduceSum": ((1, 11, 13), _sum, True, "The sum over axes."),
    "ReduceMax": ((1, 11, 12, 13, 18, 20), _max, True, "The largest value over axes."),
    "ReduceMin": ((1, 11, 12, 13, 18, 20), _min, True, "The smallest value over axes."),
    "ReduceProd": ((1, 11, 13, 18), _product, True, "The product over axes."),
    "ReduceL1": ((1, 11, 13, 18), _l1, False, "The sum of absolute values over axes."),
    "ReduceL2": ((1, 11, 13, 18), _l2, False, "The Euclidean norm over axes."),
    "ReduceSumSquare": ((1, 11, 13, 18), _square_sum, False, "The sum of squares over axes."),
    "ReduceLogSum": ((1, 11, 13, 18, 28), _log_sum, False, "The logarithm of the sum over axes."),
    "ReduceLogSumExp": (
        (1, 11, 13, 18, 28),
        _log_sum_exp,
        False,
        "The logarithm of the sum of exponentials over axes.",
    ),
}


def _register_all() -> None:
    for op_type, (versions, function, plain, meaning) in _FUNCTIONS.items():
        base = LogSum if op_type == "ReduceLogSum" else Reduction
        members = {
            "op_type": op_type,
            "versions": versions,
            "plain": plain,
            "function": _returning(function),
            "__doc__": meaning,
        }
        register(type(op_type, (base,), members))


def _returning(function: Any) -> Any:
    return lambda _: function


class LogSum(Reduction):
    """The logarithm of a sum: not finite at 0."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix all: a removed channel is zero in the reference, where this is infinite."""
        fix_all(node, scope, f"{describe(node)} is not finite at 0")


_register_all()


class ExtremePlace(Operator):
    """The index of the largest or smallest element of an axis; of equal ones the first or the last."""

    versions = (1, 11, 12, 13)
    attributes = frozenset({"axis", "keepdims", "select_last_index"})
    function: ClassVar[str]

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the axis; hand the others on."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        axis = normal_axis(integer(node, "axis", 0), len(axes))
        scope.fix(axes[axis], f"{describe(node)} is computed over all of these channels")
        axes[axis : axis + 1] = [unlabelled(1)] if integer(node, "keepdims", 1) else []
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's function, on the flipped axis where the last of equal ones is asked for."""
        return scope.call(
            _place,
            scope.tensor(node.inputs[0]),
            self.function,
            integer(node, "axis", 0),
            bool(integer(node, "keepdims", 1)),
            bool(integer(node, "select_last_index", 0)),
        )


def _place(x: Any, function: str, axis: int, keep: bool, last: bool) -> Any:
    """Return the index of the extreme element along the axis."""
    import torch

    found = getattr(torch, function)(x.flip(axis) if last else x, dim=axis, keepdim=keep)
    return x.shape[axis] - 1 - found if last else found


@register
class ArgMax(ExtremePlace):
    """The index of the largest element."""

    op_type, function = "ArgMax", "argmax"


@register
class ArgMin(ExtremePlace):
    """The index of the smallest element."""

    op_type, function = "ArgMin", "argmin"


class Running(Operator):
    """A sum or product of the elements up to each place along an axis, from either end."""

    attributes = frozenset({"exclusive", "reverse"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the axis; hand the others on."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        axis = settled(node.inputs[1], scope)
        if axis is None:
            fix_all(node, scope, f"{describe(node)} computes its axis at run time")
            return
        summed = axes[normal_axes(axis, len(axes))[0]]
        scope.fix(summed, f"{describe(node)} is computed over all of these channels")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's cumsum or cumprod."""
        axis = known(node.inputs[1], scope)
        return scope.call(
            _running,
            self.op_type.lower(),
            scope.tensor(node.inputs[0]),
            scope.tensor(node.inputs[1]) if axis is None else int(axis.reshape(())),
            bool(integer(node, "exclusive", 0)),
            bool(integer(node, "reverse", 0)),
        )


@register
class CumSum(Running):
    """The running sum."""

    op_type, versions = "CumSum", (11, 14)


@register
class CumProd(Running):
    """The running product."""

    op_type, versions = "CumProd", (26,)


def _running(function: str, x: Any, axis: Any, exclusive: bool, reverse: bool) -> Any:
    """Return what torch's `function` makes of the elements up to each place, or before it, along the axis."""
    import torch

    axis = int(axis)
    turned = x.flip(axis) if reverse else x
    if exclusive:
        size = x.shape[axis]
        neutral = torch.ones_like if function == "cumprod" else torch.zeros_like
        nothing = neutral(turned.narrow(axis, 0, min(size, 1)))
        turned = torch.cat([nothing, turned.narrow(axis, 0, max(size - 1, 0))], axis)
    result = getattr(turned, function)(axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result
