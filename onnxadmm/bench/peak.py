"""What this machine can compute at best: one large matrix product, in ONNX Runtime as the models are.

A model can't be expected to reach it; how far it stays below tells what is left to gain from better
kernels and layouts, as opposed to less work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxadmm.bench.placement import choose_cores
from onnxadmm.bench.process import WorkerProcess
from onnxadmm.bench.providers import device
from onnxadmm.bench.results import Setting
from onnxadmm.errors import OnnxadmmError

Kind = Literal["float32", "float16", "int8"]

# Long enough that memory doesn't matter, and short enough (1 to 3 ms on a CPU) that some runs aren't
# interrupted on a machine that does other things.
_SIDE_CPU = 512
_SIDE_CPU_MANY = 1536
_MANY_THREADS = 4
# A peak is the fastest that was seen: other work on the machine only ever makes it slower.
_SAMPLES = 15
_SIDE_GPU: dict[Kind, int] = {"float32": 4096, "float16": 8192, "int8": 4096}


def measure_peaks(kinds: Sequence[Kind], setting: Setting, limit_s: float) -> dict[str, float]:
    """Time the product of each element type, one after the other in one process.

    Takes some 0.3 s a type, and the start of a process.

    Args:
        kinds: Element types.
        setting: Provider and threads; the batch size has no part in it.
        limit_s: How long the process may take over one request.

    Returns:
        Element type -> 10^9 operations a second; a type that the provider has no kernel for is left out.
    """
    found: dict[str, float] = {}
    if not kinds:
        return found
    on_cpu = setting.provider == "cpu"
    cores = choose_cores(setting.threads, np.random.default_rng(0)) if on_cpu else []
    inputs: dict[Kind, dict[str, np.ndarray[Any, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="onnxadmm-") as folder:
        for kind in kinds:
            file = Path(folder) / f"{kind}.onnx"
            model, inputs[kind] = gemm(kind, setting.provider, setting.threads)
            file.write_bytes(model)
        with WorkerProcess("peak", limit_s) as worker:
            for kind in kinds:
                try:
                    worker.open(Path(folder) / f"{kind}.onnx", setting, cores)
                    worker.warm(inputs[kind])
                    ms = min(float(worker.time().min()) for _ in range(_SAMPLES))
                except OnnxadmmError:
                    continue
                found[kind] = gflop(kind, setting.provider, setting.threads) / (ms / 1e3)
    return found


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
