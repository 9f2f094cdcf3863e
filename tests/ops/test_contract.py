"""One suite over every operator: it imports like ONNX Runtime, its labels agree with a numeric probe.

Each registered (operator, version) runs the cases of its operator that its version can express. An operator
without a case fails: no rule enters without passing.
"""

from __future__ import annotations

import contextlib
import functools

import cases_elementwise
import cases_layers
import cases_movement
import cases_quantized
import cases_rarer
import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir
import pytest
import torch
from gradients import check_gradient
from onnx import TensorProto, helper, numpy_helper

from onnxadmm import ops
from onnxadmm.bench import open_session
from onnxadmm.channels import label, labelling
from onnxadmm.compact import compare_outputs, cut_channels, mask_channels
from onnxadmm.errors import ModelError, UnsupportedError
from onnxadmm.graph import model_bytes, probe
from onnxadmm.modules import import_model

X = (2, 4, 6, 6)


def f(*shape, positive=False):
    content = np.random.default_rng(int(np.prod(shape))).standard_normal(shape)
    return (np.abs(content) + 0.5 if positive else content).astype(np.float32)


def i(*content):
    return np.array(content, np.int64)


# Operator -> cases: (input shape, other inputs, attributes, number of outputs).
# An attribute or input that a version doesn't have makes the case skip to the next.
CASES = {
    "Conv": [
        (X, [f(6, 4, 3, 3), f(6)], {"pads": [1, 1, 1, 1]}, 1),
        (X, [f(6, 2, 3, 3)], {"group": 2, "strides": [2, 1], "dilations": [1, 2]}, 1),
        (X, [f(8, 1, 3, 3)], {"group": 4, "pads": [0, 1, 2, 1]}, 1),
        (X, [f(5, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 1),
        (X, [f(5, 4, 2, 3)], {"auto_pad": "SAME_LOWER"}, 1),
        ((2, 4, 9), [f(3, 4, 3)], {}, 1),
        ((1, 2, 4, 4, 4), [f(3, 2, 2, 2, 2)], {}, 1),
    ],
    "Gemm": [
        ((3, 4), [f(5, 4), f(5)], {"transB": 1}, 1),
        ((3, 4), [f(4, 5), f(1, 5)], {"alpha": 0.5, "beta": 2.0}, 1),
        ((4, 3), [f(4, 5), f(5)], {"transA": 1}, 1),
    ],
    "MatMul": [((3, 4), [f(4, 5)], {}, 1), ((2, 3, 4), [f(4, 5)], {}, 1)],
    "Add": [(X, [f(4, 1, 1)], {}, 1), (X, [f(1)], {}, 1)],
    "Sub": [(X, [f(4, 1, 1)], {}, 1)],
    "Mul": [(X, [f(1, 4, 1, 1)], {}, 1)],
    "Div": [(X, [f(4, 1, 1, positive=True)], {}, 1)],
    "PRelu": [(X, [f(4, 1, 1)], {}, 1)],
    "LeakyRelu": [(X, [], {"alpha": 0.2}, 1)],
    "Elu": [(X, [], {"alpha": 0.7}, 1)],
    "HardSigmoid": [
        (X, [], {"alpha": 0.3, "beta": 0.4}, 1),
        (X, [], {"alpha": 1 / 6}, 1),
    ],
    "HardSwish": [(X, [], {}, 1)],
    "Gelu": [(X, [], {"approximate": "tanh"}, 1), (X, [], {}, 1)],
    "Clip": [
        (X, [], {"min": -0.5, "max": 0.5}, 1),
        (X, [np.float32(-0.5), np.float32(0.5)], {}, 1),
    ],
    "Identity": [(X, [], {}, 1)],
    "Dropout": [(X, [], {}, 1)],
    "Softmax": [((3, 5), [], {"axis": 1}, 1), (X, [], {"axis": 1}, 1)],
    "LogSoftmax": [((3, 5), [], {"axis": 1}, 1)],
    "MaxPool": [
        (X, [], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
        (X, [], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1], "strides": [2, 2]}, 1),
        (X, [], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 1),
        (X, [], {"kernel_shape": [3, 3], "dilations": [2, 2]}, 1),
        ((2, 4, 9), [], {"kernel_shape": [3]}, 1),
    ],
    "AveragePool": [
        (X, [], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
        (X, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 1),
        (X, [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}, 1),
    ],
    "GlobalAveragePool": [(X, [], {}, 1)],
    "GlobalMaxPool": [(X, [], {}, 1)],
    "BatchNormalization": [
        (X, [f(4), f(4), f(4), f(4, positive=True)], {"epsilon": 1e-3}, 1),
        (X, [f(4), f(4), f(4), f(4, positive=True)], {"training_mode": 1, "momentum": 0.7}, 3),
    ],
    "Reshape": [(X, [i(0, -1)], {}, 1), (X, [i(2, 4, 36)], {}, 1)],
    "Flatten": [(X, [], {"axis": 1}, 1), (X, [], {"axis": 2}, 1)],
    "Squeeze": [((2, 4, 1, 3), [], {"axes": [2]}, 1), ((2, 4, 1, 3), [i(2)], {}, 1)],
    "Unsqueeze": [(X, [], {"axes": [2, 5]}, 1), (X, [i(2, 5)], {}, 1)],
    "Transpose": [(X, [], {"perm": [0, 2, 3, 1]}, 1), (X, [], {}, 1)],
    "Concat": [(X, [f(2, 3, 6, 6)], {"axis": 1}, 1)],
    "Split": [
        (X, [], {"axis": 1, "split": [1, 3]}, 2),
        (X, [i(1, 3)], {"axis": 1}, 2),
        (X, [], {"axis": 1, "num_outputs": 2}, 2),
    ],
    "Cast": [(X, [], {"to": TensorProto.FLOAT}, 1)],
    "Shape": [(X, [], {}, 1)],
}
# Where an operator isn't defined everywhere: |x| < 1, or x beyond a number.
BOUNDED = {"Asin", "Acos", "Atanh"}
BEYOND = {"Sqrt": 0.5, "Log": 0.5, "Reciprocal": 0.5, "Acosh": 1.0, "ReduceLogSum": 0.5}
CASES.update(
    {
        **cases_elementwise.CASES,
        **cases_movement.CASES,
        **cases_layers.CASES,
        **cases_quantized.CASES,
        **cases_rarer.CASES,
    }
)
UNARY = ("Relu", "Sigmoid", "Tanh", "Sqrt", "Exp", "Log", "Abs", "Neg", "Erf", "Reciprocal")
CASES.update({op: [(X, [], {}, 1)] for op in UNARY})

# Opsets that ONNX Runtime takes; an operator's version is tested at the first of them that has it.
OPSETS = range(7, 27)


# ONNX Runtime's optimizer writes these into the standard's domain, where opsets like these don't know them.
NOT_OF_THE_STANDARD = {
    ("SimplifiedLayerNormalization", 1): 17,
    ("LayerNormalization", 1): 13,
}
# ONNX Runtime takes the opset and has no kernel: tests/parity compares what the standard's own tests hold of them.
WITHOUT_A_KERNEL = {("RoiAlign", 22), ("MaxRoiPool", 22), ("GlobalLpPool", 22)}
# onnx knows no types of the domain; elsewhere results are like x.
FLOAT_RESULT = {
    "com.microsoft.MatMulIntegerToFloat",
}
# Rounding has no slope, and training goes straight through it: another gradient, on purpose.
ROUNDED = {"com.microsoft.DynamicQuantizeMatMul"}


def exists(op, opset):
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return not schema.deprecated


def opset_for(op, version):
    if (op, version) in NOT_OF_THE_STANDARD:
        return NOT_OF_THE_STANDARD[op, version]
    for opset in OPSETS:
        if exists(op, opset) and onnx.defs.get_schema(op, opset, "").since_version == version:
            return opset
    return None


def kind_of(name):
    return helper.np_dtype_to_tensor_dtype(np.dtype(name))


def model_of(op, opset, case):
    if isinstance(case, str):
        return parsed(opset, case)
    shape, others, attributes, outputs, *more = case
    kind, port = more[0] if more else ("float32", 0)
    names = [f"p{k}" if c is not None else "" for k, c in enumerate(others)]
    inputs = [*names[:port], "x", *names[port:]]
    domain, _, op_type = op.rpartition(".")
    results = [f"y{k}" for k in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(op_type, inputs, results, name="it", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind_of(kind), shape)],
        [helper.make_value_info(name, onnx.TypeProto()) for name in results if name],
        [
            numpy_helper.from_array(np.asarray(c), n)
            for n, c in zip(names, others, strict=True)
            if n
        ],
    )
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in [domain] if d]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    foreign = bool(domain) or NOT_OF_THE_STANDARD.get((op, 1)) == opset
    if not foreign and not expressible(onnx.defs.get_schema(op, opset, ""), case):
        return None
    result = TensorProto.FLOAT if op in FLOAT_RESULT else kind_of(kind)
    return checked(proto, foreign=foreign, result=result)


def parsed(opset, text):
    """Return a model of several nodes, written as ONNX text; its tensor input is x."""
    return checked(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> one {text}'
        )
    )


def checked(proto, *, foreign=False, result=TensorProto.FLOAT):
    """Return a model with its outputs' types, or None where the standard doesn't allow it."""
    try:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        for y in proto.graph.output:
            # A few definitions infer nothing, as other domains do: their outputs are then like x.
            if not y.type.HasField("tensor_type"):
                shape = [None] * len(proto.graph.input[0].type.tensor_type.shape.dim)
                y.CopyFrom(helper.make_tensor_value_info(y.name, result, shape))
        if not foreign:
            onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return ir.from_proto(proto)


def expressible(schema, case):
    """Whether a version of an operator has the case's attributes and inputs, and needs no others."""
    _, others, attributes, *_ = case
    required = {n for n, a in schema.attributes.items() if a.required}
    fits = schema.min_input <= 1 + len(others) <= schema.max_input
    return fits and required <= set(attributes) <= set(schema.attributes)


def behind_a_layer(model, seen):
    """Return the model with a trained matrix product in front of what reads x."""
    changed = model.clone()
    x = changed.graph.inputs[0]
    size = seen.shapes["x"][-1]
    weight = ir.val("layer", const_value=ir.tensor(f(size, size), name="layer"))
    changed.graph.register_initializer(weight)
    readers = list(x.uses())
    product = ir.node("MatMul", [x, weight])
    product.outputs[0].name = "behind"
    product.outputs[0].type = x.type
    for reader, port in readers:
        reader.replace_input_with(port, product.outputs[0])
    changed.graph.insert_before(changed.graph[0], product)
    return changed


def registered_versions():
    for (domain, op, version), operator in sorted(ops.registered().items()):
        name = f"{domain}.{op}" if domain else op
        opset = 17 if domain else opset_for(op, version)
        if opset is not None and op != "Constant" and (op, version) not in WITHOUT_A_KERNEL:
            yield pytest.param(name, opset, operator, id=f"{name}-{version}")


@functools.cache
def cases(op, opset):
    """Return the models that ONNX Runtime runs, each with its probe; a case may fit one version only."""
    found = []
    for model in filter(None, (model_of(op, opset, case) for case in CASES[op])):
        with contextlib.suppress(ModelError):
            found.append((model, probe(model)))
    assert found, f"no case of {op} fits opset {opset}"
    return found


def data_for(model, op, seed=0):
    x_input = model.graph.inputs[0]
    shape, kind = [int(d) for d in x_input.shape], x_input.dtype.numpy()
    x = np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)
    if kind == np.bool_:
        return x > 0
    if kind.kind in "iu":
        return np.asarray(np.abs(4 * x).clip(0, 7).astype(kind))
    if op in BOUNDED:
        return np.tanh(x)
    return np.abs(x) + BEYOND[op] if op in BEYOND else x


@pytest.mark.parametrize(("op", "opset", "operator"), list(registered_versions()))
def test_builder_computes_what_onnx_runtime_computes(op, opset, operator):
    """And its gradient is that of what it computes."""
    built, refused = 0, []
    for model, seen in cases(op, opset):
        try:
            imported = import_model(model, seen)
        except UnsupportedError as e:
            refused.append(str(e))
            continue
        x = data_for(model, op)
        expected = open_session(model_bytes(model)).run(list(imported.outputs), {"x": x})
        got = [g.detach().numpy() for g in imported.module(torch.from_numpy(x))]
        assert compare_outputs(expected, got) < 1e-5
        if not imported.frozen and x.dtype.kind == "f" and op not in ROUNDED:
            check_gradient(imported.module, torch.from_numpy(x))
        built += 1
    # Refusing is honest, in words; asymmetric average pools that don't count pads do.
    assert all("can't be trained" in text for text in refused)
    assert built


@pytest.mark.parametrize(("op", "opset", "operator"), list(registered_versions()))
def test_labels_agree_with_what_really_depends_on_a_channel(op, opset, operator):
    """With its weights masked, a channel's value reaches only outputs that carry its label."""
    for model, seen in cases(op, opset):
        x = data_for(model, op)
        # A vector may hold sizes rather than channels: its values can't change freely.
        for axis in range(x.ndim if x.ndim > 1 else 0):
            labels = label_input(model, seen, axis)
            # All channels, and the ends of every other axis.
            some = range(x.shape[axis]) if axis == 1 else {0, x.shape[axis] - 1}
            for index in some if x.shape[axis] > 1 else ():
                check_label(model, labels, x, axis, index)


def check_label(model, labels, x, axis, index):
    """Change one index of one axis of the input: outputs that differ carry its label."""
    own = int(labels.axes["x"][axis][index])
    if own == 0 or own in labels.fixed:
        return
    session = open_session(model_bytes(mask_channels(model, labels, {own})), optimize=False)
    changed = np.moveaxis(x.copy(), axis, 0)
    changed[index] = other(changed[index])
    names = [o.name for o in session.get_outputs()]
    before = session.run(names, {"x": x})
    after = session.run(names, {"x": np.moveaxis(changed, 0, axis)})
    for name, a, b in zip(names, before, after, strict=True):
        carried = [np.flatnonzero(output == own) for output in labels.axes[name]]
        for place in np.argwhere(a != b):
            assert any(place[k] in c for k, c in enumerate(carried)), (name, axis, place)


@pytest.mark.parametrize(("op", "opset", "operator"), list(registered_versions()))
def test_cutting_agrees_with_masking(op, opset, operator):
    """A graph without a channel computes what is left of the graph where it is zero."""
    for model, seen in cases(op, opset):
        x = data_for(model, op)
        for axis in range(x.ndim if x.ndim > 1 else 0):
            labels = label_input(model, seen, axis)
            check_cut(model, seen, labels, x, axis)


def check_cut(model, seen, labels, x, axis):
    """Cut the last index of one axis of the input that can go, with all that is coupled to it."""
    own = labels.axes["x"][axis]
    free = [n for n in own.tolist() if n and n not in labels.fixed and (own != n).any()]
    if not free:
        return
    dead = free[-1]
    outputs = {o.name: [axes != dead for axes in labels.axes[o.name]] for o in model.graph.outputs}
    if not all(mask.any() for masks in outputs.values() for mask in masks):
        return
    masked, cut = (
        mask_channels(model, labels, {dead}),
        cut_channels(model, labels, seen, {dead}),
    )
    for value in (*cut.graph.inputs, *cut.graph.outputs):
        value.shape = None
    zeroed = np.moveaxis(x.copy(), axis, 0)
    zeroed[own == dead] = 0
    whole = open_session(model_bytes(masked), optimize=False)
    small = open_session(model_bytes(cut), optimize=False)
    expected = whole.run(list(outputs), {"x": np.moveaxis(zeroed, 0, axis)})
    got = small.run(list(outputs), {"x": np.compress(own != dead, x, axis)})
    for k, masks in enumerate(outputs.values()):
        for a, mask in enumerate(masks):
            expected[k] = np.compress(mask, expected[k], a)
    assert compare_outputs(expected, got) < 1e-5


def other(values):
    """Change every value a little, in its type."""
    if values.dtype == np.bool_:
        return ~values
    return values + (values.dtype.type(0.37) if values.dtype.kind == "f" else values.dtype.type(1))


def label_input(model, seen, axis):
    """Label the graph with channels of its own on one axis of the input."""
    scope = labelling._Scope(model, seen)
    x = model.graph.inputs[0]
    fresh = [ops.unlabelled(n) for n in seen.shapes["x"]]
    fresh[axis] = scope._fresh(seen.shapes["x"][axis])
    scope.assign(x, fresh)
    for node in model.graph:
        scope.visit(node)
    return scope.result(ops.weights(model).keys())


@pytest.mark.parametrize(
    "key", [pytest.param(k, id="-".join(map(str, k)).strip("-")) for k in sorted(ops.registered())]
)
def test_every_registered_version_exists(key):
    domain, op, version = key
    if domain or (op, version) in NOT_OF_THE_STANDARD:
        # onnx holds no definitions of these; the other tests run them in ONNX Runtime.
        assert (domain, version) in {("com.microsoft", 1), ("", 1)}
        return
    assert onnx.defs.get_schema(op, version, domain).since_version == version


@pytest.mark.parametrize("op", sorted({o for d, o, _ in ops.registered() if not d}))
def test_no_version_between_opset_7_and_26_is_forgotten(op):
    wanted = {onnx.defs.get_schema(op, o, "").since_version for o in OPSETS if exists(op, o)}
    assert wanted <= {v for d, o, v in ops.registered() if o == op and not d}


ELSEWHERE = "a builder of the importer's own, with its subgraphs"
RANDOM = "draws random numbers: nothing could be compared"
STRINGS = "reads strings, which torch has no tensors of; ONNX Runtime executes it in front of what is trained"
WITHOUT_A_BUILDER = {
    **dict.fromkeys(("If", "Loop", "Scan"), ELSEWHERE),
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), RANDOM),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"), STRINGS),
    "TfIdfVectorizer": "counts words or numbers: no gradient could pass",
    "MelWeightMatrix": "makes a constant of integers: no gradient could pass",
    "NonMaxSuppression": "returns indices: no gradient could pass",
    "ImageDecoder": "decodes bytes; ONNX Runtime has no kernel for it",
    "SequenceMap": "runs a graph over a sequence; ONNX Runtime executes it in front of what is trained",
}
"""Why an operator of the standard has none; those of which gradients don't pass are executed by ONNX Runtime."""


def test_every_operator_of_the_standard_has_a_builder_or_a_reason():
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    there = {
        (n, onnx.defs.get_schema(n, o, "").since_version)
        for n in names
        for o in OPSETS
        if exists(n, o)
    }
    built = {(o, v) for d, o, v in ops.registered() if not d}
    assert {n for n, _ in there - built} == set(WITHOUT_A_BUILDER)


def test_a_second_registration_raises():
    from onnxadmm.ops._base import Operator, register

    with pytest.raises(ValueError, match="registered twice"):
        register(type("Again", (Operator,), {"op_type": "Relu", "versions": (14,)}))


@pytest.mark.parametrize("opset", [7, 13, 17, 26])
def test_labels_of_an_unlabelled_graph_are_empty(opset):
    model = model_of("Relu", opset, (X, [], {}, 1))
    assert label(model, probe(model)).weights == []
