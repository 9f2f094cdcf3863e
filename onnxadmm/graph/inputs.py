"""Inputs that a model can be run with: sizes for its open dimensions, and random arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError, one_line
from onnxadmm.graph.walking import constant_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# What to try for an open dimension, best first. Images: large enough for five poolings, then what
# networks with a fixed head were trained with. Others (sequence lengths): short, below position tables.
IMAGE_SIZES = (64, 224, 32, 128, 16, 8, 1, 299, 256, 512)
OTHER_SIZES = (8, 16, 32, 64, 128, 224, 1, 256, 512, 1024, 4096, 16000)
# Ranks to try for an input that doesn't say.
RANKS = (2, 4, 3, 1, 0, 5)
_IMAGE_RANK = 4
# Operators that keep their first input's shape, seen through when looking for what a weight implies.
_TRANSPARENT = {
    "Cast",
    "Clip",
    "Identity",
    "QuantizeLinear",
    "DequantizeLinear",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Dropout",
}


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the graph inputs that must be fed: those that no initializer gives a default."""
    initializers = model.graph.initializers
    return [v for v in model.graph.inputs if v.name not in initializers]


def pin_dims(
    model: ir.Model,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    attempt: int = 0,
    *,
    batch_within: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return a concrete shape for every real input.

    The first dimension, where it is open, becomes `batch`. Another open dimension becomes what the
    weights that read it imply, else a usual size. Dimensions of one symbolic name agree.

    Args:
        model: The model; isn't changed.
        batch: Size of open first dimensions.
        sizes: Sizes of symbolic dimensions by name; these win.
        attempt: Which of the usual sizes to take, from 0; beyond the last, the last.
        batch_within: Where the first dimension is fixed, the open one after it is a batch: a recurrent
            state [layers, batch, width].
    """
    given = dict(sizes or {})
    inputs = real_inputs(model)
    # First pass: names whose size is known from a weight or from being the batch.
    known = dict(given)
    for value in inputs:
        implied = _implied(value)
        for axis, dim in enumerate(value.shape or ()):
            name = dim.value if isinstance(dim, ir.SymbolicDim) else None
            if name and axis in implied:
                known.setdefault(name, implied[axis])
    for value in inputs:
        if value.shape is not None and len(value.shape):
            dim = value.shape[0]
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                known.setdefault(dim.value, batch)
    return {_name(v): _shape(v, batch, known, attempt, batch_within) for v in inputs}


def _shape(
    value: ir.Value, batch: int, known: dict[str, int], attempt: int, batch_within: bool
) -> tuple[int, ...]:
    implied = _implied(value)
    dims: Sequence[int | ir.SymbolicDim | None]
    if value.shape is None:
        rank = implied.get(-1, RANKS[min(attempt, len(RANKS) - 1)])
        dims = [None] * rank
    else:
        dims = list(value.shape)
    shape: list[int] = []
    for axis, dim in enumerate(dims):
        # Some exporters write -1 for "open".
        if isinstance(dim, int) and dim >= 0:
            shape.append(dim)
            continue
        name = dim.value if isinstance(dim, ir.SymbolicDim) else None
        image = len(dims) >= _IMAGE_RANK and axis > 1
        usual = IMAGE_SIZES if image else OTHER_SIZES
        guess = usual[min(attempt, len(usual) - 1)]
        if name and name in known:
            size = known[name]
        elif axis == 0 or (batch_within and axis == 1 and shape[0] != batch):
            size = batch
        else:
            size = implied.get(axis, guess)
        if name:
            known[name] = size
        shape.append(size)
    return tuple(shape)


def _implied(value: ir.Value) -> dict[int, int]:
    """Return the sizes by axis that the weights reading a value imply; key -1 is the rank.

    A MatMul takes inputs of any rank: of one with unknown rank, 2 is a guess for its axis only.
    """
    found: dict[int, int] = {}
    seen = {id(value)}
    waiting = [value]
    while waiting:
        current = waiting.pop()
        for node, index in current.uses():
            if index == 0 and node.op_type in _TRANSPARENT and node.outputs:
                if id(node.outputs[0]) not in seen:
                    seen.add(id(node.outputs[0]))
                    waiting.append(node.outputs[0])
            elif index == 0:
                found.update(_implied_by(node, value))
    return found


def _implied_by(node: ir.Node, value: ir.Value) -> dict[int, int]:
    rank = None if value.shape is None else len(value.shape)
    weight = constant_shape(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None:
        return {}
    match node.op_type:
        case "Conv" if len(weight) > 2:  # noqa: PLR2004  (one spatial axis at least)
            group = node.attributes.get_int("group", 1)
            return {-1: len(weight), 1: weight[1] * int(group or 1)}
        case "ConvTranspose" if len(weight) > 2:  # noqa: PLR2004  (as above)
            return {-1: len(weight), 1: weight[0]}
        case "BatchNormalization" | "InstanceNormalization":
            return {1: weight[0]}
        case "Gemm":
            transposed = [bool(node.attributes.get_int(k, 0)) for k in ("transA", "transB")]
            return {-1: 2, 0 if transposed[0] else 1: weight[1 if transposed[1] else 0]}
        case "MatMul" if len(weight) > 1 and (rank is None or rank > 1):
            return {1: weight[-2]} if rank is None else {rank - 1: weight[-2]}
        case "LayerNormalization" if rank and len(weight) == 1:
            return {rank - 1: weight[0]}
        case "LSTM" | "GRU" | "RNN" if len(weight) == 3:  # noqa: PLR2004  ([directions, gates, in])
            return {-1: 3, 2: weight[2]}
    return {}


def implied_rank(value: ir.Value) -> int | None:
    """Return the only rank of an input that the operators reading it allow, if they say."""
    return _implied(value).get(-1)


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of a constant without touching its data, or None when it isn't constant.

    Looks through DequantizeLinear, Cast and Identity.
    """
    while value is not None:
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Constant":
            array = constant_of(value)
            return None if array is None else array.shape
        if node.op_type not in {"DequantizeLinear", "Cast", "Identity"}:
            return None
        value = node.inputs[0]
    return None


def random_inputs(
    model: ir.Model,
    shapes: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
    *,
    zeros: bool = False,
) -> dict[str, np.ndarray]:
    """Return an array for every real input that its type and any sane graph accept.

    Floats are drawn from N(0, 1). Integers that look up a table are drawn over all of its rows; others are 0
    or 1 (bytes: all values; scalars and vectors: 1, a size or a count). Truth values are drawn; strings are empty.

    Args:
        model: The model.
        shapes: A shape for each real input, as `pin_dims` gives.
        rng: Where randomness comes from.
        zeros: Integers are 0 instead.

    Raises:
        UnsupportedError: An input's element type has no arrays.
    """
    return {
        _name(v): _random_array(v, tuple(shapes[_name(v)]), rng, zeros) for v in real_inputs(model)
    }


def _random_array(
    value: ir.Value, shape: tuple[int, ...], rng: np.random.Generator, zeros: bool
) -> np.ndarray:
    if value.dtype == ir.DataType.STRING:
        return np.full(shape, "", dtype=object)
    try:
        dtype = ir.DataType.FLOAT.numpy() if value.dtype is None else value.dtype.numpy()
    except TypeError as e:
        raise UnsupportedError(
            f"graph input {one_line(repr(_name(value)), 60)}: {one_line(e, 80)}; change its type"
        ) from None
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu" and value.dtype is not None:
        if zeros:
            return np.zeros(shape, dtype)
        if value.dtype == ir.DataType.UINT8:
            return rng.integers(0, 256, shape).astype(dtype)
        rows = _rows(value)
        if rows and shape:
            return rng.integers(0, rows, shape).astype(dtype)
        if len(shape) < 2:  # noqa: PLR2004  (a scalar or a vector)
            return np.ones(shape, dtype)
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


# What an index passes on its way to the table that it looks up.
_CARRYING = {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze"} | {
    "Tile",
    "Transpose",
    "Unsqueeze",
}


def _rows(value: ir.Value) -> int | None:
    """Return the number of rows of the smallest table that an integer input looks up, or None.

    A table is what a Gather reads, what a OneHot spreads, or a constant of all numbers to compare with.
    """
    found: list[int] = []
    waiting, seen = [value], {id(value)}
    while waiting:
        for node, port in waiting.pop().uses():
            other = constant_shape(node.inputs[1 - port]) if port < 2 <= len(node.inputs) else None  # noqa: PLR2004
            if node.op_type == "Gather" and port == 1 and other:
                found.append(other[int(node.attributes.get_int("axis", 0) or 0)])
            elif node.op_type == "OneHot" and port == 0 and other is not None:
                depth = constant_of(node.inputs[1])
                found += [] if depth is None else [int(depth.reshape(-1)[0])]
            elif node.op_type == "Equal" and other is not None:
                numbers = constant_of(node.inputs[1 - port])
                if numbers is not None and numbers.dtype.kind in "iuf" and numbers.size > 2:  # noqa: PLR2004
                    found.append(int(numbers.max()) + 1)
            elif node.op_type in _CARRYING and (port == 0 or node.op_type == "Concat"):
                fresh = [v for v in node.outputs if id(v) not in seen]
                seen |= {id(v) for v in fresh}
                waiting += fresh
    usable = [n for n in found if n > 0]
    return min(usable) if usable else None


def attempts(
    model: ir.Model, batch: int, sizes: Mapping[str, int] | None, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs to try, best first: other sizes for open dimensions, integers all zero.

    A model with fixed sizes and no integers yields one.
    """
    seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
    integers = _takes_integers(model)
    for attempt in range(max(len(OTHER_SIZES), len(IMAGE_SIZES))):
        for within in (False, True):
            shapes = pin_dims(model, batch, sizes, attempt, batch_within=within)
            key = tuple(shapes.items())
            if key in seen:
                continue
            seen.add(key)
            for zeros in (False, True) if integers else (False,):
                yield random_inputs(model, shapes, np.random.default_rng(seed), zeros=zeros)


def has_zeros(model: ir.Model, number: int) -> bool:
    """Whether the attempt of this number, from 0, has all integers at zero."""
    return _takes_integers(model) and number % 2 == 1


def _takes_integers(model: ir.Model) -> bool:
    return any(v.dtype is not None and v.dtype.is_integer() for v in real_inputs(model))


def _name(value: ir.Value) -> str:
    return value.name or ""
