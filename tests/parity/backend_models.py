"""The models of `onnx.backend.test` through our importer: what is right, refused, wrong.

Each model is imported with the shapes of its own test data and run on it; the outputs are compared with those
that the standard's authors computed. Nothing but ONNX Runtime's own answer stands in for an expected output,
and only where the suite holds none (its `light` models bring outputs for inputs that are all ones).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import Probe, constant_of, inline_functions, random_inputs
from onnxadmm.modules import import_model
from onnxadmm.ops.element_types import CARRIED, from_torch, to_torch

DATA = Path(onnx.backend.test.__file__).parent / "data"
SUITES = ("node", "expanded", "simple", "pytorch-operator", "pytorch-converted", "light")
RIGHT, FROZEN, REFUSED, WRONG = "right", "frozen", "refused", "wrong"
RUNTIME = "as ONNX Runtime"


@dataclass(frozen=True)
class Case:
    """A model with what goes in and what must come out, in the order of its inputs and outputs."""

    suite: str
    name: str
    model: onnx.ModelProto
    feeds: list
    expected: list | None
    rtol: float = 1e-3
    atol: float = 1e-7


@dataclass(frozen=True)
class Verdict:
    """What became of a case; `reason` is one line."""

    suite: str
    name: str
    verdict: str
    reason: str = ""


def cases(*suites: str) -> Iterator[Case]:
    """Yield the cases of these suites."""
    if {"node", "expanded"} & set(suites):
        yield from (c for c in _node_cases() if c.suite in suites)
    for suite in suites:
        if suite == "light":
            yield from _light_cases()
        elif suite not in ("node", "expanded"):
            yield from (_stored_case(suite, f) for f in sorted((DATA / suite).iterdir()))


@functools.cache
def _node_cases() -> list[Case]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Their own arithmetic on extremes warns.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return [
        Case(
            "expanded" if "_expanded" in c.name else "node",
            c.name,
            c.model,
            [_plain(i) for i in inputs],
            [_plain(o) for o in outputs],
            c.rtol,
            c.atol,
        )
        for c in found
        for inputs, outputs in c.data_sets
    ]


def _plain(value):
    """Return arrays for tensors that the suite keeps as messages."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _stored_case(suite: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    feeds, expected = (
        [
            _read(data / f"{kind}_{k}.pb", value.type)
            for k, value in enumerate(values)
            if (data / f"{kind}_{k}.pb").exists()
        ]
        for kind, values in (("input", model.graph.input), ("output", model.graph.output))
    )
    return Case(suite, folder.name, model, feeds, expected)


def _read(path: Path, kind: onnx.TypeProto):
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _light_cases() -> Iterator[Case]:
    """Yield the large networks, their weights made up by ConstantOfShape; the input is random."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        graph = ir.from_proto(model)
        shapes = {v.name: tuple(int(d) for d in v.shape) for v in graph.graph.inputs}
        feeds = random_inputs(graph, shapes, np.random.default_rng(0))
        yield Case("light", path.stem, model, list(feeds.values()), None)


def judge(case: Case) -> Verdict:
    """Import and run a case, and compare."""
    try:
        model, feeds, seen = _prepare(case)
    except NotImplementedError as e:
        # No shapes: neither ONNX Runtime nor the standard's own reference runs it.
        return Verdict(case.suite, case.name, REFUSED, f"nothing runs it: {_line(e)}")
    try:
        imported = import_model(model, seen)
        with torch.no_grad():
            got = imported.module.eval()(*(_to_torch(f) for f in feeds))
    except UnsupportedError as e:
        return Verdict(case.suite, case.name, REFUSED, str(e))
    except Exception as e:  # noqa: BLE001  (a crash is as bad as a wrong number)
        return Verdict(case.suite, case.name, WRONG, f"{type(e).__name__}: {_line(e)}")
    return _compare(case, feeds, got, imported.frozen)


def _compare(case: Case, feeds: list, got, frozen: tuple[str, ...]) -> Verdict:
    expected = case.expected
    if expected is None:
        expected = _run_onnx_runtime(case.model, [o.name for o in case.model.graph.output], feeds)
    if len(got) < len(expected):
        return Verdict(case.suite, case.name, WRONG, f"{len(got)} outputs of {len(expected)}")
    differing = [
        text
        for e, g in zip(expected, got, strict=False)
        if (text := difference(e, g, case.rtol, case.atol))
    ]
    if differing and _agrees_with_onnx_runtime(case, feeds, got):
        reason = f"computes what ONNX Runtime computes; {differing[0]}"
        return Verdict(case.suite, case.name, RUNTIME, reason)
    if differing:
        return Verdict(case.suite, case.name, WRONG, differing[0])
    if frozen:
        return Verdict(case.suite, case.name, FROZEN, ", ".join(frozen))
    return Verdict(case.suite, case.name, RIGHT)


def _agrees_with_onnx_runtime(case: Case, feeds: list, got) -> bool:
    """Whether ONNX Runtime itself differs from the suite, in the same way."""
    try:
        found = _run_onnx_runtime(case.model, [o.name for o in case.model.graph.output], feeds)
    except Exception:  # noqa: BLE001  (whatever a runtime or a bug raises)
        return False
    return not any(difference(e, g, case.rtol, case.atol) for e, g in zip(found, got, strict=False))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _prepare(case: Case):
    model = ir.from_proto(case.model)
    inline_functions(model)
    names = [v.name for v in model.graph.inputs if v.name not in model.graph.initializers]
    feeds = case.feeds[: len(names)]
    values = dict(zip(names, feeds, strict=True))
    if len(case.model.graph.node) > 1 or case.expected is None:
        values |= _every_value(case.model, values)
    elif case.expected is not None:
        values |= zip((o.name for o in model.graph.outputs), case.expected, strict=False)
    for name, held in model.graph.initializers.items():
        values[name] = constant_of(held)
    arrays = {n: np.asarray(v) for n, v in values.items() if isinstance(v, np.ndarray | np.generic)}
    seen = Probe(
        shapes={n: a.shape for n, a in arrays.items()},
        dtypes={n: a.dtype.name for n, a in arrays.items()},
        constants={
            n: a for n, a in arrays.items() if a.dtype.kind in "iub" and a.dtype.isbuiltin == 1
        },
        inputs={n: a for n, a in arrays.items() if n in names},
    )
    return model, feeds, seen


def _every_value(model: onnx.ModelProto, values: dict) -> dict:
    """Return every value of the main graph, from ONNX Runtime, or from the standard's reference."""
    outputs = [o for n in model.graph.node for o in n.output if o]
    try:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        del whole.graph.output[:], whole.graph.value_info[:]
        whole.graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs)
        return dict(zip(outputs, _run_onnx_runtime(whole, outputs, values), strict=True))
    except Exception:  # noqa: BLE001  (whatever a runtime or a bug raises)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = ReferenceEvaluator(model).run(None, values, intermediate=True)
        return {n: v for n, v in found.items() if n in outputs}


def _run_onnx_runtime(model: onnx.ModelProto, names: list[str], values) -> list:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    if not isinstance(values, dict):
        values = dict(zip((i.name for i in session.get_inputs()), values, strict=True))
    return session.run(names, values)


def _to_torch(feed):
    if isinstance(feed, list):
        return [_to_torch(f) for f in feed]
    array = np.asarray(feed)
    return None if feed is None else array if array.dtype.kind in "OUS" else to_torch(array)


def difference(expected, got, rtol: float, atol: float) -> str:
    """Say how an output differs from what is expected, or nothing where it doesn't."""
    if isinstance(expected, list):
        if not isinstance(got, list | tuple) or len(expected) != len(got):
            return f"expected a sequence of {len(expected)}"
        found = [difference(e, g, rtol, atol) for e, g in zip(expected, got, strict=True)]
        return next(filter(None, found), "")
    if expected is None or got is None:
        return (
            ""
            if got is expected
            else f"expected {type(expected).__name__}, got {type(got).__name__}"
        )
    expected = np.asarray(expected)
    actual = from_torch(got) if isinstance(got, torch.Tensor) else np.asarray(got)
    if actual.dtype != expected.dtype:
        if not _holds_as(actual, expected):
            return f"{actual.dtype} instead of {expected.dtype}"
        actual = actual.astype(expected.dtype)
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind in "OUSbiu" or "int" in expected.dtype.name:
        count = int((actual != expected).sum())
        return f"{count} of {expected.size} elements differ" if count else ""
    return _distance(expected, actual, rtol, atol)


def _holds_as(actual, expected) -> bool:
    """Whether a narrower type that torch has no tensors of came back in the one that carries it."""
    return CARRIED.get(expected.dtype.name) == actual.dtype.name


def _distance(expected, actual, rtol: float, atol: float) -> str:
    kind = expected.dtype
    if kind.kind == "c":
        wide, other = expected.astype(np.complex128), actual.astype(np.complex128)
    else:
        wide, other = expected.astype(np.float64), actual.astype(np.float64)
    # A result is right to the last place but one of its own type.
    last = float(ml_dtypes.finfo(kind).eps) if kind.kind != "c" else 1e-7
    with np.errstate(all="ignore"):
        close = np.isclose(wide, other, max(rtol, 2 * last), max(atol, 2 * last), equal_nan=True)
    if close.all():
        return ""
    with np.errstate(all="ignore"):
        apart = np.abs(wide - other)
    worst = float(np.max(apart[np.isfinite(apart)], initial=0.0))
    return f"{int((~close).sum())} of {close.size} elements differ, by up to {worst:.3g}"
