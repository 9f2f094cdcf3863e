"""Recurrent cells that torch's layers don't compute: peepholes, other activations, clipped gates, coupled gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import describe


class Activation(NamedTuple):
    """An activation by its name in the standard, in lower case, with what it is computed with."""

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, x: Any) -> Any:
        """Compute it."""
        return _FUNCTIONS[self.name][0](x, *self.numbers)


class Cell(NamedTuple):
    """What a cell of one direction computes.

    Attributes:
        activations: In the standard's order: of the gates, of what is new, and of an LSTM's cell.
        clip: What goes into an activation stays within ± this; None for no bound.
        coupled: Whether an LSTM's forget gate is what its input gate leaves.
        reset_first: Whether a GRU resets its state before the product with R.
    """

    activations: tuple[Activation, ...]
    clip: float | None = None
    coupled: bool = False
    reset_first: bool = True

    @property
    def plain(self) -> tuple[Any, ...]:
        """The same as tuples, as calls of a torch graph hold it."""
        return (tuple(map(tuple, self.activations)), *self[1:])

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Cell:
        """Return the cell of `plain`."""
        activations, *rest = plain
        return cls(tuple(Activation(*a) for a in activations), *rest)

    def apply(self, which: int, x: Any) -> Any:
        """Clip, and compute an activation."""
        return self.activations[which](x if self.clip is None else x.clamp(-self.clip, self.clip))


def read_cells(node: ir.Node, standard: Sequence[str], directions: int) -> tuple[Cell, ...]:
    """Read a recurrent node's attributes, direction by direction.

    Args:
        node: The node.
        standard: Names of its default activations, in lower case.
        directions: How many there are.

    Raises:
        UnsupportedError: An activation that the standard doesn't name, or another number of them.
    """
    given = node.attributes.get("activations")
    names = (
        list(standard) * directions if given is None else [a.lower() for a in given.as_strings()]
    )
    known = all(n in _FUNCTIONS for n in names)
    if not known or len(names) != len(standard) * directions:
        raise UnsupportedError(
            f"{describe(node)}: activations {names} can't be trained; compress without training"
        )
    # Each activation takes the next number of each list, where it has one.
    lists = [iter(_floats(node, f"activation_{kind}")) for kind in ("alpha", "beta")]
    found = [Activation(n, _numbers(_FUNCTIONS[n][1], lists)) for n in names]
    clip = number(node, "clip", 0.0)
    step = len(standard)
    return tuple(
        Cell(
            tuple(found[k : k + step]),
            clip or None,
            bool(integer(node, "input_forget", 0)),
            not integer(node, "linear_before_reset", 0),
        )
        for k in range(0, len(found), step)
    )


def _floats(node: ir.Node, name: str) -> Sequence[float]:
    return node.attributes[name].as_floats() if name in node.attributes else ()


def _numbers(defaults: Sequence[float], lists: Sequence[Iterator[float]]) -> tuple[float, ...]:
    return tuple(float(next(own, d)) for d, own in zip(defaults, lists, strict=False))


def run_lstm(
    cell: Cell, x: Any, weights: Sequence[Any], states: Sequence[Any], peepholes: Any
) -> tuple[Any, Any, Any]:
    """Run an LSTM over a sequence, one direction.

    Args:
        cell: What it computes.
        x: [T, N, I].
        weights: W [4·H, I], R [4·H, H] and their biases [4·H], gates in the order input, output, forget, cell.
        states: Hidden and cell state, [1, N, H] each.
        peepholes: [3·H], of input, output and forget gate, or None.

    Returns:
        All hidden states [T, N, H], the last one and the last cell state [1, N, H].
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    w, r, wb, rb = weights
    h, c = states[0][0], states[1][0]
    p_input, p_output, p_forget = (0, 0, 0) if peepholes is None else peepholes.chunk(3)
    outputs = []
    for read in F.linear(x, w, wb + rb):
        gates = (read + F.linear(h, r)).chunk(4, 1)
        opened = cell.apply(0, gates[0] + p_input * c)
        kept = 1 - opened if cell.coupled else cell.apply(0, gates[2] + p_forget * c)
        c = kept * c + opened * cell.apply(1, gates[3])
        h = cell.apply(0, gates[1] + p_output * c) * cell.activations[2](c)
        outputs.append(h)
    return torch.stack(outputs), h.unsqueeze(0), c.unsqueeze(0)


def run_gru(
    cell: Cell, x: Any, weights: Sequence[Any], states: Sequence[Any], peepholes: Any
) -> tuple[Any, Any, Any]:
    """Run a GRU over a sequence, one direction; as `run_lstm`, gates in the order update, reset, hidden."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    del peepholes
    w, r, wb, rb = weights
    size = r.shape[1]
    state, outputs = states[0][0], []
    for read in F.linear(x, w, wb):
        recurrent = F.linear(state, r[: 2 * size], rb[: 2 * size])
        update, reset = cell.apply(0, read[:, : 2 * size] + recurrent).chunk(2, 1)
        if cell.reset_first:
            again = F.linear(reset * state, r[2 * size :], rb[2 * size :])
        else:
            again = reset * F.linear(state, r[2 * size :], rb[2 * size :])
        new = cell.apply(1, read[:, 2 * size :] + again)
        state = (1 - update) * new + update * state
        outputs.append(state)
    return torch.stack(outputs), state.unsqueeze(0), states[1]


def run_rnn(
    cell: Cell, x: Any, weights: Sequence[Any], states: Sequence[Any], peepholes: Any
) -> tuple[Any, Any, Any]:
    """Run a plain recurrent layer over a sequence, one direction; as `run_lstm`, with one gate."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    del peepholes
    w, r, wb, rb = weights
    state, outputs = states[0][0], []
    for read in F.linear(x, w, wb + rb):
        state = cell.apply(0, read + F.linear(state, r))
        outputs.append(state)
    return torch.stack(outputs), state.unsqueeze(0), states[1]


def _torch(name: str) -> Callable[..., Any]:
    def function(x: Any) -> Any:
        import torch

        return getattr(torch, name)(x)

    return function


def _functional(name: str) -> Callable[..., Any]:
    def function(x: Any, *numbers: float) -> Any:
        import torch.nn.functional as F  # noqa: N812

        return getattr(F, name)(x, *numbers)

    return function


def _thresholded(x: Any, alpha: float) -> Any:
    return x * (x > alpha)


_FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "relu": (_torch("relu"), ()),
    "tanh": (_torch("tanh"), ()),
    "sigmoid": (_torch("sigmoid"), ()),
    "softsign": (_functional("softsign"), ()),
    "softplus": (_functional("softplus"), ()),
    # Where ONNX Runtime's numbers differ from those of the operators of the same name, they are ONNX Runtime's.
    "affine": (lambda x, alpha, beta: alpha * x + beta, (0.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * (beta * x).tanh(), (0.0, 0.0)),
    "hardsigmoid": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), (0.2, 0.5)),
    "leakyrelu": (_functional("leaky_relu"), (0.01,)),
    "elu": (_functional("elu"), (1.0,)),
    "thresholdedrelu": (_thresholded, (0.0,)),
}
"""Function and default numbers by the name of an activation, in lower case."""
