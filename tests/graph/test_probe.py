"""One real run: shapes, constants, inputs that fit; and graphs that must not run."""

import resource

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import FLOAT, cnn, mlp, model, weight

from onnxadmm.errors import ModelError, UnsupportedError
from onnxadmm.graph import pin_dims, probe, random_inputs


def run(proto, **kwargs):
    return probe(ir.from_proto(proto), **kwargs)


def test_every_value_has_its_real_shape_and_type():
    result = run(cnn(), batch=3)
    assert result.shapes["x"] == (3, 3, 8, 8)
    assert result.shapes["c1"] == (3, 6, 8, 8)
    assert result.shapes["flat"] == (3, 6)
    assert result.shapes["w1"] == (6, 3, 3, 3)
    assert result.shapes["y"] == (3, 10)
    assert result.dtypes["c1"] == "float32"
    assert result.dtypes["size"] == "int64"
    assert result.shapes.keys() == result.dtypes.keys()


def test_computed_sizes_are_constants():
    result = run(cnn(), batch=3)
    assert result.constants["size"].tolist() == [3, -1]
    assert result.constants["n"].tolist() == [3]
    assert result.constants["zero"].tolist() == [0]
    assert "w1" not in result.constants


def test_one_seed_gives_the_same_inputs():
    one, two, other = (run(cnn(), seed=s).inputs["x"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_the_model_stays_as_it_is():
    loaded = ir.from_proto(cnn())
    before = ir.to_proto(loaded).SerializeToString(deterministic=True)
    probe(loaded)
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == before


def test_stale_shapes_mislead_nobody():
    proto = cnn()
    proto.graph.value_info.append(helper.make_tensor_value_info("c1", FLOAT, [1, 99, 2, 2]))
    assert run(proto).shapes["c1"] == (1, 6, 8, 8)


def test_open_dimensions_follow_the_weights_or_are_found_by_trying():
    proto = cnn()
    for dim, name in zip(proto.graph.input[0].type.tensor_type.shape.dim, "NCHW", strict=True):
        dim.dim_param = name
    assert pin_dims(ir.from_proto(proto))["x"] == (1, 3, 64, 64)
    # A fixed head behind a flatten: only 32 by 32 fits.
    proto = model(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        [("x", FLOAT, ["N", 1, "H", "W"])],
        [("y", FLOAT, ["N", 2])],
        [weight("w", 1024, 2)],
    )
    assert run(proto).shapes["x"] == (1, 1, 32, 32)


def test_dimensions_of_one_name_agree_and_can_be_given():
    proto = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, ["N", "T", 4]), ("b", FLOAT, ["N", "T", 4])],
        [("y", FLOAT, ["N", "T", 4])],
    )
    assert run(proto, batch=2).shapes["y"] == (2, 8, 4)
    assert run(proto, sizes={"T": 5}).shapes["y"] == (1, 5, 4)


@pytest.mark.parametrize("dim", [None, -1])
def test_an_unnamed_or_negative_batch_is_open(dim):
    proto = cnn()
    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    first.Clear()
    if dim is not None:
        first.dim_value = dim
    assert run(proto, batch=2).shapes["x"] == (2, 3, 8, 8)


def test_integers_index_tables_and_strings_are_empty():
    proto = model(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], axis=0),
            helper.make_node("Gather", ["one", "row"], ["o"], axis=0),
            helper.make_node("Identity", ["s"], ["t"]),
        ],
        [
            ("ids", TensorProto.INT64, ["N", "T"]),
            ("row", TensorProto.INT32, [2, 2]),
            ("s", TensorProto.STRING, [2]),
        ],
        [("e", FLOAT, ["N", "T", 4]), ("o", FLOAT, None), ("t", TensorProto.STRING, [2])],
        [weight("table", 2, 4), weight("one", 1, 4)],
    )
    result = run(proto)
    assert result.inputs["s"].tolist() == ["", ""]
    assert result.dtypes["t"] == "object"
    assert result.shapes["e"] == (1, 8, 4)
    # A table of one row takes only zeros, which were tried next.
    assert not result.inputs["row"].any()


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_other_float_types_are_fed(dtype):
    proto = model(
        [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], [("x", dtype, [2])], [("y", FLOAT, [2])]
    )
    assert run(proto).inputs["x"].shape == (2,)


def test_initializers_that_are_inputs_are_not_fed():
    proto = mlp()
    proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 4]))
    assert set(run(proto).inputs) == {"x"}


@pytest.mark.parametrize("cast", [False, True])
def test_integers_that_look_up_a_table_are_drawn_over_all_its_rows(cast):
    nodes = [helper.make_node("Gather", ["table", "index"], ["y"])]
    if cast:
        nodes.insert(0, helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64))
    kind = TensorProto.INT32 if cast else TensorProto.INT64
    name = "x" if cast else "index"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, ["n", "t"])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.zeros((50, 2), np.float32), "table")],
    )
    loaded = ir.from_proto(helper.make_model(graph))
    drawn = random_inputs(loaded, {name: (20, 30)}, np.random.default_rng(0))[name]
    assert drawn.min() >= 0
    assert 40 < drawn.max() < 50


def test_random_inputs_have_the_declared_types():
    loaded = ir.from_proto(cnn())
    arrays = random_inputs(loaded, {"x": (2, 3, 8, 8)}, np.random.default_rng(0))
    assert arrays["x"].dtype == np.float32
    assert abs(arrays["x"].mean()) < 0.3


def test_a_type_without_a_kernel_is_unsupported():
    proto = model(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        [("x", TensorProto.BFLOAT16, [2, 2])],
        [("y", TensorProto.BFLOAT16, [2, 2])],
    )
    with pytest.raises(UnsupportedError, match="MatMul"):
        run(proto)


def test_a_mismatch_carries_onnxruntimes_reason_on_one_line():
    proto = cnn()
    proto.graph.initializer[0].CopyFrom(weight("w1", 6, 5, 3, 3))
    with pytest.raises(ModelError, match="Conv") as caught:
        run(proto)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 280
    assert "/onnxruntime" not in str(caught.value)


def test_an_output_that_lies_about_its_shape():
    proto = cnn()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(
        ModelError, match=r"'y' declares shape .*7.*, but the graph yields \[1, 10\]"
    ):
        run(proto)


def bomb(kind):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    size = numpy_helper.from_array(np.array([1 << 33]), "size")
    if kind == "constant":
        nodes.append(helper.make_node("ConstantOfShape", ["size"], ["big"]))
    elif kind == "doubling":
        nodes += [
            helper.make_node("Concat", [f"d{i}" if i else "x"] * 2, [f"d{i + 1}"], axis=0)
            for i in range(34)
        ]
    else:
        nodes.append(helper.make_node("Expand", ["x", "size"], ["big"]))
    return model(
        nodes,
        [("x", FLOAT, ["N", 1])],
        [("y", FLOAT, ["N", 4])],
        [weight("w", 1, 4), size],
    )


@pytest.mark.parametrize("kind", ["constant", "doubling", "expand"])
def test_a_few_bytes_that_become_gigabytes_are_refused(kind):
    with pytest.raises(ModelError, match="memory"):
        run(bomb(kind), memory_bytes=256 << 20)


def test_an_endless_loop_is_stopped():
    yes = helper.make_node("Identity", ["c"], ["d"])
    body = helper.make_graph(
        [yes],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    proto = mlp()
    # It carries no value, so its only effect is time.
    body.input.append(helper.make_tensor_value_info("v", FLOAT, None))
    body.node.append(helper.make_node("Identity", ["v"], ["u"]))
    body.output.append(helper.make_tensor_value_info("u", FLOAT, None))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1 << 62), "many"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("Loop", ["many", "yes", "x"], ["z"], body=body))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(ModelError, match="too long"):
        run(proto, timeout_s=1.5)
    # Its own CPU time counts, whatever else runs on the machine.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 6


def test_an_input_too_large_to_make():
    proto = mlp()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 40
    with pytest.raises(ModelError, match="large"):
        run(proto)


def test_more_axes_than_arrays_have_are_refused():
    axes = numpy_helper.from_array(np.arange(2, 70), "axes")
    graph = model(
        [helper.make_node("Unsqueeze", ["x", "axes"], ["y"])],
        [("x", FLOAT, ["N", 4])],
        [("y", FLOAT, None)],
        [axes],
    )
    with pytest.raises(UnsupportedError, match="'y' has 70 axes, 64 are the limit"):
        probe(ir.from_proto(graph))
