"""The program that runs a sandboxed task: `python -I child.py TASK ...`, bytes in, bytes out.

It is started by path and imports nothing of onnxadmm, so that a child costs the import of one library
and no more. Limits are set before a stranger's bytes are read. Plain data crosses the pipes: a JSON
header with raw blobs behind it, never code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

# Results are shapes and small constants. A graph with 100,000 constants must not become gigabytes.
MAX_RESULT_BYTES = 64 << 20
MAX_CONSTANT_ELEMENTS = 4096
# The tensor types that numpy knows by itself, as onnxruntime spells them. Values of the others
# (bfloat16, float8, int4) are never needed here.
PLAIN_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
OTHER_TYPES = {
    "tensor(bfloat16)": "bfloat16",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
    "tensor(float8e4m3fnuz)": "float8_e4m3fnuz",
    "tensor(float8e5m2)": "float8_e5m2",
    "tensor(float8e5m2fnuz)": "float8_e5m2fnuz",
    "tensor(int4)": "int4",
    "tensor(uint4)": "uint4",
    "tensor(int2)": "int2",
    "tensor(uint2)": "uint2",
    "tensor(float4e2m1)": "float4_e2m1fn",
    "tensor(complex64)": "complex64",
    "tensor(complex128)": "complex128",
}


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a JSON header and raw blobs as one frame."""
    text = json.dumps({**header, "_lengths": [len(b) for b in blobs]}).encode()
    return b"".join((struct.pack("<Q", len(text)), text, *blobs))


def unpack(frame: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """Return header and blobs of a frame; the blobs are views, nothing is copied.

    Raises:
        ValueError: The bytes are no frame.
    """
    view = memoryview(frame)
    if len(view) < 8:  # noqa: PLR2004  (the length field)
        raise ValueError("the frame is cut off")
    (length,) = struct.unpack("<Q", view[:8])
    header = json.loads(bytes(view[8 : 8 + length]))
    blobs, start = [], 8 + length
    for size in header.pop("_lengths"):
        blobs.append(view[start : start + size])
        start += size
    if start != len(view):
        raise ValueError("the frame is cut off")
    return header, blobs


def check(payload: bytes) -> bytes:
    """Run the ONNX checker (without shape inference, which can hang) over a serialised model."""
    import onnx

    try:
        onnx.checker.check_model(payload, full_check=False)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as e:
        return pack({"error": str(e)[:4000]})
    return pack({"error": ""})


def probe(payload: bytes) -> bytes:
    """Run a model once and describe every value.

    The payload's header holds `fetch` (names of the values), `types` (ONNX element type of each input)
    and `attempts`: lists of `[name, shape, index of the blob]`, tried in turn until one runs. Blob 0 is
    the model, unless `model` is the path of a file that we wrote; the others are the arrays that attempts
    name, as raw bytes.
    """
    import numpy as np
    import onnxruntime as ort

    header, blobs = unpack(payload)
    # 4 is "fatal": a stranger's text must not reach the terminal.
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Without arenas an allocation is as large as what the model asked for, and fails by itself.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "0")
    # Packed weights are copies, and this runs once.
    options.add_session_config_entry("session.disable_prepacking", "1")
    source = header["model"] or bytes(blobs[0])
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # noqa: BLE001  (the bindings raise a dozen unrelated types)
        return pack({"error": str(e)[:4000], "stage": "load"})
    settled = _settled_axes(session)
    errors: list[str] = []
    for number, attempt in enumerate(header["attempts"]):
        arrays = {
            name: np.full(shape, "", dtype=object)
            if index < 0
            else np.frombuffer(blobs[index], dtype=header["numpy"][name]).reshape(shape).copy()
            for name, shape, index in attempt
        }
        start = time.monotonic()
        try:
            if any(a.dtype == object for a in arrays.values()):
                # The bindings make no OrtValue of strings.
                found = [_seen_array(v) for v in session.run(header["fetch"], arrays)]
            else:
                feed = {
                    name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(a, header["types"][name])
                    for name, a in arrays.items()
                }
                values = session.run_with_ort_values(header["fetch"], feed)
                found = [_seen_value(v) for v in values]
            seconds = time.monotonic() - start
            return _describe(header["fetch"], found, number, settled, seconds)
        except Exception as e:  # noqa: BLE001  (as above)
            errors.append(str(e)[:2000])
            if is_memory(errors[-1]):
                break
    return pack({"error": errors[0] if errors else "no attempt", "errors": errors, "stage": "run"})


def is_memory(reason: str) -> bool:
    """Whether onnxruntime's reason is that memory ran out."""
    return any(
        sign in reason
        for sign in ("bad_alloc", "bad allocation", "Failed to allocate memory", "MemoryError")
    )


# Shape, type and, where it is small and whole numbers, the value itself; None for what is no tensor.
Seen = tuple[list[int], str, "np.ndarray | None"] | None


def _seen_value(value: Any) -> Seen:
    """Describe an OrtValue without copying a large one."""
    if not value.has_value() or not value.is_tensor():
        return None
    kind, shape = value.data_type(), list(value.shape())
    name = PLAIN_TYPES.get(kind) or OTHER_TYPES.get(kind, kind)
    wanted = kind in PLAIN_TYPES and _is_constant(name, shape)
    return shape, name, value.numpy() if wanted else None


def _seen_array(value: Any) -> Seen:
    if not hasattr(value, "dtype"):
        return None
    shape, name = list(value.shape), value.dtype.name
    return shape, name, value if _is_constant(name, shape) else None


def _is_constant(name: str, shape: Sequence[int]) -> bool:
    """Whether a value's numbers are worth handing back: sizes, axes and indices are."""
    return ("int" in name or name == "bool") and _elements(shape) <= MAX_CONSTANT_ELEMENTS


def _settled_axes(session: Any) -> dict[str, dict[int, int]]:
    """Return the lengths that shape inference finds without any input: name -> axis -> length."""
    found = {o.name: enumerate(o.shape or ()) for o in session.get_outputs()}
    return {name: {a: n for a, n in axes if isinstance(n, int)} for name, axes in found.items()}


def _describe(
    names: list[str],
    found: Sequence[Seen],
    attempt: int,
    settled: dict[str, dict[int, int]],
    seconds: float,
) -> bytes:
    shapes, types, constants = {}, {}, {}
    blobs: list[bytes] = []
    total = 0
    for name, seen in zip(names, found, strict=True):
        if seen is None:
            continue
        shapes[name], types[name], array = seen
        if array is not None and total + array.nbytes <= MAX_RESULT_BYTES:
            total += array.nbytes
            constants[name] = len(blobs)
            blobs.append(array.tobytes())
    header = {"shapes": shapes, "types": types, "constants": constants, "settled": settled}
    return pack({"error": "", "attempt": attempt, "seconds": seconds, **header}, blobs)


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _limit(memory_bytes: int, timeout_s: int) -> None:
    """Limit this process: data pages beyond those already held, CPU time, no core and no files."""
    import resource

    held = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:  # noqa: PTH123
        # Field 6 counts data and stack pages. The libraries that are loaded already don't count as
        # the model's.
        held = int(file.read().split()[5]) * resource.getpagesize()
    limits = (
        (resource.RLIMIT_DATA, held + memory_bytes, held + memory_bytes),
        # The softer one ends it by a signal that tells why.
        (resource.RLIMIT_CPU, timeout_s + 2, timeout_s + 4),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
    )
    for kind, soft, hard in limits:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (soft, hard))


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the parent is gone (Linux; elsewhere CPU time ends it)."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Run one task: `child.py TASK MEMORY_BYTES TIMEOUT_S PARENT_PID`."""
    task, memory_bytes, timeout_s, parent = sys.argv[1], *map(int, sys.argv[2:5])
    _die_with(parent)
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        "check": ("onnx", check),
        "probe": ("onnxruntime", probe),
    }
    library, run = tasks[task]
    # What native code prints must not mix with the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    __import__(library)
    _limit(memory_bytes, timeout_s)
    try:
        result = run(sys.stdin.buffer.read())
    except MemoryError:
        result = pack({"error": "MemoryError", "stage": "run"})
    with answer:
        answer.write(result)
    # Native threads and destructors have nothing left to do that matters.
    os._exit(0)


if __name__ == "__main__":
    main()
