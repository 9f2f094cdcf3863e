"""ONNX Runtime sessions that are what they claim to be, and evaluation in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxadmm.bench.providers import ProviderError, built_in, chain, missing, why_not
from onnxadmm.bench.running import Session, raise_excessive, run
from onnxadmm.errors import DataError, ModelError, ResourceError, one_line
from onnxadmm.memory import limited_memory

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

OPTIMIZED = "optimized.onnx"
"""Name of the graph that really runs, in the folder of a trace."""

_INFO, _FATAL = 1, 4
# The others may compile parts of the graph, which ONNX Runtime can't write down.
_WRITES_ITS_GRAPH = frozenset({"cpu", "cuda"})


def available_providers() -> dict[str, str | None]:
    """Return cpu, cuda and what else this build holds: name -> None when usable, else why not (one line).

    A provider counts as usable only after a session has run on it. For CUDA that leaves a context on
    the GPU in this process.
    """
    reasons: dict[str, str | None] = {}
    for name in dict.fromkeys(["cpu", "cuda", *built_in()]):
        try:
            session = open_session(_probe(), name)
            session.run(None, {"x": np.eye(2, dtype=np.float32)})
        except (ProviderError, ModelError) as e:
            reasons[name] = str(e)
        except Exception as e:  # noqa: BLE001  (ONNX Runtime raises what it likes on a broken GPU)
            reasons[name] = f"{name}: a test model failed: {one_line(e, 160)}; check the driver"
        else:
            reasons[name] = None
    return reasons


def open_session(
    model: bytes | Path,
    provider: str = "cpu",
    threads: int = 1,
    *,
    name: str | None = None,
    optimize: bool = True,
    trace: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a model in ONNX Runtime, on the provider asked for or not at all.

    Quietens the log of ONNX Runtime in this process: what matters comes as an exception. Nodes without a
    kernel of the provider still run on the CPU, as ONNX Runtime does for everybody.

    Args:
        model: The serialised model, or its file; external data is found only beside a file.
        provider: Where to run, by its short name (`onnxadmm.bench.providers`).
        threads: Threads inside an operator; operators run one after another.
        name: What messages call the model; by default its file name.
        optimize: False computes the graph as it is written, node by node.
        trace: A folder that receives `optimized.onnx`, the graph that really runs (on cpu and cuda), and the
            profile of all runs when the session's `end_profiling` is called. The log then says why nodes
            are where they are.

    Raises:
        ProviderError: The provider can't be used here.
        ModelError: ONNX Runtime doesn't take the model.
        ResourceError: No memory for it, or the file can't be read.
    """
    import onnxruntime as ort

    label = one_line(name or (model.name if isinstance(model, Path) else "in memory"), 80)
    ort.set_default_logger_severity(_FATAL)
    providers = chain(provider)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads may spin during a run, as they do for users, but an idle session must leave the cores to
    # whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace / "profile")
        if provider in _WRITES_ITS_GRAPH:
            options.optimized_model_filepath = str(trace / OPTIMIZED)
        ort.set_default_logger_severity(_INFO)
        options.log_severity_level = _INFO
    source = str(model) if isinstance(model, Path) else model
    if isinstance(model, Path) and not model.is_file():
        raise ResourceError(f"model {label}: not a readable file; check the path")
    try:
        # Constants are folded here, in branches too that no run has taken.
        with limited_memory() if provider == "cpu" else contextlib.nullcontext():
            session = ort.InferenceSession(
                source, sess_options=options, providers=providers, enable_fallback=0
            )
    except Exception as e:  # noqa: BLE001  (any kind; explain sorts them)
        lacking = missing(provider) if provider != "cpu" else None
        if lacking is not None:
            raise ProviderError(f"{provider}: {lacking}") from None
        raise_excessive(e)
        raise explain(e, f"model {label}") from None
    # Without the libraries of a provider ONNX Runtime logs an error and carries on with the CPU.
    if providers[0] not in session.get_providers():
        raise ProviderError(f"{provider}: {why_not(provider)}")
    return session


def explain(error: Exception, what: str) -> ResourceError | ModelError:
    """Return ONNX Runtime's exception as ours; `what` opens the message.

    ONNX Runtime has an exception class for some faults and a bare RuntimeError for the rest, so running
    out of memory can only be told from the text.
    """
    text = str(error)
    text = text.removeprefix("[ONNXRuntimeError] : ")
    lowered = text.lower()
    if isinstance(error, MemoryError) or any(
        sign in lowered for sign in ("bad_alloc", "failed to allocate", "out of memory")
    ):
        return ResourceError(
            f"{what}: not enough memory: {one_line(text, 120)}; "
            "lower the batch size or use a machine with more"
        )
    if "cuda failure" in lowered or "cudnn failure" in lowered:
        return ProviderError(f"cuda: {what}: {one_line(text, 160)}; check GPU and driver")
    return ModelError(f"{what}: ONNX Runtime refuses it: {one_line(text, 170)}; check the model")


def run_batched(
    session: Session,
    inputs: Mapping[str, Array],
    batch_size: int,
    outputs: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Run N samples through a session, and return outputs over all N, in order.

    Axis 0 is the batch in every input but single numbers. A model with a fixed batch is fed as many as it
    takes, the last batch filled up with copies of the last sample, whose results are dropped.

    Args:
        session: From `open_session`.
        inputs: Input name -> [N, ...], or []. Inputs with a default (an initializer) may be absent.
        batch_size: Samples a run, at most.
        outputs: Output name -> its axis of samples; all outputs, and axis 0, if not given.

    Returns:
        Output name -> [N * r, ...], where r is how many rows the model gives a sample, mostly 1.

    Raises:
        DataError: The arrays don't fit the inputs or each other.
        ModelError: An output has no batch axis, or the model fails on these arrays.
        ResourceError: Out of memory.
    """
    count = _count(session, inputs)
    fixed = _fixed_batch(session)
    size = fixed or max(1, min(batch_size, count))
    axes = outputs or {output.name: 0 for output in session.get_outputs()}
    names = list(axes)
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, count, size):
        taken = min(size, count - start)
        batch = {k: _slice(v, start, taken, size if fixed else taken) for k, v in inputs.items()}
        fed = size if fixed else taken
        try:
            values = run(session, names, batch)
        except ModelError:
            raise
        except Exception as e:  # noqa: BLE001  (any kind; sorted there)
            raise _explain_run(e, start) from None
        for name, value in zip(names, values, strict=True):
            axis = axes[name]
            array = isinstance(value, np.ndarray) and value.ndim > axis
            if not array or value.shape[axis] % fed:
                shape = list(value.shape) if isinstance(value, np.ndarray) else "no tensor"
                raise ModelError(
                    f"output {one_line(name, 60)!r}: shape {shape} for a batch of {fed}: axis {axis} is not "
                    "the batch; evaluate on an output that has one row a sample"
                )
            rows = value.shape[axis] // fed
            parts[name].append(np.moveaxis(value, axis, 0)[: rows * taken])
    return {name: np.concatenate(values) for name, values in parts.items()}


def _count(session: Session, inputs: Mapping[str, Array]) -> int:
    """Return N, having checked that every input is there and has it."""
    wanted = [i.name for i in session.get_inputs()]
    optional = {i.name for i in session.get_overridable_initializers()}
    missing = [name for name in wanted if name not in inputs]
    unknown = [name for name in inputs if name not in wanted and name not in optional]
    if missing or unknown:
        what = f"no array for {missing[0]!r}" if missing else f"{unknown[0]!r} is no input"
        raise DataError(f"inputs: {one_line(what, 80)}; the model takes {', '.join(wanted)}")
    sizes = {name: array.shape[0] for name, array in inputs.items() if array.ndim}
    if not sizes or min(sizes.values()) == 0:
        raise DataError("inputs: no samples; give arrays with at least one row")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(f"inputs: different numbers of samples ({listed}); they must agree")
    return int(next(iter(sizes.values())))


def _fixed_batch(session: Session) -> int | None:
    """Return the batch size that the model insists on, or None."""
    sizes = {i.name: i.shape[0] for i in session.get_inputs() if i.shape}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}
    if len(set(fixed.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in fixed.items())
        raise DataError(f"inputs: fixed batch sizes disagree ({listed}); axis 0 must be the batch")
    return next(iter(fixed.values()), None)


def _slice(array: Array, start: int, taken: int, size: int) -> Array:
    """Return `taken` samples from `start`, filled up to `size` with copies of the last; a single number as it is."""
    if not array.ndim:
        return array
    part = np.ascontiguousarray(array[start : start + taken])
    if taken == size:
        return part
    return np.concatenate([part, np.repeat(part[-1:], size - taken, axis=0)])


def _explain_run(error: Exception, start: int) -> DataError | ModelError | ResourceError:
    text = str(error)
    if "INVALID_ARGUMENT" in text or isinstance(error, TypeError | ValueError):
        return DataError(f"inputs from sample {start}: {one_line(text, 170)}; check shape and type")
    return explain(error, f"model, run on samples from {start}")


def _probe() -> bytes:
    """Return a model of one MatMul, which every provider has a kernel for."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in ("x", "y"))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
