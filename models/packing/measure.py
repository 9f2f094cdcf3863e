"""Pack a 500 x 800 layer under several constraints and record what the file takes, against the alternatives.

    python models/packing/measure.py

Session creation is timed in turn, unpacked and packed, and stands as medians. What stands in the table is what
this command saw, with the date and the versions it saw it with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxadmm.bench import open_session
from onnxadmm.compact import pack_tensors
from onnxadmm.graph import model_bytes

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results: written by measure.py -->", "<!-- end of results -->"
HEADER = (
    "| weights of 500 × 800 | dense file | sparse initializer | packed file | streams over entropy | "
    "session, dense / packed | operators that run |\n|---|---:|---:|---:|---:|---:|---|"
)
SHAPE = (500, 800)
ROUNDS = 21
F = np.float32
Weights = np.ndarray[Any, Any]


def _sparse(rng: np.random.Generator, count: int, draw: Callable[[int], Weights]) -> Weights:
    dense = np.zeros(SHAPE[0] * SHAPE[1], F)
    dense[rng.choice(dense.size, count, replace=False)] = draw(count)
    return dense.reshape(SHAPE)


def _grid(rng: np.random.Generator, top: int) -> Weights:
    levels = np.clip(np.rint(rng.standard_normal(SHAPE) * top / 3), -top, top).astype(F)
    return levels * rng.uniform(0.001, 0.01, (1, SHAPE[1])).astype(F)


def contents(rng: np.random.Generator) -> dict[str, Weights]:
    """Return name -> weights as the constraint sets leave them."""
    four_bits = np.array([q for q in range(-7, 8) if q], F) * F(0.03)
    return {
        "3,600 of 4 bits": _sparse(rng, 3600, lambda n: rng.choice(four_bits, n)),
        "3,600 of float": _sparse(rng, 3600, lambda n: rng.standard_normal(n).astype(F)),
        "80,000 of 4 bits": _sparse(rng, 80_000, lambda n: rng.choice(four_bits, n)),
        "binary": rng.choice(np.array([-0.1, 0.1], F), SHAPE),
        "ternary": rng.choice(np.array([-0.1, 0, 0.1], F), SHAPE),
        "4 bits, a scale a column": _grid(rng, 7),
        "8 bits, a scale a column": _grid(rng, 127),
    }


def measure(weight: Weights) -> dict[str, Any]:
    """Return what the table shows of one layer."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        f"g (float[N,{SHAPE[0]}] x) => (float[N,{SHAPE[1]}] y) {{ y = MatMul(x, w) }}"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    plain = ir.from_proto(proto)
    packed = plain.clone()
    (done,) = pack_tensors(packed)
    models = {"dense": model_bytes(plain), "packed": model_bytes(packed)}
    seconds: dict[str, list[float]] = {"dense": [], "packed": []}
    for _ in range(ROUNDS):
        for name, content in models.items():
            started = time.perf_counter()
            open_session(content)
            seconds[name].append(time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(models["packed"], trace=Path(folder))
        running = [n.op_type for n in onnx.load(Path(folder) / "optimized.onnx").graph.node]
        session.end_profiling()
    x = np.random.default_rng(1).standard_normal((4, SHAPE[0])).astype(F)
    got = [open_session(m).run(None, {"x": x})[0] for m in models.values()]
    assert np.array_equal(*got), "the packed layer computes something else"
    there = int(np.count_nonzero(weight))
    return {
        "dense_bytes": len(models["dense"]),
        # float32 value and int64 place for each nonzero, as ONNX stores sparse initializers
        "sparse_initializer_bytes": there * 12,
        "packed_bytes": len(models["packed"]),
        "over_entropy": done.packed_bytes / done.entropy_bytes - 1,
        "session_s": {n: statistics.median(s) for n, s in seconds.items()},
        "operators": running,
    }


def row(name: str, r: dict[str, Any]) -> str:
    """Return one line of the table."""
    session = " / ".join(f"{1e3 * s:.1f}" for s in r["session_s"].values())
    cells = [
        name,
        f"{r['dense_bytes']:,}",
        f"{r['sparse_initializer_bytes']:,}",
        f"{r['packed_bytes']:,}",
        f"{100 * r['over_entropy']:.1f} %",
        f"{session} ms",
        ", ".join(r["operators"]),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, record, rewrite the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = {n: measure(w) for n, w in contents(np.random.default_rng(0)).items()}
    said = (
        f"{datetime.now(UTC).date().isoformat()}, onnx {version('onnx')}, "
        f"ONNX Runtime {version('onnxruntime-gpu')}, sizes in bytes, session creation: median of {ROUNDS}"
    )
    stored = {"measured": said, "results": results}
    (HERE / "results.json").write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    path = HERE / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    rows = "\n".join(row(n, r) for n, r in results.items())
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{HEADER}\n{rows}\n\n{said}\n{END}{after}", encoding="utf-8")
    print(rows)


if __name__ == "__main__":
    main()
