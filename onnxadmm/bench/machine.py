"""What the numbers were measured on, without saying whose machine it is."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import psutil

# Whether these exist decides how fast int8 is, far more than the name of the CPU tells.
_VECTOR_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def environment() -> dict[str, str | int]:
    """Return CPU, cores, GPU and the versions that matter; no host names, users or paths."""
    found: dict[str, str | int] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_field("model name") or platform.machine(),
        "cpu_vector": " ".join(f for f in _VECTOR_FLAGS if f in _cpu_flags()),
        "cores_physical": psutil.cpu_count(logical=False) or 0,
        "cores_logical": psutil.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }
    gpus = _gpus()
    if gpus:
        found["gpu"] = ", ".join(gpus)
    for package, distributions in (
        ("onnxruntime", ("onnxruntime-gpu", "onnxruntime")),
        ("numpy", ("numpy",)),
        ("onnx", ("onnx",)),
    ):
        found[package] = next((v for d in distributions if (v := _version(d))), "not installed")
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_field(key: str) -> str:
    """Return the first value of a key of Linux's cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return " ".join(value.split())
    return ""


def _cpu_flags() -> set[str]:
    return set((_cpu_field("flags") or _cpu_field("Features")).split())


def _gpus() -> list[str]:
    """Return the models of the NVIDIA GPUs, as the driver lists them on Linux."""
    names: list[str] = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            text = file.read_text("utf-8", errors="replace")
        except OSError:
            continue
        names += [
            " ".join(line.partition(":")[2].split())
            for line in text.splitlines()
            if line.startswith("Model:")
        ]
    return names
