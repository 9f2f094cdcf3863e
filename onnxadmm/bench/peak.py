"""What this machine can compute at best: one large matrix product, in ONNX Runtime as the models are.

A model can't be expected to reach it; how far it stays below tells what is left to gain from better
kernels and layouts, as opposed to less work.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onnxadmm.bench.providers import device

Kind = Literal["float32", "float16", "int8"]

# Long enough that memory doesn't matter, short enough for a sample: 5 to 30 ms a run.
_SIDE_CPU = 768
_SIDE_CPU_MANY = 1536
_MANY_THREADS = 4
_SIDE_GPU: dict[Kind, int] = {"float32": 4096, "float16": 8192, "int8": 4096}


def side(kind: Kind, provider: str, threads: int) -> int:
    """Return n of the product [n, n] x [n, n]."""
    if device(provider) == "cuda":
        return _SIDE_GPU[kind]
    return _SIDE_CPU_MANY if threads > _MANY_THREADS else _SIDE_CPU


def gflop(kind: Kind, provider: str, threads: int) -> float:
    """Return the work of a run in 10^9 operations, a multiplication and an addition counting as two."""
    return float(2 * side(kind, provider, threads) ** 3 / 1e9)


def gemm(kind: Kind, provider: str, threads: int) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """Return the model of the product, serialised, and its inputs.

    On a CPU the second matrix is a constant, as weights are, which ONNX Runtime packs beforehand.
    """
    from onnx import TensorProto, helper, numpy_helper

    n = side(kind, provider, threads)
    rng = np.random.default_rng(0)
    types = {"float32": np.float32, "float16": np.float16, "int8": np.uint8}
    # CUDA's integer product takes int8 only, CPUs are fast with uint8 times int8.
    fed = np.int8 if kind == "int8" and device(provider) == "cuda" else types[kind]
    x = _random(rng, n, np.dtype(fed))
    held = []
    second = "x"
    if device(provider) != "cuda":
        weight = _random(rng, n, np.dtype(np.int8 if kind == "int8" else fed))
        held = [numpy_helper.from_array(weight, "w")]
        second = "w"
    operator = "MatMulInteger" if kind == "int8" else "MatMul"
    element = helper.np_dtype_to_tensor_dtype(np.dtype(fed))
    result = TensorProto.INT32 if kind == "int8" else element
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", second], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", element, [n, n])],
        [helper.make_tensor_value_info("y", result, [n, n])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content, {"x": x}


def _random(rng: np.random.Generator, n: int, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if kind.kind == "f":
        return rng.standard_normal((n, n), dtype=np.float32).astype(kind)
    low, high = (-127, 128) if kind == np.int8 else (0, 256)
    return rng.integers(low, high, (n, n)).astype(kind)
