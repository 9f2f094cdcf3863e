"""Which form of int8 activations a machine runs faster, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.bench import open_session, run
from onnxadmm.errors import OnnxadmmError
from onnxadmm.graph import model_bytes
from onnxadmm.quantize.qdq import quantize
from onnxadmm.spec import ActivationQuantization, Quantize

Array = np.ndarray[Any, Any]

CHANNELS, SIZE = 64, 28
LAYERS = 3
ROUNDS = 60
"""On a machine with much else to do few rounds are undisturbed, and a run must choose what it chose before."""
CLEARLY = 1.25
"""int8 must be so many times faster to be chosen: where both are alike, the choice is always the same."""


@cache
def signed_is_faster(provider: str, threads: int) -> bool | None:
    """Return whether convolutions over int8 activations are clearly faster here than over uint8 ones.

    Both forms of a small network run in turn; the fastest of each speaks, since others only ever slow a run down. On
    one thread of the CPU it is what the thread computes that counts, not how long it waits for its turn. Takes
    about a quarter of a second, once a process.

    Args:
        provider: Where the model shall run.
        threads: With so many threads.

    Returns:
        None where the provider can't run it.
    """
    feed = {"x": np.random.default_rng(0).standard_normal((1, CHANNELS, SIZE, SIZE), np.float32)}
    try:
        sessions = [
            open_session(model_bytes(_network(signed, feed)), provider, threads, name="the probe")
            for signed in (False, True)
        ]
        clock = _clock(provider, threads)
        best = [np.inf, np.inf]
        for _ in range(ROUNDS):
            for which, session in enumerate(sessions):
                started = clock()
                run(session, ["y"], feed)
                best[which] = min(best[which], clock() - started)
    except OnnxadmmError:
        return None
    return best[0] > CLEARLY * best[1]


def _clock(provider: str, threads: int) -> Callable[[], float]:
    return time.thread_time if provider == "cpu" and threads == 1 else time.perf_counter


def _network(signed: bool, feed: dict[str, Array]) -> ir.Model:
    """Return a few convolutions in a row, in int8."""
    rng = np.random.default_rng(1)
    shape = ir.Shape([1, CHANNELS, SIZE, SIZE])
    first = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    value, nodes, held = first, [], []
    for number in range(LAYERS):
        content = rng.standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32) / 24
        weight = ir.Value(name=f"w{number}", const_value=ir.tensor(content, name=f"w{number}"))
        pads = ir.AttrInt64s("pads", [1, 1, 1, 1])
        conv = ir.Node("", "Conv", [value, weight], [pads], name=f"conv{number}")
        relu = ir.Node("", "Relu", conv.outputs, name=f"relu{number}")
        conv.outputs[0].name, relu.outputs[0].name = f"c{number}", f"r{number}"
        nodes += [conv, relu]
        held.append(weight)
        value = relu.outputs[0]
    value.name, value.shape, value.type = "y", shape, first.type
    graph = ir.Graph([first], [value], nodes=nodes, initializers=held, opset_imports={"": 17})
    rule = Quantize(activations=ActivationQuantization(calibrate="minmax", signed=signed))
    names = {n.name or "" for n in nodes}
    return quantize(ir.Model(graph, ir_version=8), [(rule, names)], [feed]).model
