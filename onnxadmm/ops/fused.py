"""Operators of ONNX Runtime's own domain that fuse standard ones, as its optimizer writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    Shapes,
    describe,
    fix_all,
    optional_input,
    register,
)
from onnxadmm.ops.activation import Unary
from onnxadmm.ops.convolution import Conv
from onnxadmm.ops.elementwise import Elementwise, meet
from onnxadmm.ops.linear import Gemm, multiply_labels
from onnxadmm.ops.sample_statistics import layer_norm, renormalise, rms_norm

MICROSOFT = "com.microsoft"


@register
class Gelu(Unary):
    """x · Φ(x)."""

    domain, op_type, versions = MICROSOFT, "Gelu", (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's gelu."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.gelu, scope.tensor(node.inputs[0]))


@register
class QuickGelu(Unary):
    """x · sigmoid(alpha · x)."""

    domain, op_type, versions = MICROSOFT, "QuickGelu", (1,)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it."""
        import torch

        x = scope.tensor(node.inputs[0])
        scaled = scope.call(torch.mul, x, number(node, "alpha", 1.702))
        return scope.call(torch.mul, x, scope.call(torch.sigmoid, scaled))


class _BiasedGelu(Elementwise):
    """Gelu of x plus an optional bias [C] over the last axis."""

    domain, versions = MICROSOFT, (1,)
    weight_ports = (1,)
    approximate = "none"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Add the bias and call torch's gelu."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        x = scope.tensor(node.inputs[0])
        bias = scope.tensor(optional_input(node, 1))
        total = x if bias is None else scope.call(torch.add, x, bias)
        return scope.call(F.gelu, total, approximate=self.approximate)


@register
class BiasGelu(_BiasedGelu):
    """Gelu of a sum."""

    op_type = "BiasGelu"


@register
class FastGelu(_BiasedGelu):
    """Gelu by tanh."""

    op_type, approximate = "FastGelu", "tanh"


def _activation(kind: str, given: list[float]) -> tuple[Callable[..., Any], tuple[float, ...]]:
    """Return the function that FusedConv's attributes name, and its arguments after x.

    Raises:
        KeyError: Another activation, or another number of parameters.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    functions: dict[tuple[str, int], Callable[..., Any]] = {
        ("Relu", 0): torch.relu,
        ("Tanh", 0): torch.tanh,
        ("Sigmoid", 0): torch.sigmoid,
        ("LeakyRelu", 1): F.leaky_relu,
        ("Clip", 2): torch.clamp,
        ("HardSigmoid", 2): _hard_sigmoid,
    }
    return functions[kind, len(given)], tuple(given)


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return (x * alpha + beta).clamp(0, 1)


@register
class FusedConv(Conv):
    """activation(Conv(x, weight, bias) + z)."""

    domain, op_type, versions = MICROSOFT, "FusedConv", (1,)
    attributes = Conv.attributes | {"activation", "activation_params"}

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Do what Conv does; what is added meets the result."""
        super().labels(node, scope)
        addend = optional_input(node, 3)
        if addend is not None:
            result, shape = scope.axes(node.outputs[0]), scope.shape(node.outputs[0])
            met = meet(scope, [result, scope.axes(addend)], shape, f"meets {describe(node)}")
            scope.assign(node.outputs[0], met)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the convolution, the sum and the activation."""
        import torch

        result = super().build(node, scope)
        addend = scope.tensor(optional_input(node, 3))
        result = result if addend is None else scope.call(torch.add, result, addend)
        parameters = node.attributes.get("activation_params")
        given = list(parameters.as_floats()) if parameters is not None else []
        return _activate(node, scope, result, given)


def _activate(node: ir.Node, scope: BuildScope, result: Any, given: list[float]) -> Any:
    """Call the activation that the node names, if any.

    Raises:
        UnsupportedError: Another one than its fusions write.
    """
    kind = text(node, "activation", "")
    if not kind:
        return result
    try:
        function, arguments = _activation(kind, given)
    except KeyError:
        raise UnsupportedError(
            f"{describe(node)}: activation {kind!r} with {len(given)} parameters can't be trained yet; "
            "compress without training"
        ) from None
    return scope.call(function, result, *arguments)


@register
class FusedGemm(Gemm):
    """activation(Gemm(A, B, C))."""

    domain, op_type = MICROSOFT, "FusedGemm"
    versions: ClassVar[tuple[int, ...]] = (1,)  # type: ignore[assignment]
    attributes = Gemm.attributes | {
        "activation",
        "activation_alpha",
        "activation_beta",
        "activation_gamma",
    }

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the product and the activation."""
        names = ("activation_alpha", "activation_beta", "activation_gamma")
        given = [node.attributes[n].as_float() for n in names if n in node.attributes]
        return _activate(node, scope, super().build(node, scope), given)


@register
class FusedMatMul(Operator):
    """alpha · A' B', either with its last two axes swapped."""

    domain, op_type, versions = MICROSOFT, "FusedMatMul", (1,)
    attributes = frozenset({"alpha", "transA", "transB", "transBatchA", "transBatchB"})
    weight_ports = (0, 1)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Do what MatMul does with the axes in their order."""
        if self._swaps_batches(node):
            fix_all(node, scope, f"{describe(node)}: no rule for swapped batches")
            return
        operands = []
        for port, name in enumerate(("transA", "transB")):
            value = node.inputs[port]
            assert value is not None
            axes = list(scope.axes(value))
            if integer(node, name, 0) and len(axes) > 1:
                axes[-2:] = axes[:-3:-1]
            operands.append(axes)
        multiply_labels(node, scope, *operands)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's matmul.

        Raises:
            UnsupportedError: Batches swapped with rows.
        """
        import torch

        if self._swaps_batches(node):
            raise UnsupportedError(
                f"{describe(node)}: swapped batches can't be trained yet; compress without training"
            )
        operands = []
        for port, name in enumerate(("transA", "transB")):
            value = node.inputs[port]
            assert value is not None
            x = scope.tensor(value)
            swap = integer(node, name, 0) and scope.rank(value) > 1
            operands.append(scope.call(torch.transpose, x, -2, -1) if swap else x)
        product = scope.call(torch.matmul, *operands)
        alpha = number(node, "alpha", 1.0)
        return product if alpha == 1.0 else scope.call(torch.mul, product, alpha)

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Output elements times the contracted length."""
        assert node.inputs[0] is not None
        a = shapes[node.inputs[0].name or ""]
        inner = a[-2] if integer(node, "transA", 0) and len(a) > 1 else a[-1]
        return math.prod(shapes[node.outputs[0].name or ""]) * inner

    def _swaps_batches(self, node: ir.Node) -> bool:
        return bool(integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0))


class _Skip(Operator):
    """The normalisation of x + skip + bias over the last axis; the fourth output is the sum."""

    domain, versions = MICROSOFT, (1,)
    attributes = frozenset({"epsilon"})
    bias_port: int

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """What is added meets; renormalise the last axis."""
        x = node.inputs[0]
        assert x is not None
        added = [
            scope.axes(v) for v in (x, node.inputs[1], optional_input(node, self.bias_port)) if v
        ]
        factors = [scope.axes(v) for v in node.inputs[2 : self.bias_port] if v is not None]
        axes = meet(scope, [*added, *factors], scope.shape(x), f"meets {describe(node)}")
        renormalise(node, scope, axes[-1:])
        scope.assign(node.outputs[0], axes)
        for output in node.outputs[1:]:
            if output.name:
                # Mean and deviation have one index on the last axis, the sum has them all.
                size = scope.shape(output)[-1]
                scope.assign(output, [*axes[:-1], axes[-1][:size]])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Add, then normalise; the statistics aren't computed."""
        import torch

        total = scope.call(torch.add, scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1]))
        bias = scope.tensor(optional_input(node, self.bias_port))
        total = total if bias is None else scope.call(torch.add, total, bias)
        result = self.normalise(node, scope, total)
        return result if len(node.outputs) <= _SUM else (result, None, None, total)

    def normalise(self, node: ir.Node, scope: BuildScope, total: Any) -> Any:
        """Return the normalised sum."""
        raise NotImplementedError


_SUM = 3


@register
class SkipLayerNormalization(_Skip):
    """LayerNormalization of a residual."""

    op_type = "SkipLayerNormalization"
    weight_ports = (2, 3, 4)
    bias_port = 4

    def normalise(self, node: ir.Node, scope: BuildScope, total: Any) -> Any:
        """Call the function of LayerNormalization."""
        scale, bias = scope.tensor(node.inputs[2]), scope.tensor(optional_input(node, 3))
        return scope.call(layer_norm, total, scale, bias, -1, number(node, "epsilon", 1e-12))


@register
class SkipSimplifiedLayerNormalization(_Skip):
    """RMSNormalization of a residual."""

    op_type = "SkipSimplifiedLayerNormalization"
    weight_ports = (2, 3)
    bias_port = 3

    def normalise(self, node: ir.Node, scope: BuildScope, total: Any) -> Any:
        """Call the function of RMSNormalization."""
        scale, epsilon = scope.tensor(node.inputs[2]), number(node, "epsilon", 1e-12)
        return scope.call(rms_norm, total, scale, -1, epsilon)


@register
class EmbedLayerNormalization(Operator):
    """The normalised sum of word, position and segment embeddings of ids [N, S]."""

    domain, op_type, versions = MICROSOFT, "EmbedLayerNormalization", (1,)
    attributes = frozenset({"epsilon", "mask_index_type"})
    weight_ports = (2, 3, 4, 5, 6)
    fixes = ": fused embeddings can't be cut yet"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's embedding and layer_norm; the second output counts the mask, the third is the sum."""
        mask = scope.tensor(optional_input(node, 7))
        inputs = [scope.tensor(optional_input(node, port)) for port in (0, 1, 2, 3, 4, 8)]
        total = scope.call(embed, *inputs)
        scale, bias = scope.tensor(node.inputs[5]), scope.tensor(node.inputs[6])
        result = scope.call(layer_norm, total, scale, bias, -1, number(node, "epsilon", 1e-12))
        return result, scope.call(count_mask, mask, inputs[0]), total


def embed(*inputs: Any) -> Any:
    """Return the sum of embeddings.

    Args:
        inputs: Ids and segments [N, S], the tables of words, positions and segments, and positions; segments
            and positions may be None.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    ids, segments, words, places, kinds, positions = inputs
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
    total = F.embedding(ids.long(), words) + F.embedding(positions.long(), places)
    return total if segments is None else total + F.embedding(segments.long(), kinds)


def count_mask(mask: Any, ids: Any) -> Any:
    """Return how many ids of each sample count, int32 [N]; 0 without a mask."""
    import torch

    if mask is None:
        return torch.zeros(len(ids), dtype=torch.int32, device=ids.device)
    return mask.sum(1, dtype=torch.int32)
