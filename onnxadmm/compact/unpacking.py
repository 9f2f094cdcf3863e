"""The decoders of packed tensors as ONNX functions, and their reading back.

Each function is the ONNX twin of a `decode` in `onnxadmm.compact.coding`. ONNX Runtime inlines functions
and computes what depends on constants alone when a session is made, so a packed tensor costs the file its
streams, and inference nothing. For that, every shape must follow from attributes: ONNX Runtime doesn't
fold an operator whose output shape depends on values (NonZero, Compress), hence TopK for the ends of the
unary code, whose ties go to the lower index. DequantizeLinear isn't folded either, hence Mul.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxadmm.compact.coding import Digits
from onnxadmm.graph import tensors
from onnxadmm.graph.holding import drop_unread, hold
from onnxadmm.graph.walking import constant_of

Array = np.ndarray[Any, Any]

DOMAIN = "admm"
"""Short, since every call and every decoder names it."""
SMALLEST_OPSET = 12
"""Constant holds whole numbers as attributes, and Max takes them, from opset 12 on."""
_FIELD_BYTES = 4
"""A field's key and length, around what it holds."""
SMALLEST_IR_VERSION = 8
"""Functions with attributes of their own."""

# Positions.decode: p = end * divisor - cumsum(divisor - 1 - remainder) - 1; what TopK finds are ones.
_PLACES = """
            n = Shape (r)
            d = Constant <value_int: int = @d> ()
            h = Sub (d, d)
            v, e = TopK (b, n)
            k = CumSum (r, h)
            m = Mul (e, d)
            a = Sub (m, k)
            p = Sub (a, v)"""
# With divisor 1: where the ones of the bit string are.
_ENDS = """
            n = Shape (c)
            v, e = TopK (b, n)
            p = Sub (e, v)"""
# What stands at the places p, and zeros elsewhere. Of float32: what the table t says of codes c, or values c; of
# other types codes c, and -1 elsewhere, the last of the table.
_SINKS = {
    "fill": (
        "t, c",
        """
            s = Constant <value_ints: ints = @s> ()
            q = ReduceProd (s)
            f = ConstantOfShape (q)
            g = Gather (t, c)
            y = ScatterElements (f, p, g)
            o = Reshape (y, s)""",
    ),
    "spread": (
        "c",
        """
            s = Constant <value_ints: ints = @s> ()
            q = ReduceProd (s)
            f = ConstantOfShape (q)
            y = ScatterElements (f, p, c)
            o = Reshape (y, s)""",
    ),
    "scatter": (
        "c",
        """
            s = Constant <value_ints: ints = @s> ()
            f = ConstantOfShape <value = int64[1] {-1}> (s)
            o = ScatterElements (f, p, c)""",
    ),
}

_FUNCTIONS = {
    # Digits.decode: p the powers of the base from the first on, w the words [W, 1]; v is [-1]
    "base": """
        base <p, n> (w) => (o) {
            p = Constant <value_ints: ints = @p> ()
            n = Constant <value_ints: ints = @n> ()
            e = Sign (n)
            v = Neg (e)
            z = Sub (n, n)
            x = Cast <to = 7> (w)
            b = ReduceMin (p)
            d = Div (p, b)
            q = Div (x, d)
            r = Mod (q, b)
            c = Reshape (r, v)
            o = Slice (c, z, n)
        }""",
    # Symbols.decode: c the common codes, r the rare ones
    "escape": """
        escape <l> (c, r) => (o) {
            l = Constant <value_int: int = @l> ()
            z = Constant <value_int = 0> ()
            e = Constant <value_int = 1> ()
            m = Equal (c, l)
            i = Cast <to = 7> (m)
            s = CumSum (i, z)
            j = Sub (s, e)
            k = Max (j, z)
            g = Gather (r, k)
            h = Add (g, l)
            o = Where (m, h, c)
        }""",
    **{
        name: f"{name} <d, s> (b, r, {takes}) => (o) {{{_PLACES}{body}\n        }}"
        for name, (takes, body) in _SINKS.items()
    },
    **{
        f"{name}1": f"{name}1 <s> (b, {takes}) => (o) {{{_ENDS}{body}\n        }}"
        for name, (takes, body) in _SINKS.items()
    },
    "order": """
        order <n> () => (o) {
            n = Constant <value_int: int = @n> ()
            z = Constant <value_int = 0> ()
            e = Constant <value_int = 1> ()
            o = Range (z, n, e)
        }""",
    "lookup": """
        lookup <s> (t, c) => (o) {
            s = Constant <value_ints: ints = @s> ()
            g = Gather (t, c)
            o = Reshape (g, s)
        }""",
    "scaled": """
        scaled (l, s) => (o) {
            o = Mul (l, s)
        }""",
}


@cache
def _definition(name: str, opset: int) -> bytes:
    """Return a decoder as a serialised FunctionProto."""
    text = f"""
        <ir_version: {SMALLEST_IR_VERSION}, opset_import: ["": {opset}]> g () => () {{}}
        <domain: "{DOMAIN}", opset_import: ["": {opset}]> {_FUNCTIONS[name]}"""
    # The way through onnx-ir, as a function that was loaded has gone it.
    return _serialised(ir.from_proto(onnx.parser.parse_model(text).functions[0]))


def add_functions(model: ir.Model, names: Iterable[str]) -> None:
    """Give the model these decoders, in place, and import their domain."""
    opset = model.opset_imports[""]
    for name in names:
        function = ir.from_proto(onnx.FunctionProto.FromString(_definition(name, opset)))
        model.functions[function.identifier()] = function
    model.graph.opset_imports[DOMAIN] = 1


def decoder_bytes(names: Iterable[str], opset: int) -> int:
    """Return what these decoders take in a file, in bytes."""
    return sum(len(_definition(name, opset)) + _FIELD_BYTES for name in names)


def holds_packed(model: ir.Model) -> bool:
    """Whether the model holds packed tensors."""
    return DOMAIN in model.opset_imports


def unpack_tensors(model: ir.Model) -> list[str]:
    """Turn packed tensors back into initializers, in place: what `pack_tensors` made of them.

    A function of our domain that isn't ours to the letter, and streams that don't decode, stay as they
    are: then the model's own words hold.

    Returns:
        Names of the tensors.
    """
    opset = model.opset_imports.get("", 0)
    ours = {
        key[1]
        for key, function in model.functions.items()
        if key[0] == DOMAIN
        and key[1] in _FUNCTIONS
        and _serialised(function) == _definition(key[1], opset)
    }
    known: dict[str, Array] = {}
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in ours:
            result = _decode(node, [_held(v, known) for v in node.inputs])
            if result is not None:
                known[node.outputs[0].name or ""] = result
    wanted = [
        node
        for node in model.graph
        if node.outputs
        and node.outputs[0].name in known
        and any(user.domain != DOMAIN for user, _ in node.outputs[0].uses())
    ]
    names = []
    for node in wanted:
        names.append(node.outputs[0].name or "")
        _replace_by_initializer(model, node, known[names[-1]])
    if not any(n.domain == DOMAIN for n in model.graph):
        for key in [k for k in model.functions if k[0] == DOMAIN]:
            del model.functions[key]
        model.graph.opset_imports.pop(DOMAIN, None)
    return names


def _serialised(function: ir.Function) -> bytes:
    return bytes(ir.to_proto(function).SerializeToString(deterministic=True))


def _held(value: ir.Value | None, known: dict[str, Array]) -> Array | None:
    if value is None:
        return None
    held = constant_of(value)
    return known.get(value.name or "") if held is None else held


def _decode(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """Return what a decoder's call computes, or None where an input isn't known or nothing valid."""
    numbers = {n: a.value for n, a in node.attributes.items()}
    given = [a for a in inputs if a is not None]
    if len(given) != len(inputs):
        return None
    try:
        sizes = [math.prod(numbers.get("s", [0])), _first(numbers, "n")]
        digits = len(numbers["p"]) if isinstance(numbers.get("p"), tuple | list) else 1
        if max(*sizes, *(digits * a.size for a in given)) > MAX_ELEMENTS:
            return None
        return _DECODERS[node.op_type](numbers, *given)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError):
        return None


def _first(numbers: dict[str, Any], name: str) -> int:
    value = numbers.get(name, 0)
    return int(value if isinstance(value, int) else next(iter(value), 0))


MAX_ELEMENTS = tensors.MAX_DENSE_BYTES // 8
"""A few bytes must not ask for more memory than a sparse tensor may."""


def _digits(numbers: dict[str, Any], words: Array) -> Array:
    powers = [int(p) for p in numbers["p"]]
    base, fit = powers[0], len(powers)
    if base < 2 or not 1 <= fit <= 32 or base**fit > 1 << 32:  # noqa: PLR2004
        raise ValueError("no digits of a word")
    if powers != [base ** (i + 1) for i in range(fit)]:
        raise ValueError("no powers of the base")
    count = _first(numbers, "n")
    if count > words.size * fit:
        raise ValueError("fewer codes")
    return Digits(words.reshape(-1), base, fit, count).decode()


def _escape(numbers: dict[str, Any], common: Array, rare: Array) -> Array:
    last = int(numbers["l"])
    escaped = common == last
    return np.where(escaped, rare[np.maximum(np.cumsum(escaped) - 1, 0)] + last, common)


def _ends(bits: Array, count: int) -> Array:
    ends = np.flatnonzero(bits)
    if len(ends) != count:
        raise ValueError("another number of places")
    return ends


def _places(numbers: dict[str, Any], bits: Array, remainders: Array) -> Array:
    ends = _ends(bits, remainders.size)
    places: Array = ends * int(numbers["d"]) - np.cumsum(remainders) - 1
    return places


def _sparse(numbers: dict[str, Any], places: Array, table: Array, codes: Array) -> Array:
    return _spread(numbers, places, table[codes])


def _spread(numbers: dict[str, Any], places: Array, values: Array) -> Array:
    if values.dtype != np.float32:
        raise ValueError("no float32")
    dense = np.zeros(math.prod(numbers["s"]), np.float32)
    dense[places] = values
    return dense.reshape(numbers["s"])


def _scatter(numbers: dict[str, Any], places: Array, codes: Array) -> Array:
    dense = np.full(math.prod(numbers["s"]), -1, np.int64)
    dense[places] = codes
    return dense


def _behind_remainders(sink: Callable[..., Array]) -> Callable[..., Array]:
    return lambda numbers, bits, remainders, *rest: sink(
        numbers, _places(numbers, bits, remainders), *rest
    )


def _behind_ends(sink: Callable[..., Array]) -> Callable[..., Array]:
    return lambda numbers, bits, *rest: sink(numbers, _ends(bits, rest[-1].size) - 1, *rest)


_DECODERS: dict[str, Callable[..., Array]] = {
    "base": _digits,
    "escape": _escape,
    "fill": _behind_remainders(_sparse),
    "spread": _behind_remainders(_spread),
    "scatter": _behind_remainders(_scatter),
    "fill1": _behind_ends(_sparse),
    "spread1": _behind_ends(_spread),
    "scatter1": _behind_ends(_scatter),
    "order": lambda numbers: np.arange(_first(numbers, "n")),
    "lookup": lambda numbers, table, codes: table[codes].reshape(numbers["s"]),
    "scaled": lambda _, levels, scales: levels * scales,
}


def _replace_by_initializer(model: ir.Model, node: ir.Node, content: Array) -> None:
    """Let the node's first output be held by the graph, and drop what then nobody reads."""
    old = node.outputs[0]
    name, old.name = old.name, None
    new = hold(model.graph, name or "", np.ascontiguousarray(content))
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    drop_unread(model.graph, [old])
