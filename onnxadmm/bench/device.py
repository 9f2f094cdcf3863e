"""Memory of the GPU that CUDA calls the first, asked of the driver itself."""

from __future__ import annotations

import ctypes
from typing import Any

_SUCCESS = 0


class DeviceMemory:
    """How much of the GPU's memory is in use, by everybody.

    Opens CUDA's primary context of this process, the one that ONNX Runtime will use: what the context
    itself takes (some hundreds of MB) is therefore in every reading, and cancels in differences.
    """

    def __init__(self, driver: Any = None) -> None:
        """Connect to the driver.

        Args:
            driver: Instead of `libcuda.so.1`, in tests.

        Raises:
            OSError: There is no driver, or it refuses.
        """
        self._driver = driver if driver is not None else ctypes.CDLL("libcuda.so.1")
        device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def used_bytes(self) -> int:
        """Return what is in use now.

        Raises:
            OSError: The driver refuses.
        """
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        return total.value - free.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != _SUCCESS:
            raise OSError(f"{name} gives {status}")
