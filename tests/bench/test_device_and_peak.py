"""GPU memory is asked of the driver, and the peak is a product that runs here."""

from __future__ import annotations

import ctypes

import pytest
from bench_models import matmuls, rows

from onnxadmm.bench import Comparison, ProviderError, Setting, compare, open_session
from onnxadmm.bench.device import DeviceMemory
from onnxadmm.bench.peak import gemm, gflop
from onnxadmm.bench.providers import built_in, chain


class Driver:
    """Stands for libcuda: 8 GB of which some are used."""

    def __init__(self, used, refuse=()):
        self.used, self.refuse, self.depth = used, refuse, 0

    def __getattr__(self, name):
        def call(*arguments):
            if name in self.refuse:
                return 100
            if name == "cuMemGetInfo_v2":
                assert self.depth == 1
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_size_t))[0] = (
                    8 * 10**9 - self.used
                )
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_size_t))[0] = 8 * 10**9
            self.depth += {"cuCtxPushCurrent_v2": 1, "cuCtxPopCurrent_v2": -1}.get(name, 0)
            return 0

        return call


def test_used_memory_is_total_less_free_and_the_context_is_left_again():
    driver = Driver(3 * 10**9)
    memory = DeviceMemory(driver)
    assert memory.used_bytes() == 3 * 10**9
    driver.used += 10**6
    assert memory.used_bytes() == 3 * 10**9 + 10**6
    assert driver.depth == 0


@pytest.mark.parametrize("call", ["cuInit", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"])
def test_a_driver_that_refuses_is_an_os_error(call):
    driver = Driver(0, refuse=(call,))
    with pytest.raises(OSError, match=call):
        DeviceMemory(driver).used_bytes()
    assert driver.depth == 0


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_product_runs_and_counts_its_work(kind):
    model, inputs = gemm(kind, "cpu", 1)
    (found,) = open_session(model).run(None, inputs)
    n = len(inputs["x"])
    assert found.shape == (n, n)
    assert gflop(kind, "cpu", 1) == pytest.approx(2 * n**3 / 1e9)


def test_the_peak_is_measured_beside_the_models(monkeypatch):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    (found,) = compare(
        {"a": matmuls(4)}, [Setting("cpu", 8, 1)], rows, rounds=5, peaks=("float32", "float16")
    )
    assert isinstance(found, Comparison)
    # No CPU multiplies slower than this; what it can't run at all is left out or slow, never an error.
    assert found.peak_gflops["float32"] > 0.5


def test_providers_go_by_short_names_and_end_on_the_cpu():
    assert "cpu" in built_in()
    assert chain("cpu") == ["CPUExecutionProvider"]
    with pytest.raises(ProviderError, match="openvino: this build of ONNX Runtime"):
        chain("openvino")
