"""Sessions in a process of their own: they compute the same, and whatever a graph does ends there."""

from __future__ import annotations

import gc
import os
import signal
import time

import numpy as np
import psutil
import pytest
from bench_models import differences, endless, matmuls, rows, tensor
from onnx import TensorProto, helper, numpy_helper

from onnxadmm.bench import (
    Pace,
    isolated,
    open_isolated,
    open_session,
    paced,
    run,
    run_batched,
    running,
)
from onnxadmm.errors import DataError, ModelError


def folding(products=1000, width=4000):
    """A branch that is never taken, and whose constants take hours to fold."""
    nodes = [helper.make_node("ConstantOfShape", ["square"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(products)]
    nodes.append(helper.make_node("ReduceMax", [f"m{products}"], ["r"], keepdims=0))
    never = helper.make_graph(nodes, "never", [], [tensor("r", [])])
    always = helper.make_graph(
        [helper.make_node("Identity", ["zero"], ["s"])], "always", [], [tensor("s", [])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=never, else_branch=always)],
        "g",
        [tensor("c", [], TensorProto.BOOL)],
        [tensor("y", [])],
        [
            numpy_helper.from_array(np.array([width, width]), "square"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_it_computes_what_a_session_in_this_process_does():
    inputs = rows(3)
    here, there = open_session(matmuls(2)), open_isolated(matmuls(2), name="net")
    np.testing.assert_array_equal(run(there, ["y"], inputs)[0], run(here, ["y"], inputs)[0])
    pairs = {"a": np.ones((5, 2), np.float32), "b": np.zeros((5, 2), np.float32)}
    found = run_batched(open_isolated(differences(), name="net"), pairs, 2)
    assert {n: a.shape for n, a in found.items()} == {"d": (5, 2), "twice": (10, 2)}
    np.testing.assert_array_equal(found["d"], pairs["a"])
    with pytest.raises(DataError, match="from sample 0"):
        run_batched(there, {"x": np.ones((2, 5), np.float32)}, 2)


def test_text_goes_there_and_back():
    node = helper.make_node("Identity", ["x"], ["y"])
    ports = [tensor(n, ["N"], TensorProto.STRING) for n in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = open_isolated(model.SerializeToString(), name="net")
    (found,) = run(session, ["y"], {"x": np.array(["a", "é"], object)})
    assert found.tolist() == ["a", "é"]


def test_making_a_session_is_limited_in_time(monkeypatch):
    open_isolated(matmuls(1), name="net")
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(isolated, "OPEN_S", 2.0)
        patch.setattr(isolated, "PATIENCE", 4.0)
        with pytest.raises(ModelError, match="too long: making a session was stopped after 2 s"):
            open_isolated(folding(), name="the hostile model")
    assert time.monotonic() - start < 20
    # The next session gets a new process.
    assert len(run(open_isolated(matmuls(1), name="net"), ["y"], rows(1))) == 1


def test_a_run_within_one_operator_is_ended_with_its_process(monkeypatch):
    monkeypatch.setattr(isolated, "GRACE_S", 0.0)
    monkeypatch.setattr(running, "BASE_S", 0.5)
    session = open_isolated(endless(), name="the endless model")
    with paced(Pace()), pytest.raises(ModelError, match=r"too long: a run was stopped"):
        run(session, ["y"], rows(1))


def test_a_crash_is_told_and_the_next_session_lives():
    session = open_isolated(matmuls(1), name="the crashing model")
    os.kill(session.process_id, signal.SIGSEGV)
    with pytest.raises(ModelError, match="the crashing model ended the process that ran it"):
        run(session, ["y"], rows(1))
    assert len(run(open_isolated(matmuls(1), name="net"), ["y"], rows(1))) == 1


def test_an_interrupted_request_leaves_no_answer_for_the_next(monkeypatch):
    session = open_isolated(matmuls(1), name="net")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onnxadmm.bench.process.decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(session, ["y"], rows(1))
    with pytest.raises(ModelError, match="ended the process"):
        run(session, ["y"], rows(1))
    again = open_isolated(matmuls(2), name="net")
    assert run(again, ["y"], rows(4))[0].shape == (4, 96)


def test_sessions_share_a_process_and_their_memory_is_given_back():
    small, large = open_isolated(matmuls(1), name="a"), open_isolated(matmuls(40, 512), name="b")
    assert small.process_id == large.process_id
    process = psutil.Process(small.process_id)
    before = process.memory_info().rss
    del large
    gc.collect()
    run(small, ["y"], rows(1))
    assert before - process.memory_info().rss > 20 << 20


def test_the_process_stays_for_who_has_a_session_and_no_longer():
    first, second = open_isolated(matmuls(1), name="a"), open_isolated(matmuls(2), name="b")
    process = psutil.Process(first.process_id)
    del second
    isolated.give_memory_back()
    assert run(first, ["y"], rows(1))[0].shape == (1, 96)
    del first
    isolated.give_memory_back()
    assert not process.is_running()
    assert len(run(open_isolated(matmuls(1), name="c"), ["y"], rows(1))) == 1


def test_a_model_is_not_blamed_for_a_process_that_was_ended_before_it_came():
    process = psutil.Process(open_isolated(matmuls(1), name="a").process_id)
    process.terminate()
    psutil.wait_procs([process], timeout=30)
    assert len(run(open_isolated(matmuls(1), name="b"), ["y"], rows(1))) == 1
