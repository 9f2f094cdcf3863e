"""One real run of a model in ONNX Runtime: every value's shape, and that it runs at all."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxadmm.errors import ModelError, UnsupportedError, one_line
from onnxadmm.graph.child import MAX_CONSTANT_ELEMENTS, is_memory, pack, unpack
from onnxadmm.graph.inputs import attempts, has_zeros, real_inputs
from onnxadmm.graph.parts import split_mapped, stage_parts, temporary_folder
from onnxadmm.graph.pieces import serialise
from onnxadmm.graph.sandbox import run_limited
from onnxadmm.graph.tensors import MAX_RANK
from onnxadmm.graph.walking import constant_of
from onnxadmm.memory import GIB, available_bytes

# A run keeps every activation: 4 GiB hold those of large networks at batch 1.
MEMORY_BYTES = 4 * GIB
TIMEOUT_S = 30.0
# Inputs of all attempts cross a pipe together.
MAX_INPUT_BYTES = 512 << 20
_STAGED = "model.onnx"


@dataclass(frozen=True)
class Probe:
    """What one run of a model showed.

    Attributes:
        shapes: Shape of every named tensor in the main graph: inputs, initializers, node outputs.
            Sequences and maps have none.
        dtypes: Their element types as numpy names (`float32`; `object` for strings).
        constants: Values of integer and truth tensors of at most 4096 elements, by name: initializers,
            Constant outputs and computed ones. What depends on the inputs' values or sizes is among
            them, as it was in this run.
        inputs: The arrays that were fed.
        settled: Name -> axes that are as long in every run: those of initializers, those that an input declares
            with a number, and those of node outputs whose length ONNX Runtime's shape inference finds.
        seconds: What the run took.
        zeros: Whether it ran only with all integers at zero: an index of any other number lies outside a table.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    constants: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    settled: dict[str, frozenset[int]] = field(default_factory=dict)
    seconds: float = 0.0
    zeros: bool = False


def probe(
    model: ir.Model,
    *,
    batch: int = 1,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Probe:
    """Run a model once, unoptimised, with random inputs and every value as an output.

    The run happens in a child process with limited memory and time. Cost: a fifth of a second, the run
    itself, and twice the model's size in memory; of a model over 64 MiB, its size on the disk instead.

    Args:
        model: The model; isn't changed.
        batch: Size of an open first dimension.
        seed: Of the random inputs.
        sizes: Sizes for symbolic dimensions by name; others are found by trying.
        memory_bytes: Limit for the activations. The weights' share is added, and what the machine has
            free is never exceeded.
        timeout_s: Limit for the run in seconds; time to read the weights is added.

    Raises:
        ModelError: ONNX Runtime can't run it; gives its reason.
        UnsupportedError: It has no kernel for an operator and element type.
        ResourceError: There is no room for a temporary copy of a model over 64 MiB.
    """
    parts = split_mapped(model, _STAGED)
    fetch = _fetch_everything(parts.proto)
    tried = _affordable(model, batch, seed, sizes)
    # Never below what an empty session takes, or a busy machine would refuse every model.
    memory = min(memory_bytes + 4 * parts.size_bytes, max(available_bytes(), GIB))
    timeout_s += parts.size_bytes / 5e7
    with contextlib.ExitStack() as stack:
        if parts.weights is None:
            payload = _payload(model, serialise(parts.proto), None, fetch, tried)
        else:
            # ONNX Runtime maps the weights of a file; bytes it would copy.
            folder = stack.enter_context(temporary_folder())
            payload = _payload(model, b"", stage_parts(parts, folder, _STAGED), fetch, tried)
        frame = run_limited("probe", payload, timeout_s=timeout_s, memory_bytes=memory)
    answer, blobs = unpack(frame)
    if answer["error"]:
        raise _failure(answer, memory, tried[0])
    inputs = tried[answer["attempt"]]
    result = _assemble(model, answer, blobs, inputs)
    if has_zeros(model, answer["attempt"]):
        result = replace(result, zeros=True)
    _check_outputs(model, result, batch)
    return result


def _fetch_everything(proto: onnx.ModelProto) -> list[str]:
    """Make every node output of the main graph a graph output; return all names to fetch."""
    graph = proto.graph
    # Recorded shapes may be wrong, and ONNX Runtime believes them.
    del graph.value_info[:]
    names = [v.name for v in graph.output]
    known = set(names)
    for node in graph.node:
        for name in node.output:
            if name and name not in known:
                known.add(name)
                names.append(name)
                graph.output.append(onnx.ValueInfoProto(name=name))
    return names


def _affordable(
    model: ir.Model, batch: int, seed: int, sizes: Mapping[str, int] | None
) -> list[dict[str, np.ndarray]]:
    """Return the attempts whose inputs together are small enough to send."""
    for value in real_inputs(model):
        dims = [d for d in value.shape or () if isinstance(d, int) and d > 0]
        if math.prod(dims) * 8 > MAX_INPUT_BYTES:
            raise ModelError(
                f"graph input {one_line(repr(value.name), 60)} has shape {dims[:8]}, too large a size to run "
                "(512 MiB is the limit of its memory); export it with smaller inputs"
            )
    chosen: list[dict[str, np.ndarray]] = []
    total = 0
    for inputs in attempts(model, batch, sizes, seed):
        total += sum(a.nbytes for a in inputs.values())
        if chosen and total > MAX_INPUT_BYTES:
            break
        chosen.append(inputs)
    return chosen


def _payload(
    model: ir.Model,
    content: bytes,
    path: Path | None,
    fetch: list[str],
    tried: list[dict[str, np.ndarray]],
) -> bytes:
    types = {v.name: int(v.dtype or ir.DataType.FLOAT) for v in real_inputs(model)}
    blobs = [content]
    rows: list[list[Any]] = []
    kinds: dict[str, str] = {}
    for inputs in tried:
        row = []
        for name, array in inputs.items():
            # Types that numpy lacks travel as integers of their width.
            plain = array.dtype.isbuiltin == 1
            kinds[name] = array.dtype.name if plain else f"uint{array.dtype.itemsize * 8}"
            index = -1 if array.dtype == object else len(blobs)
            if index > 0:
                blobs.append(array.tobytes())
            row.append([name, list(array.shape), index])
        rows.append(row)
    header = {"fetch": fetch, "types": types, "numpy": kinds, "attempts": rows}
    return pack({**header, "model": None if path is None else str(path)}, blobs)


def _failure(
    answer: dict[str, Any], memory_bytes: int, inputs: dict[str, np.ndarray]
) -> ModelError:
    reason = str(answer["error"])
    last = (answer.get("errors") or [reason])[-1]
    if is_memory(reason) or is_memory(last):
        return ModelError(
            f"the model needs more than {memory_bytes / GIB:.1f} GiB of memory to run once "
            f"({_asked(last)}): too large a size; above the limit"
        )
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)
    # Where in its sources it failed says nothing to the user.
    text = re.sub(r"/\S+\.(?:cc|h|cpp|hpp):\d+ ", "", text)
    text = re.sub(r"^Exception during (?:initialization|loading): ", "", text)
    if "NOT_IMPLEMENTED" in reason:
        return UnsupportedError(
            f"ONNX Runtime has no kernel for it (unsupported element type?): {one_line(text, 150)}"
        )
    shapes = ", ".join(f"{one_line(n, 30)} {list(a.shape)}" for n, a in inputs.items())
    given = "" if answer["stage"] == "load" else f" with inputs {one_line(shapes, 60)}"
    verb = "load" if answer["stage"] == "load" else "run"
    return ModelError(f"ONNX Runtime can't {verb} it{given}: {one_line(text, 170)}")


def _asked(reason: str) -> str:
    found = re.search(r"buffer of size (\d+)", reason)
    return f"one value has {int(found[1]) / GIB:.1f} GiB" if found else "an allocation failed"


def _assemble(
    model: ir.Model,
    answer: dict[str, Any],
    blobs: list[memoryview],
    inputs: dict[str, np.ndarray],
) -> Probe:
    shapes = {name: tuple(shape) for name, shape in answer["shapes"].items()}
    for name, shape in shapes.items():
        if len(shape) > MAX_RANK:
            raise UnsupportedError(
                f"value {one_line(name, 60)!r} has {len(shape)} axes, {MAX_RANK} are the limit of what can be handled; "
                "export it with fewer"
            )
    dtypes = dict(answer["types"])
    constants = {
        name: np.frombuffer(blobs[index], dtype=dtypes[name]).reshape(shapes[name])
        for name, index in answer["constants"].items()
    }
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        shapes[name] = tuple(tensor.shape.numpy())
        string = tensor.dtype == ir.DataType.STRING
        dtypes[name] = "object" if string else tensor.dtype.numpy().name
        plain = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
        if plain and tensor.size <= MAX_CONSTANT_ELEMENTS:
            array = constant_of(value)
            assert array is not None
            constants[name] = array
    for name, array in inputs.items():
        shapes[name] = array.shape
        dtypes[name] = array.dtype.name
    settled = _settled(model, answer["settled"], shapes)
    return Probe(shapes, dtypes, constants, inputs, settled, float(answer["seconds"]))


def _settled(
    model: ir.Model,
    inferred: Mapping[str, Mapping[str, int]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, frozenset[int]]:
    """Return which axes are of one length: what was inferred and what the run showed must agree."""
    told: dict[str, Mapping[int, int]] = {
        name: {int(axis): length for axis, length in axes.items()}
        for name, axes in inferred.items()
    }
    # A graph output is what it declares to be, right or wrong.
    for value in model.graph.outputs:
        told.pop(value.name or "", None)
    for value in real_inputs(model):
        told[value.name or ""] = {
            a: d for a, d in enumerate(value.shape or ()) if isinstance(d, int)
        }
    for name in model.graph.initializers:
        told[name] = dict(enumerate(shapes.get(name, ())))
    return {
        name: frozenset(a for a, n in axes.items() if shapes[name][a : a + 1] == (n,))
        for name, axes in told.items()
        if name in shapes
    }


def _check_outputs(model: ir.Model, result: Probe, batch: int) -> None:
    """Refuse a model whose declared output shapes its own run contradicts."""
    for value in model.graph.outputs:
        if value.shape is None or value.name not in result.shapes:
            continue
        real = result.shapes[value.name]
        declared = list(value.shape)
        # A fixed first dimension of 1 beside an open one of the inputs is a common slip, and harmless.
        start = 0 if batch == 1 else 1
        # Exporters also lose a rank (a scalar that has one element, a missing time axis): ONNX Runtime
        # runs such a model with a warning. A wrong size is a graph that isn't what it says.
        lies = len(declared) == len(real) and any(
            isinstance(d, int) and d >= 0 and d != r
            for d, r in list(zip(declared, real, strict=True))[start:]
        )
        if lies:
            shown = [d if isinstance(d, int) else str(d) for d in declared]
            raise ModelError(
                f"graph output {one_line(repr(value.name), 60)} declares shape {one_line(shown, 60)}, but "
                f"the graph yields {list(real)[:8]}; export the model again"
            )
