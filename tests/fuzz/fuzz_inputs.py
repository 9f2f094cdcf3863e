"""Strategies that draw hostile files: sound ones with a few faults, as bytes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import yaml
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxadmm.graph.tensors import walk

TEXTS = [
    "",
    "x",
    "w",
    "y",
    "..",
    "/etc/passwd",
    "a/../../b",
    "w.bin",
    "\x1b[31m",
    "é" * 300,
    "\u202e",
]
NUMBERS = [0, 1, -1, 2, 7, 127, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -1.0, 1e38, float("inf"), float("nan")]
# Fields of 32 bits: protobuf refuses to store more.
_SHORT = {Field.TYPE_INT32, Field.TYPE_ENUM, Field.TYPE_UINT32}
_UNSIGNED = {Field.TYPE_UINT64, Field.TYPE_UINT32}
MAX_BYTES = 1 << 16


def _tensor(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def _seeds() -> list[onnx.ModelProto]:
    """Return sound models that hold one of everything that can go wrong."""
    conv = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N, 2, 4, 4] x) => (float[N, 3] y)
        <int64[2] size = {-1, 3}> {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = own.act <alpha = 0.5> (c)
            p = GlobalAveragePool (r)
            y = Reshape (p, size)
        }
        <domain: "own", opset_import: ["" : 17]>
        act <alpha> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"""
    )
    conv.graph.initializer.append(_tensor("w", 3, 2, 3, 3))
    branches = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool k, float[N, 4] x) => (float[N, 4] y)
        {
            h = MatMul (x, w)
            y = If (k) <
                then_branch = a () => (float[N, 4] t) { t = MatMul (x, w) },
                else_branch = b () => (float[N, 4] e) { e = Relu (h) }>
        }"""
    )
    branches.graph.initializer.append(_tensor("w", 4, 4))
    outside = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }"""
    )
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "64")):
        weight.external_data.add(key=key, value=value)
    outside.graph.initializer.append(weight)
    outside.metadata_props.add(key="k", value="v")
    sparse = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }"""
    )
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, 2.5])
    where = helper.make_tensor("i", TensorProto.INT64, [2], [1, 7])
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [4, 4]))
    return [conv, branches, outside, sparse]


SEEDS = [proto.SerializeToString() for proto in _seeds()]


@st.composite
def models(draw) -> bytes:
    """Draw a model file with up to six faults in its messages, and sometimes in its bytes."""
    proto = onnx.ModelProto()
    proto.ParseFromString(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        messages = list(walk(proto))
        _spoil(draw, messages[draw(st.integers(0, len(messages) - 1))], messages)
    # Copies of copies grow; a fuzz case is small.
    content = proto.SerializeToString()[:MAX_BYTES]
    return _spoil_bytes(draw, content) if draw(st.integers(0, 9)) == 0 else content


def _spoil(draw, message, messages) -> None:
    """Change one field of a message: clear it, fill it with something odd, or put a copy of another there."""
    field = draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    name = field.name
    how = draw(st.sampled_from(["clear", "set", "set", "set", "repeat"]))
    if how == "clear":
        message.ClearField(name)
        return
    if field.message_type is not None:
        same = [m for m in messages if m.DESCRIPTOR.full_name == field.message_type.full_name]
        # From its bytes: a message can't be put into itself.
        other = draw(st.sampled_from(same)).SerializeToString() if same else b""
        target = getattr(message, name)
        (target.add() if field.is_repeated else target).MergeFromString(other)
        return
    value = draw(_values(field))
    if not field.is_repeated:
        setattr(message, name, value)
        return
    held = getattr(message, name)
    if len(held) and draw(st.booleans()):
        held[draw(st.integers(0, len(held) - 1))] = value
    else:
        held.extend([value] * (draw(st.sampled_from([1, 2, 70, 500])) if how == "repeat" else 1))


def _values(field: Field) -> st.SearchStrategy:
    if field.type == Field.TYPE_STRING:
        return st.sampled_from(TEXTS) | st.text(max_size=12)
    if field.type == Field.TYPE_BYTES:
        return st.binary(max_size=80)
    if field.type in (Field.TYPE_FLOAT, Field.TYPE_DOUBLE):
        return st.sampled_from(FLOATS)
    if field.type == Field.TYPE_ENUM:
        return st.sampled_from([v.number for v in field.enum_type.values])
    if field.type in _SHORT:
        return st.sampled_from([n for n in NUMBERS if -(2**31) <= n < 2**31]) | st.integers(0, 40)
    if field.type in _UNSIGNED:
        return st.sampled_from([n for n in NUMBERS if n >= 0])
    return st.sampled_from(NUMBERS) | st.integers(-3, 40)


def _spoil_bytes(draw, content: bytes) -> bytes:
    """Cut bytes out, put bytes in, or change some."""
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.integers(0, 12)))
    return content[:start] + draw(st.binary(max_size=12)) + content[end:]


# --- specs

GOOD = {
    "version": 1,
    "data": {
        "train": {"inputs": {"image": "train.npz"}, "labels": "labels.npy", "limit": 100},
        "preprocess": [{"scale": 0.5}, {"normalize": {"mean": [0.1], "std": [0.3]}}],
        "batch_size": 32,
    },
    "objective": {"loss": "cross_entropy", "distill": {"weight": 0.5}},
    "prune": [{"layers": ["fc*"], "structure": "channel", "amount": 0.5, "round_to": 8}],
    "quantize": [{"layers": "*", "weights": {"bits": 8}, "activations": {"samples": 64}}],
    "schedule": {"epochs": 2, "optimizer": {"name": "SGD", "lr": 0.1}, "rho": "auto"},
    "benchmark": {"providers": ["cpu"], "batch_sizes": [1, 64]},
    "gates": {"max_drop": {"accuracy": 0.01}, "min_speedup": {"cpu": 2.0}},
    "seed": 0,
}
SNIPPETS = [
    "&a ",
    "*a",
    "<<: *a",
    "<<: {}",
    "!!python/object/apply:os.system ['true']",
    "!!binary aGk=",
    "!x ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "\t",
    "\x00",
    "\x1b[31m",
    "\u2028",
    "\ud7ff",
    "[" * 60,
    "{a: " * 40,
    "- " * 40,
    "1" * 5000,
    "0x" + "f" * 50,
    "1e999",
    "-.inf",
    "1:30",
    "2001-12-14",
    "|\n  x",
    ">-\n  x",
    "'",
    '"\\x00"',
    "#",
    "${HOME}",
    "~/x",
    "version: 1\n",
    "\ufeff",
]
VALUES = st.sampled_from([None, True, "", "x", "../../x", [], {}, [[]], 1e308, *FLOATS, *NUMBERS])


@st.composite
def specs(draw) -> bytes:
    """Draw a spec file: a sound one with faults in its values, in its text, and sometimes in its bytes."""
    document = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        _spoil_value(draw, document)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    if draw(st.booleans()):
        text = json.dumps(document)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 5, 40])))
        text = text[:start] + draw(st.sampled_from(SNIPPETS) | st.text(max_size=8)) + text[end:]
    content = text.encode("utf-8", "surrogatepass")
    return _spoil_bytes(draw, content) if draw(st.integers(0, 9)) == 0 else content


def _spoil_value(draw, document) -> None:
    places = [(document, key) for key in document]
    for holder, key in places:
        value = holder[key]
        keys = (
            value
            if isinstance(value, dict)
            else range(len(value))
            if isinstance(value, list)
            else ()
        )
        places += [(value, k) for k in keys]
    holder, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(["set", "drop", "move", "twin"]))
    if how == "set":
        holder[key] = draw(VALUES | st.text(max_size=20))
    elif how == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw(st.text(max_size=10))] = holder[key] if how == "twin" else holder.pop(key)
    else:
        holder.append(json.loads(json.dumps(holder[key])))
