"""Normalisations by statistics of the sample itself: over its positions, its channels or both."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, number
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    normal_axis,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.convolution import tie_groups
from onnxadmm.ops.elementwise import meet


def renormalise(node: ir.Node, scope: LabelScope, labels: Iterable[Any]) -> None:
    """Let axes that a statistic is taken over shrink: it is taken over the live channels then."""
    for axis in labels:
        scope.renormalise(node, axis, f"{describe(node)} takes its statistics over them")


class Normalisation(Operator):
    """x, brought to a common scale by statistics over some axes, times a scale, plus a bias."""

    @abstractmethod
    def over(self, node: ir.Node, rank: int) -> Sequence[int]:
        """Return the axes that the statistics are taken over."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Renormalise the axes of the statistics; hand the others on."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        over = self.over(node, len(axes))
        parameters = [scope.axes(v) for v in node.inputs[1:] if v is not None]
        met = meet(scope, [axes, *parameters], scope.shape(x), f"meets {describe(node)}")
        renormalise(node, scope, (met[a] for a in over))
        scope.assign(node.outputs[0], met)
        for statistic in node.outputs[1:]:
            scope.assign(statistic, [unlabelled(1) if a in over else v for a, v in enumerate(met)])


def require_float_statistics(node: ir.Node) -> None:
    """Refuse statistics in another precision than float32, which torch computes them in.

    Raises:
        UnsupportedError: `stash_type` isn't float.
    """
    if integer(node, "stash_type", ir.DataType.FLOAT) != ir.DataType.FLOAT:
        raise UnsupportedError(
            f"{describe(node)}: stash_type other than float can't be trained yet; compress without training"
        )


class FromAxis(Normalisation):
    """Over all axes from `axis` on."""

    attributes = frozenset({"axis", "epsilon", "stash_type"})

    def over(self, node: ir.Node, rank: int) -> Sequence[int]:
        """Return the trailing axes."""
        return range(normal_axis(integer(node, "axis", -1), rank), rank)


@register
class LayerNormalization(FromAxis):
    """(x - mean) / sqrt(variance + epsilon) · scale + bias."""

    op_type = "LayerNormalization"
    # Below opset 17 it is ONNX Runtime's own, which its optimizer writes into the standard's domain.
    versions = (1, 17)
    weight_ports = (1, 2)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's layer_norm."""
        require_float_statistics(node)
        x = node.inputs[0]
        assert x is not None
        axis = self.over(node, scope.rank(x))[0]
        bias = scope.tensor(optional_input(node, 2))
        scale, epsilon = scope.tensor(node.inputs[1]), number(node, "epsilon", 1e-5)
        result = scope.call(layer_norm, scope.tensor(x), scale, bias, axis, epsilon)
        if len(node.outputs) == 1:
            return result
        statistics = scope.call(layer_statistics, scope.tensor(x), axis, epsilon)
        return result, *(scope.call(operator.getitem, statistics, k) for k in (0, 1))


def layer_statistics(x: Any, axis: int, epsilon: float) -> tuple[Any, Any]:
    """Return the mean, and the inverse of the deviation, over the axes from `axis` on, in float32 at least."""
    import torch

    x = x.float() if x.element_size() < 4 else x  # noqa: PLR2004  (bytes of float32)
    over = tuple(range(axis % x.ndim, x.ndim))
    variance, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    return mean, torch.rsqrt(variance + epsilon)


def layer_norm(x: Any, scale: Any, bias: Any, axis: int, epsilon: float) -> Any:
    """Normalise over the axes from `axis` on; scale and bias may be broadcast to them."""
    import torch.nn.functional as F  # noqa: N812

    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    result = F.layer_norm(x, shape, None, None, epsilon) * scale
    return result if bias is None else result + bias


@register
class RMSNormalization(FromAxis):
    """x / sqrt(mean(x²) + epsilon) · scale."""

    op_type = "RMSNormalization"
    versions = (23,)
    weight_ports = (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it."""
        require_float_statistics(node)
        x = node.inputs[0]
        assert x is not None
        axis = self.over(node, scope.rank(x))[0]
        scale, epsilon = scope.tensor(node.inputs[1]), number(node, "epsilon", 1e-5)
        return scope.call(rms_norm, scope.tensor(x), scale, axis, epsilon)


@register
class SimplifiedLayerNormalization(RMSNormalization):
    """RMSNormalization as ONNX Runtime's optimizer writes it, in the standard's domain but not of the standard."""

    op_type = "SimplifiedLayerNormalization"
    versions = (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it; the second output is the inverse of the root mean square."""
        result = super().build(node, scope)
        if len(node.outputs) == 1:
            return result
        x = node.inputs[0]
        assert x is not None
        axis, epsilon = self.over(node, scope.rank(x))[0], number(node, "epsilon", 1e-5)
        return result, scope.call(inverse_rms, scope.tensor(x), axis, epsilon)


def inverse_rms(x: Any, axis: int, epsilon: float) -> Any:
    """Return the inverse of the root mean square over the axes from `axis` on."""
    import torch

    square = x.square().mean(dim=tuple(range(axis % x.ndim, x.ndim)), keepdim=True)
    return torch.rsqrt(square + epsilon)


def rms_norm(x: Any, scale: Any, axis: int, epsilon: float) -> Any:
    """Divide by the root mean square over the axes from `axis` on."""
    return x * inverse_rms(x, axis, epsilon) * scale


@register
class LpNormalization(Normalisation):
    """x / ‖x‖ over one axis, with the sum of magnitudes or the Euclidean norm."""

    op_type = "LpNormalization"
    versions = (1, 22)
    attributes = frozenset({"axis", "p"})

    def over(self, node: ir.Node, rank: int) -> Sequence[int]:
        """Return the one axis."""
        return [normal_axis(integer(node, "axis", -1), rank)]

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's normalize, which also leaves zeros as they are."""
        import torch.nn.functional as F  # noqa: N812

        x, axis = scope.tensor(node.inputs[0]), integer(node, "axis", -1)
        return scope.call(F.normalize, x, p=float(integer(node, "p", 2)), dim=axis)


@register
class MeanVarianceNormalization(Normalisation):
    """(x - mean) / (deviation + 1e-9) over any axes."""

    op_type = "MeanVarianceNormalization"
    versions = (9, 13)
    attributes = frozenset({"axes"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Take live channels: ONNX Runtime makes a constant one not-a-number by rounding."""
        super().labels(node, scope)
        scope.take_live(node)

    def over(self, node: ir.Node, rank: int) -> Sequence[int]:
        """Return the axes; by default all but the channels."""
        return sorted(normal_axis(a, rank) for a in integers(node, "axes", (0, 2, 3)))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it."""
        x = node.inputs[0]
        assert x is not None
        return scope.call(_standardise, scope.tensor(x), tuple(self.over(node, scope.rank(x))))


def _standardise(x: Any, axes: tuple[int, ...]) -> Any:
    """Take the mean off and divide by the deviation."""
    centred = x - x.mean(dim=axes, keepdim=True)
    variance = centred.square().mean(dim=axes, keepdim=True)
    # The root of zero has no gradient: a constant x must not turn the weights into not-a-number.
    return centred / (variance.clamp_min(1e-18).sqrt() + 1e-9)


@register
class LRN(Operator):
    """x / (bias + alpha / size · Σ x²)^beta, the sum over `size` neighbouring channels."""

    op_type = "LRN"
    versions = (1, 13)
    attributes = frozenset({"alpha", "beta", "bias", "size"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the channels, which read their neighbours; hand the others on."""
        assert node.inputs[0] is not None
        axes = scope.axes(node.inputs[0])
        scope.fix(axes[1], f"{describe(node)} lets these channels read their neighbours")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's local_response_norm.

        Raises:
            UnsupportedError: An even size, whose window torch lays the other way.
        """
        import torch.nn.functional as F  # noqa: N812

        size = integer(node, "size", 1)
        if size % 2 == 0:
            raise UnsupportedError(
                f"{describe(node)}: the even size {size} can't be trained yet; compress without training"
            )
        return scope.call(
            F.local_response_norm,
            scope.tensor(node.inputs[0]),
            size,
            alpha=number(node, "alpha", 1e-4),
            beta=number(node, "beta", 0.75),
            k=number(node, "bias", 1.0),
        )


@register
class GroupNormalization(Operator):
    """(x - mean) / sqrt(variance + epsilon) · scale + bias, by groups of channels.

    The standard withdrew version 18, whose scale and bias belong to groups: the checker refuses it.
    """

    op_type = "GroupNormalization"
    versions = (21,)
    attributes = frozenset({"epsilon", "num_groups", "stash_type"})
    weight_ports = (1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Let every group keep as many channels; statistics are taken over the live ones."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        groups = integer(node, "num_groups", 1)
        if groups == len(axes[1]) > 1:
            scope.fix(axes[1], f"{describe(node)} has a group of each of these channels")
        tie_groups(scope, axes[1], groups, f"meets {describe(node)}")
        renormalise(node, scope, axes[1:])
        for value in node.inputs[1:]:
            assert value is not None
            scope.unite(axes[1], scope.axes(value)[0], f"meets {describe(node)}")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch.group_norm: the one of torch.nn refuses a group of one element."""
        import torch

        require_float_statistics(node)
        x, scale, bias = (scope.tensor(v) for v in node.inputs[:3])
        groups, epsilon = integer(node, "num_groups", 1), number(node, "epsilon", 1e-5)
        return scope.call(torch.group_norm, x, groups, scale, bias, epsilon)


@register
class InstanceNormalization(Operator):
    """(x - mean) / sqrt(variance + epsilon) · scale + bias, by channel of each sample."""

    op_type = "InstanceNormalization"
    versions = (6, 22)
    attributes = frozenset({"epsilon"})
    weight_ports = (1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Scale and bias go with their channel, whose statistics are its own."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        for value in node.inputs[1:]:
            assert value is not None
            scope.unite(axes[1], scope.axes(value)[0], f"meets {describe(node)}")
        renormalise(node, scope, axes[2:])
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch.instance_norm: the one of torch.nn refuses a channel of one position."""
        import torch

        x, scale, bias = (scope.tensor(v) for v in node.inputs[:3])
        return scope.call(
            torch.instance_norm,
            x,
            scale,
            bias,
            None,
            None,
            use_input_stats=True,
            momentum=0.0,
            eps=number(node, "epsilon", 1e-5),
            cudnn_enabled=True,
        )
