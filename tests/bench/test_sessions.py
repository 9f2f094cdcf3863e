"""Sessions are what was asked for, and evaluation copes with the batches of real models."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from bench_models import differences, matmuls, rows, sums

from onnxadmm.bench import (
    ProviderError,
    available_providers,
    environment,
    open_session,
    run_batched,
    sessions,
)
from onnxadmm.errors import DataError, ModelError, ResourceError


def pairs(count):
    a = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    return {"a": a, "b": a[::-1].copy()}


@pytest.mark.parametrize("batch", ["N", 4, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_batches_give_what_one_run_would(batch, batch_size, count):
    inputs = pairs(count)
    found = run_batched(open_session(differences(batch)), inputs, batch_size)
    np.testing.assert_array_equal(found["d"], inputs["a"] - inputs["b"])
    np.testing.assert_array_equal(found["twice"], np.repeat(inputs["a"], 2, axis=0))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": np.zeros((2, 2), np.float32)}, "no array for 'b'"),
        (pairs(2) | {"c": np.zeros((2, 2), np.float32)}, "'c' is no input"),
        ({"a": pairs(2)["a"], "b": pairs(3)["b"]}, "a: 2, b: 3"),
        (pairs(0), "no samples"),
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "from sample 0"),
        ({"a": np.zeros((2, 5), np.float32), "b": np.zeros((2, 5), np.float32)}, "from sample 0"),
    ],
)
def test_arrays_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(DataError, match=message):
        run_batched(open_session(differences()), inputs, 2)


def test_an_output_without_a_batch_axis_is_refused():
    with pytest.raises(ModelError, match="axis 0 is not the batch"):
        run_batched(open_session(sums()), {"x": np.ones((4, 2), np.float32)}, 2)


def test_a_damaged_model_is_a_model_error(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(matmuls(1)[:-200])
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        open_session(path)


def test_a_missing_file_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError, match=r"gone\.onnx"):
        open_session(tmp_path / "gone.onnx")


def test_unoptimized_computes_the_same():
    model, inputs = matmuls(3), rows(2)
    plain = run_batched(open_session(model, optimize=False), inputs, 2)
    fast = run_batched(open_session(model), inputs, 2)
    np.testing.assert_allclose(plain["y"], fast["y"], rtol=1e-5)


def test_cpu_is_always_usable():
    assert available_providers()["cpu"] is None


def test_cuda_is_usable_or_says_why_in_one_line():
    reason = available_providers()["cuda"]
    if reason is None:
        session = open_session(matmuls(1), "cuda")
        assert session.get_providers()[0] == "CUDAExecutionProvider"
    else:
        assert ";" in reason
        assert "\n" not in reason
        with pytest.raises(ProviderError, match="cuda"):
            open_session(matmuls(1), "cuda")


def test_a_build_without_cuda_is_said(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="install onnxruntime-gpu"):
        open_session(matmuls(1), "cuda")


def test_a_session_that_falls_back_is_refused(monkeypatch):
    class OnCpu(onnxruntime.InferenceSession):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"providers": ["CPUExecutionProvider"]})

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with pytest.raises(ProviderError, match="cuda: "):
        open_session(matmuls(1), "cuda")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("Failed to allocate memory for requested buffer of size 1"), ResourceError),
        (MemoryError(), ResourceError),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), ResourceError),
        (RuntimeError("CUDA failure 700: an illegal memory access"), ProviderError),
        (RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : no such op"), ModelError),
    ],
)
def test_what_onnxruntime_says_is_sorted(error, kind):
    found = sessions.explain(error, "model x")
    assert type(found) is kind
    assert str(found).startswith(("model x", "cuda: model x"))


def test_the_environment_names_versions_but_no_machine():
    import platform

    found = environment()
    assert found["onnxruntime"] == onnxruntime.__version__
    assert {"cpu", "cores_logical", "python", "numpy", "onnx", "platform"} <= set(found)
    assert not any(platform.node() in str(v) or "/" in str(v) for v in found.values())


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, onnxadmm.bench; print([m for m in ('onnxruntime', 'onnx', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
