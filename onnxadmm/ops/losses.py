"""Losses that a graph computes itself, as exports of whole training steps do: scores [N, C, d1..dk], labels [N, d1..dk]."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import BuildScope, Operator, register

_NO_LABEL = -100


class Loss(Operator):
    """One number, or one for each label, from scores by class, labels and weights [C] of the classes."""

    attributes = frozenset({"ignore_index", "reduction"})
    # Labels count the classes.
    fixes = " picks these channels by the label"

    def _arguments(self, node: ir.Node, scope: BuildScope) -> tuple[Any, ...]:
        """Return labels, weights, the label to ignore and what becomes of the single losses."""
        weight = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
        return (
            scope.tensor(node.inputs[1]),
            scope.tensor(weight),
            integer(node, "ignore_index", _NO_LABEL),
            text(node, "reduction", "mean"),
        )


@register
class NegativeLogLikelihoodLoss(Loss):
    """The score of the label's class, negated."""

    op_type = "NegativeLogLikelihoodLoss"
    versions = (12, 13, 22)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's nll_loss."""
        return scope.call(
            negative_score, scope.tensor(node.inputs[0]), *self._arguments(node, scope)
        )


@register
class SoftmaxCrossEntropyLoss(Loss):
    """The logarithm of the softmax at the label's class, negated; the second output is that of all classes."""

    op_type = "SoftmaxCrossEntropyLoss"
    versions = (12, 13)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's log_softmax and nll_loss."""
        import torch

        scores = scope.call(torch.log_softmax, scope.tensor(node.inputs[0]), dim=1)
        return scope.call(negative_score, scores, *self._arguments(node, scope)), scores


def negative_score(scores: Any, labels: Any, weight: Any, ignored: int, reduction: str) -> Any:
    """Return the weighted negative score at each label; a mean is over the weights that count."""
    import torch.nn.functional as F  # noqa: N812

    return F.nll_loss(scores, labels.long(), weight, ignore_index=ignored, reduction=reduction)
