"""Normalisations whose statistics belong to a channel."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import BuildScope, LabelScope, Operator, describe, register
from onnxadmm.ops.axes import origin_of
from onnxadmm.ops.sample_statistics import renormalise


def _normalise(x: Any, mean: Any, variance: Any, *, scale: Any, bias: Any, eps: float) -> Any:
    """Normalise x [N, C, ...] by statistics [C] that a gradient reaches, which torch's kernel takes none for."""
    shape = (-1,) + (1,) * (x.dim() - 2)
    factor = scale * (variance + eps).rsqrt()
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


def _statistics(x: Any) -> Any:
    """Return the mean and the variance [C] of x [N, C, ...] itself."""
    over = [0, *range(2, x.dim())]
    return x.mean(over), x.var(over, correction=0)


def _follow(old: Any, new: Any, share: float) -> Any:
    """Return running statistics after a batch; the old ones keep so large a share."""
    return old * share + new * (1 - share)


@register
class BatchNormalization(Operator):
    """(x - mean) / sqrt(var + epsilon) · scale + bias, by channel (axis 1).

    Statistics are fixed, or from opset 14 on, in the training form, those of the input itself: so torch's older exporter
    writes standardised weights (arXiv 1903.10520).
    """

    op_type = "BatchNormalization"
    versions = (7, 9, 14, 15)
    attributes = frozenset({"epsilon", "momentum", "spatial", "training_mode"})
    weight_ports = (1, 2)
    statistics_ports = (3, 4)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Scale, bias, mean and variance go with their channel."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        channels = axes[1] if len(axes) > 1 else axes[0]
        for value in node.inputs[1:5]:
            assert value is not None
            scope.unite(channels, scope.axes(value)[0], f"meets {describe(node)}")
        if integer(node, "training_mode", 0):
            renormalise(node, scope, [axes[0], *axes[2:]])
        scope.assign(node.outputs[0], axes)
        for output in node.outputs[1:]:
            scope.assign(output, [channels])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's batch_norm with frozen statistics, as inference computes it; of its own, compute them."""
        import torch.nn.functional as F  # noqa: N812

        trains = bool(integer(node, "training_mode", 0))
        if not integer(node, "spatial", 1) or (len(node.outputs) > 1 and not trains):
            raise UnsupportedError(
                f"{describe(node)}: the training form of BatchNormalization; export the model in inference mode"
            )
        x, scale, bias, mean, variance = (scope.tensor(v) for v in node.inputs[:5])
        eps = number(node, "epsilon", 1e-5)
        if trains:
            found = scope.call(_statistics, x)
            new = [scope.call(operator.getitem, found, k) for k in (0, 1)]
            result = scope.call(_normalise, x, *new, scale=scale, bias=bias, eps=eps)
            share = number(node, "momentum", 0.9)
            followed = [
                scope.call(_follow, old, n, share)
                for old, n in zip((mean, variance), new, strict=True)
            ]
            return (result, *followed)[: len(node.outputs)]
        if any(origin_of(v) is None for v in node.inputs[3:5]):
            # Standardised weights are exported so too: the gradient goes through what is computed.
            return scope.call(_normalise, x, mean, variance, scale=scale, bias=bias, eps=eps)
        return scope.call(
            F.batch_norm,
            x,
            mean,
            variance,
            weight=scale,
            bias=bias,
            training=False,
            # The standard's is the old statistics' share, torch's the new batch's.
            momentum=1 - number(node, "momentum", 0.9),
            eps=eps,
        )
