"""Small models for tests: a sound CNN and MLP, and ways to spoil them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weight(name, *shape, dtype=np.float32):
    rng = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array(rng.standard_normal(shape).astype(dtype), name)


def model(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, **kwargs):
    def values(described):
        return [helper.make_tensor_value_info(n, t, s) for n, t, s in described]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), list(initializers))
    imports = [helper.make_opsetid("", opset), *kwargs.pop("imports", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, **kwargs)


def cnn(opset=17, ir_version=8, batch="N"):
    """Conv, Relu, pool, Gemm over [N, 3, 8, 8]; the reshape's size is computed from the input."""
    return model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r1"], ["p1"], name="pool"),
            helper.make_node("Shape", ["p1"], ["s"], name="shape"),
            helper.make_node("Gather", ["s", "zero"], ["n"], name="gather", axis=0),
            helper.make_node("Concat", ["n", "rest"], ["size"], name="concat", axis=0),
            helper.make_node("Reshape", ["p1", "size"], ["flat"], name="reshape"),
            helper.make_node("Gemm", ["flat", "w2", "b2"], ["y"], name="fc", transB=1),
        ],
        [("x", FLOAT, [batch, 3, 8, 8])],
        [("y", FLOAT, [batch, 10])],
        [
            weight("w1", 6, 3, 3, 3),
            weight("b1", 6),
            weight("w2", 10, 6),
            weight("b2", 10),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([-1]), "rest"),
        ],
        opset=opset,
        ir_version=ir_version,
    )


def mlp(w=None, w_name="w"):
    """One MatMul over [N, 4] with weight `w` of shape [4, 4]."""
    tensor = weight(w_name, 4, 4) if w is None else w
    return model(
        [helper.make_node("MatMul", ["x", w_name], ["y"], name="fc")],
        [("x", FLOAT, ["N", 4])],
        [("y", FLOAT, ["N", 4])],
        [tensor],
    )


def external(location, *entries, name="w", dims=(4, 4), data_type=FLOAT):
    tensor = TensorProto(name=name, data_type=data_type, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), *entries):
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(indices, dims=(4, 4), name="w"):
    values = helper.make_tensor(name, FLOAT, [len(indices)], [1.5] * len(indices))
    where = helper.make_tensor(
        "i", TensorProto.INT64, np.shape(indices), np.ravel(indices).tolist()
    )
    return helper.make_sparse_tensor(values, where, list(dims))


def save(proto, path):
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def without_weight(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.initializer[:]
    return copy
