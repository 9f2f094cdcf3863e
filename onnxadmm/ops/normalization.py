"""Normalisations whose statistics belong to a channel."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import BuildScope, LabelScope, Operator, describe, register


def _normalise(x: Any, mean: Any, variance: Any, *, scale: Any, bias: Any, eps: float) -> Any:
    """Normalise x [N, C, ...] by statistics [C] that a gradient reaches, which torch's kernel takes none for."""
    shape = (-1,) + (1,) * (x.dim() - 2)
    factor = scale * (variance + eps).rsqrt()
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


@register
class BatchNormalization(Operator):
    """(x - mean) / sqrt(var + epsilon) · scale + bias, by channel (axis 1), statistics fixed."""

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
        scope.assign(node.outputs[0], axes)
        for output in node.outputs[1:]:
            scope.assign(output, [channels])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's batch_norm with frozen statistics, as inference computes it."""
        import torch.nn.functional as F  # noqa: N812

        if (
            integer(node, "training_mode", 0)
            or not integer(node, "spatial", 1)
            or len(node.outputs) > 1
        ):
            raise UnsupportedError(
                f"{describe(node)}: the training form of BatchNormalization; export the model in inference mode"
            )
        x, scale, bias, mean, variance = (scope.tensor(v) for v in node.inputs[:5])
        if any(scope.constant(v) is None for v in node.inputs[3:5]):
            # Standardised weights (arXiv 1903.10520) are exported so: the gradient goes through what is computed.
            eps = number(node, "epsilon", 1e-5)
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
            eps=number(node, "epsilon", 1e-5),
        )
