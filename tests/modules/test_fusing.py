"""Functions that exporters spell out run as torch's own kernels, and those that come near stay as they are."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxadmm.bench import open_session
from onnxadmm.graph import compare_outputs, model_bytes, probe
from onnxadmm.modules import import_model

ROOT = math.sqrt(2)
ORDERS = ("x first", "half first", "half on x", "half on the sum", "x by itself")


def spelled(order="x first", *, divide=True, turned=False, root=ROOT, half=0.5, one=1.0):
    """Return a network [N, 5] -> [N, 3] with a Gelu between two products, spelled out."""
    rng = np.random.default_rng(0)
    held = {
        "w": rng.standard_normal((5, 4)).astype(np.float32),
        "v": rng.standard_normal((4, 3)).astype(np.float32),
        "root": np.float32(root if divide else 1 / root),
        "half": np.float32(half),
        "one": np.float32(one),
    }

    def node(op, a, b, out):
        inputs = (b, a) if turned and op in ("Mul", "Add") else (a, b)
        return helper.make_node(op, inputs, [out], name=out)

    nodes = [
        node("MatMul", "x", "w", "h"),
        node("Div" if divide else "Mul", "h", "root", "scaled"),
        helper.make_node("Erf", ["scaled"], ["erf"], name="erf"),
        node("Add", "erf", "one", "sum"),
    ]
    nodes += {
        "x first": [node("Mul", "h", "sum", "xs"), node("Mul", "xs", "half", "g")],
        "half first": [node("Mul", "sum", "half", "hs"), node("Mul", "h", "hs", "g")],
        "half on x": [node("Mul", "h", "half", "hx"), node("Mul", "hx", "sum", "g")],
        "half on the sum": [node("Mul", "half", "sum", "hs"), node("Mul", "hs", "h", "g")],
        "x by itself": [node("Mul", "sum", "h", "xs"), node("Mul", "xs", "xs", "g")],
    }[order]
    nodes.append(node("MatMul", "g", "v", "y"))
    return helper.make_graph(
        nodes,
        "spelled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()],
    )


def run_both(graph):
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = ir.from_proto(proto)
    imported = import_model(model, probe(model))
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    expected = open_session(model_bytes(model)).run(list(imported.outputs), {"x": x})
    got = [o.detach().numpy() for o in imported.module(torch.from_numpy(x))]
    called = {n.target for n in imported.module.graph.nodes if n.op == "call_function"}
    return called, compare_outputs(expected, got)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(ORDERS[:4]), st.booleans(), st.booleans())
def test_a_gelu_in_any_order_is_one_call(order, divide, turned):
    called, error = run_both(spelled(order, divide=divide, turned=turned))
    assert F.gelu in called
    assert torch.erf not in called
    assert error < 1e-6


@pytest.mark.parametrize(
    "changed",
    [{"root": 1.7}, {"half": 0.6}, {"one": 1.01}, {"order": "x by itself"}],
    ids=["root", "half", "one", "square"],
)
def test_what_comes_near_a_gelu_is_computed_as_it_is_written(changed):
    called, error = run_both(spelled(**changed))
    assert F.gelu not in called
    assert error < 1e-6


@pytest.mark.parametrize("inner", ["erf", "sum", "xs"])
def test_a_gelu_whose_inner_values_are_read_elsewhere_keeps_them(inner):
    graph = spelled()
    graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, ["n", 4]))
    called, error = run_both(graph)
    assert torch.erf in called
    assert error < 1e-6


def test_a_factor_that_learns_stays():
    graph = spelled()
    graph.initializer.remove(next(t for t in graph.initializer if t.name == "half"))
    graph.initializer.append(numpy_helper.from_array(np.full((4,), 0.5, np.float32), "half"))
    called, error = run_both(graph)
    assert F.gelu not in called
    assert error < 1e-6
