"""Recurrent layers: x [T, N, I], W [D, G·H, I], R [D, G·H, H], B [D, 2·G·H], states [D, N, H].

T steps, N samples, D directions, G gates, H hidden units. Hidden unit i is row i of every gate in W, R and
B (and in the peepholes), column i of R, and channel i of every state and output. A unit whose slices are
zero reads nothing, and with its column of R nothing reads it: it can go, in both directions at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number, text
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    Shapes,
    describe,
    fix_all,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.cells import Cell, read_cells, run_gru, run_lstm, run_rnn

_REVERSED = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_BIAS, _LENGTHS, _PEEPHOLES = 3, 4, 7
_STATES = (5, 6)


class Recurrent(Operator):
    """A layer that reads a sequence step by step."""

    versions = (7, 14, 22)
    attributes = frozenset(
        {
            *("activations", "activation_alpha", "activation_beta", "clip"),
            *("direction", "hidden_size", "layout"),
        }
    )
    weight_ports = (1, 2, _BIAS, _PEEPHOLES)
    activations: ClassVar[tuple[str, ...]]
    """The standard's default activations of one direction, in lower case."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Couple all slices of a hidden unit; the input's channels are W's columns."""
        if integer(node, "layout", 0):
            fix_all(node, scope, f"{describe(node)}: no rule for sequences of layout 1")
            return
        x, w, r = node.inputs[:3]
        assert x is not None
        assert w is not None
        assert r is not None
        reason = f"meets {describe(node)}"
        x_axes, w_axes, r_axes = scope.axes(x), scope.axes(w), scope.axes(r)
        units = r_axes[2]
        scope.unite(x_axes[2], w_axes[2], reason)
        stiff = [*x_axes[:2], w_axes[0], r_axes[0]]
        rows = [w_axes[1], r_axes[1]]
        for port in (_BIAS, _PEEPHOLES):
            value = optional_input(node, port)
            if value is not None:
                axes = scope.axes(value)
                stiff.append(axes[0])
                rows.append(axes[1])
        for port in _STATES:
            value = optional_input(node, port)
            if value is not None:
                axes = scope.axes(value)
                stiff += axes[:2]
                rows.append(axes[2])
        for axis in rows:
            for gate in axis.reshape(-1, len(units)):
                scope.unite(units, gate, reason)
        for axis in stiff:
            scope.fix(axis, f"a step, a sample or a direction of {describe(node)}")
        scope.produce(node, units)
        steps, samples = scope.shape(x)[:2]
        directions = scope.shape(w)[0]
        state = [unlabelled(directions), unlabelled(samples), units]
        scope.assign(node.outputs[0], [unlabelled(steps), *state])
        for output in node.outputs[1:]:
            scope.assign(output, state)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new number of hidden units."""
        r = node.inputs[2]
        assert r is not None
        if "hidden_size" in node.attributes and scope.is_cut(r, 2):
            node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", scope.kept(r, 2))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call a function of this file that calls torch's layer, direction by direction, or a loop where it has none.

        Raises:
            UnsupportedError: A direction or an activation that isn't in the standard.
        """
        import operator

        direction = text(node, "direction", "forward")
        if direction not in _REVERSED:
            raise UnsupportedError(
                f"{describe(node)}: direction {direction!r} is not in the standard; export the model again"
            )
        layer = self._layer(node, _REVERSED[direction])
        x, *weights = (scope.tensor(optional_input(node, port)) for port in (0, 1, 2, _BIAS))
        states = [scope.tensor(optional_input(node, port)) for port in _STATES]
        peepholes = scope.tensor(optional_input(node, _PEEPHOLES))
        lengths = scope.tensor(optional_input(node, _LENGTHS))
        result = scope.call(run_layout, layer, x, [*weights, peepholes], states, lengths)
        return tuple(scope.call(operator.getitem, result, i) for i in range(len(node.outputs)))

    def _layer(self, node: ir.Node, directions: tuple[bool, ...]) -> Layer:
        """Return what a node runs; its cells only where torch's own layer doesn't compute them."""
        usual = optional_input(node, _PEEPHOLES) is None and not (
            integer(node, "input_forget", 0)
            or number(node, "clip", 0.0)
            or self._own_activations(node, len(directions))
        )
        cells = () if usual else read_cells(node, self.activations, len(directions))
        plain = tuple(c.plain for c in cells)
        return Layer(self.kind(node), directions, plain, bool(integer(node, "layout", 0)))

    def kind(self, node: ir.Node) -> str:
        """Return the key of the function that runs one direction."""
        raise NotImplementedError

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Every weight of W and R once for each step and sample."""
        x, w, r = (shapes[(v.name if v is not None else "") or ""] for v in node.inputs[:3])
        return x[0] * x[1] * (math.prod(w) + math.prod(r))

    def _own_activations(self, node: ir.Node, directions: int) -> bool:
        given = node.attributes.get("activations")
        if given is None:
            return False
        return tuple(a.lower() for a in given.as_strings()) != self.activations * directions


@register
class LSTM(Recurrent):
    """Long short-term memory; gates in the order input, output, forget, cell."""

    op_type = "LSTM"
    attributes = Recurrent.attributes | {"input_forget"}
    activations = ("sigmoid", "tanh", "tanh")

    def kind(self, node: ir.Node) -> str:
        """Name torch's LSTM."""
        del node
        return "lstm"


@register
class GRU(Recurrent):
    """Gated recurrent unit; gates in the order update, reset, hidden."""

    op_type = "GRU"
    attributes = Recurrent.attributes | {"linear_before_reset"}
    activations = ("sigmoid", "tanh")

    def kind(self, node: ir.Node) -> str:
        """Name torch's GRU, which multiplies before it resets, or the loop that resets before."""
        return "gru" if integer(node, "linear_before_reset", 0) else "gru_reset_first"


@register
class RNN(Recurrent):
    """h' = tanh(W x + R h + b), or relu."""

    op_type = "RNN"
    activations = ("tanh",)

    def kind(self, node: ir.Node) -> str:
        """Name torch's RNN of this activation."""
        given = node.attributes.get("activations")
        return "rnn_relu" if given and given.as_strings()[0].lower() == "relu" else "rnn_tanh"

    def _own_activations(self, node: ir.Node, directions: int) -> bool:
        given = node.attributes.get("activations")
        names = [a.lower() for a in given.as_strings()] if given is not None else ["tanh"]
        return names not in ([n] * max(directions, len(names)) for n in ("tanh", "relu"))


class Layer(NamedTuple):
    """What a recurrent node runs.

    Attributes:
        kind: What runs one direction.
        directions: For each direction whether it reads the sequence from its end.
        cells: What each direction's cells compute (`Cell.plain`); empty for torch's own.
        by_sample: Whether samples come before steps and directions (the standard's layout 1).
    """

    kind: str
    directions: tuple[bool, ...]
    cells: tuple[tuple[Any, ...], ...]
    by_sample: bool


def run_layout(
    layer: Layer, x: Any, weights: Sequence[Any], states: Sequence[Any], lengths: Any
) -> tuple[Any, Any, Any]:
    """Run a recurrent layer on tensors in either layout of the ONNX standard.

    Args:
        layer: The layer.
        x: [T, N, I]; by sample [N, T, I].
        weights: W [D, G·H, I], R [D, G·H, H], B [D, 2·G·H] (those of W, then those of R) or None, peepholes
            [D, 3·H] or None.
        states: First hidden state [D, N, H] and, of an LSTM, cell state; None for zeros. By sample [N, D, H].
        lengths: [N] or None.

    Returns:
        All hidden states [T, D, N, H], the last ones [D, N, H], the last cell states [D, N, H]; by sample
        [N, T, D, H] and [N, D, H].
    """
    if layer.by_sample:
        x = x.transpose(0, 1)
        states = [None if s is None else s.transpose(0, 1) for s in states]
    if lengths is None:
        y, h, c = run_layer(layer, x, weights, states)
    else:
        y, h, c = run_by_length(layer, x, weights, states, lengths)
    if layer.by_sample:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return y, h, c


def run_layer(
    layer: Layer, x: Any, weights: Sequence[Any], states: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """Run a recurrent layer, steps first; arguments are else those of `run_layout`."""
    import torch

    w, r, b, p = weights
    directions = layer.directions
    b = w.new_zeros(len(directions), 2 * w.shape[1]) if b is None else b
    zeros = x.new_zeros(len(directions), x.shape[1], r.shape[2])
    h, c = (zeros if state is None else state for state in states)
    outputs, hidden, cells = [], [], []
    for d, backwards in enumerate(directions):
        steps = x.flip(0) if backwards else x
        own = [w[d], r[d], *b[d].chunk(2)]
        first = h[d : d + 1], c[d : d + 1]
        if layer.cells:
            looks = None if p is None else p[d]
            loop = _LOOPS[layer.kind]
            y, last, cell = loop(Cell.of(layer.cells[d]), steps, own, first, looks)
        else:
            y, last, cell = _STEPS[layer.kind](steps, own, *first)
        outputs.append(y.flip(0) if backwards else y)
        hidden.append(last)
        cells.append(cell)
    return torch.stack(outputs, 1), torch.cat(hidden), torch.cat(cells)


def run_by_length(
    layer: Layer, x: Any, weights: Sequence[Any], states: Sequence[Any], lengths: Any
) -> tuple[Any, Any, Any]:
    """Run a recurrent layer on sequences of different lengths [N]; those of one length go together.

    Steps behind a sequence's end are zero, and the last state is that of its own last step. Arguments and
    results are else those of `run_layer`.
    """
    r = weights[1]
    steps, samples = x.shape[:2]
    directions = len(layer.directions)
    outputs = x.new_zeros(steps, directions, samples, r.shape[2])
    hidden = x.new_zeros(directions, samples, r.shape[2])
    cells = x.new_zeros(directions, samples, r.shape[2])
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().reshape(-1)
        if length > 0:
            own = [None if s is None else s[:, rows] for s in states]
            y, h, c = run_layer(layer, x[:length, rows], weights, own)
            outputs[:length, :, rows], hidden[:, rows], cells[:, rows] = y, h, c
    return outputs, hidden, cells


def _reorder(gates: tuple[int, ...], tensors: Sequence[Any]) -> list[Any]:
    """Put the gates of weights into torch's order, on views of the original parameters."""
    import torch

    parts = [t.chunk(len(gates)) for t in tensors]
    return [torch.cat([p[g] for g in gates]) for p in parts]


def _lstm(x: Any, weights: Sequence[Any], h: Any, c: Any) -> tuple[Any, Any, Any]:
    import torch

    # From input, output, forget, cell to torch's input, forget, cell, output.
    ordered = _reorder((0, 2, 3, 1), weights)
    # cuDNN computes gradients in its training mode only.
    train = torch.is_grad_enabled()
    y, last, cell = torch.lstm(x, (h, c), ordered, True, 1, 0.0, train, False, False)
    return y, last, cell


def _gru(x: Any, weights: Sequence[Any], h: Any, c: Any) -> tuple[Any, Any, Any]:
    import torch

    # From update, reset, hidden to torch's reset, update, new.
    ordered = _reorder((1, 0, 2), weights)
    train = torch.is_grad_enabled()
    y, last = torch.gru(x, h, ordered, True, 1, 0.0, train, False, False)
    return y, last, c


def _gru_reset_first(x: Any, weights: Sequence[Any], h: Any, c: Any) -> tuple[Any, Any, Any]:
    import torch
    import torch.nn.functional as F  # noqa: N812

    w, r, wb, rb = weights
    size = r.shape[1]
    reads = F.linear(x, w, wb + rb)
    state, outputs = h[0], []
    for read in reads:
        gated = torch.sigmoid(read[:, : 2 * size] + F.linear(state, r[: 2 * size]))
        update, reset = gated.chunk(2, 1)
        new = torch.tanh(read[:, 2 * size :] + F.linear(reset * state, r[2 * size :]))
        state = (1 - update) * new + update * state
        outputs.append(state)
    return torch.stack(outputs), state.unsqueeze(0), c


def _rnn_tanh(x: Any, weights: Sequence[Any], h: Any, c: Any) -> tuple[Any, Any, Any]:
    import torch

    train = torch.is_grad_enabled()
    y, last = torch.rnn_tanh(x, h, list(weights), True, 1, 0.0, train, False, False)
    return y, last, c


def _rnn_relu(x: Any, weights: Sequence[Any], h: Any, c: Any) -> tuple[Any, Any, Any]:
    import torch

    train = torch.is_grad_enabled()
    y, last = torch.rnn_relu(x, h, list(weights), True, 1, 0.0, train, False, False)
    return y, last, c


_STEPS: dict[str, Callable[..., Any]] = {
    "lstm": _lstm,
    "gru": _gru,
    "gru_reset_first": _gru_reset_first,
    "rnn_tanh": _rnn_tanh,
    "rnn_relu": _rnn_relu,
}

_LOOPS: dict[str, Callable[..., Any]] = {
    "lstm": run_lstm,
    "gru": run_gru,
    "gru_reset_first": run_gru,
    "rnn_tanh": run_rnn,
    "rnn_relu": run_rnn,
}
