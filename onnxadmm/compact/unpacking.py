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

DOMAIN = "onnxadmm.packed"
SMALLEST_OPSET = 12
"""Constant holds whole numbers as attributes, and Max takes them, from opset 12 on."""
SMALLEST_IR_VERSION = 8
"""Functions with attributes of their own."""

_FUNCTIONS = {
    # Digits.decode
    "digits": """
        digits <base, per_word, count> (w) => (o) {
            u = Constant <value_ints = [-1, 1]> ()
            v = Constant <value_ints = [-1]> ()
            s = Constant <value_ints = [0]> ()
            z = Constant <value_int = 0> ()
            e = Constant <value_int = 1> ()
            b = Constant <value_int: int = @base> ()
            d = Constant <value_int: int = @per_word> ()
            n = Constant <value_ints: ints = @count> ()
            i = Range (z, d, e)
            p = Pow (b, i)
            x = Cast <to = 7> (w)
            c = Reshape (x, u)
            q = Div (c, p)
            r = Mod (q, b)
            f = Reshape (r, v)
            o = Slice (f, s, n)
        }""",
    # Symbols.decode: c the common codes, r the rare ones
    "escape": """
        escape <last> (c, r) => (o) {
            l = Constant <value_int: int = @last> ()
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
    # Positions.decode: where the ones of the bit string are
    "ends": """
        ends <count> (b) => (o) {
            n = Constant <value_ints: ints = @count> ()
            v, o = TopK <axis = 0> (b, n)
        }""",
    # Positions.decode: (end - i) * divisor + cumsum(remainder + 1) - 1, the i taken into the sum;
    # x the ends, r the remainders
    "golomb": """
        golomb <divisor> (x, r) => (o) {
            d = Constant <value_int: int = @divisor> ()
            z = Constant <value_int = 0> ()
            e = Constant <value_int = 1> ()
            k = Sub (d, e)
            t = Sub (r, k)
            s = CumSum (t, z)
            m = Mul (x, d)
            a = Add (m, s)
            o = Add (a, k)
        }""",
    "order": """
        order <count> () => (o) {
            n = Constant <value_int: int = @count> ()
            z = Constant <value_int = 0> ()
            e = Constant <value_int = 1> ()
            o = Range (z, n, e)
        }""",
    # Codes c at places p, 0 elsewhere: code 0 is the zero of the table.
    "scatter": """
        scatter <size> (p, c) => (o) {
            n = Constant <value_ints: ints = @size> ()
            e = Constant <value_int = 1> ()
            z = ConstantOfShape <value = int64[1] {0}> (n)
            a = Add (c, e)
            o = ScatterElements <axis = 0> (z, p, a)
        }""",
    "lookup": """
        lookup <shape> (t, c) => (o) {
            s = Constant <value_ints: ints = @shape> ()
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
    sizes = [math.prod(numbers.get(n, [0])) for n in ("size", "shape")]
    if max(*sizes, _first(numbers, "count"), *(a.size for a in given), 0) > MAX_ELEMENTS:
        return None
    try:
        return _DECODERS[node.op_type](numbers, *given)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError):
        return None


def _first(numbers: dict[str, Any], name: str) -> int:
    value = numbers.get(name, 0)
    return int(value if isinstance(value, int) else next(iter(value), 0))


MAX_ELEMENTS = tensors.MAX_DENSE_BYTES // 8
"""A few bytes must not ask for more memory than a sparse tensor may."""


def _digits(numbers: dict[str, Any], words: Array) -> Array:
    base, fit = int(numbers["base"]), int(numbers["per_word"])
    if base < 2 or not 1 <= fit <= 32 or base**fit > 1 << 32:  # noqa: PLR2004
        raise ValueError("no digits of a word")
    return Digits(words.reshape(-1), base, fit, _first(numbers, "count")).decode()


def _escape(numbers: dict[str, Any], common: Array, rare: Array) -> Array:
    last = int(numbers["last"])
    escaped = common == last
    return np.where(escaped, rare[np.maximum(np.cumsum(escaped) - 1, 0)] + last, common)


def _ends(numbers: dict[str, Any], bits: Array) -> Array:
    ends = np.flatnonzero(bits)
    if len(ends) != _first(numbers, "count"):
        raise ValueError("another number of places")
    return ends


def _golomb(numbers: dict[str, Any], ends: Array, remainders: Array) -> Array:
    k = int(numbers["divisor"]) - 1
    steps: Array = np.cumsum(remainders - k)
    return ends * (k + 1) + steps + k


def _scatter(numbers: dict[str, Any], places: Array, codes: Array) -> Array:
    dense = np.zeros(_first(numbers, "size"), np.int64)
    dense[places] = codes + 1
    return dense


_DECODERS: dict[str, Callable[..., Array]] = {
    "digits": _digits,
    "escape": _escape,
    "ends": _ends,
    "golomb": _golomb,
    "order": lambda numbers: np.arange(int(numbers["count"])),
    "scatter": _scatter,
    "lookup": lambda numbers, table, codes: table[codes].reshape(numbers["shape"]),
    "scaled": lambda _, levels, scales: levels * scales,
}


def _replace_by_initializer(model: ir.Model, node: ir.Node, content: Array) -> None:
    """Let the node's first output be held by the graph, and drop what then nobody reads."""
    old = node.outputs[0]
    name, old.name = old.name, None
    new = hold(model.graph, name or "", np.ascontiguousarray(content))
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    drop_unread(model.graph, [old])
