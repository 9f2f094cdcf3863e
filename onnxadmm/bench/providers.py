"""Where a model can run: ONNX Runtime's execution providers under short names.

Every provider that a build of ONNX Runtime holds can be asked for by its name in lower case without
`ExecutionProvider`. onnxadmm knows more of cpu, cuda and tensorrt: which device their arrays live on, and
why they can't be used.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from pathlib import Path

from onnxadmm.errors import ResourceError, one_line

SUFFIX = "ExecutionProvider"
ON_NVIDIA = frozenset({"cuda", "tensorrt", "nvtensorrtrtx"})


class ProviderError(ResourceError):
    """This machine can't run models on the provider that was asked for."""


def short_name(provider: str) -> str:
    """`cuda` from `CUDAExecutionProvider`."""
    return provider.removesuffix(SUFFIX).lower()


def built_in() -> dict[str, str]:
    """Return the providers of this build of ONNX Runtime: short name -> its own name.

    That one is here says nothing of the driver or the device that it needs.
    """
    import onnxruntime as ort

    return {short_name(p): p for p in reversed(ort.get_available_providers())}


def chain(name: str) -> list[str]:
    """Return the providers that a session is opened with, by ONNX Runtime's names, first choice first.

    Nodes without a kernel run on the next one; the CPU comes last, as ONNX Runtime does it for everybody.

    Raises:
        ProviderError: This build has no such provider.
    """
    import onnxruntime as ort

    there = built_in()
    if name not in there:
        way_out = "install onnxruntime-gpu" if name in ON_NVIDIA else "it needs a build that does"
        listed = ", ".join(sorted(there))
        raise ProviderError(
            f"{name}: this build of ONNX Runtime ({ort.__version__}) has no such provider, only "
            f"{listed}; {way_out}"
        )
    if name in ON_NVIDIA:
        _load_cuda_libraries()
    wanted = [name, *(["cuda"] if name in ON_NVIDIA and "cuda" in there else []), "cpu"]
    return [there[n] for n in dict.fromkeys(wanted)]


def device(name: str) -> str:
    """Return where inputs and outputs are bound, so that copying them isn't timed."""
    return "cuda" if name in ON_NVIDIA else "cpu"


def why_not(name: str) -> str:
    """Return why ONNX Runtime couldn't use a provider, which it tells only its log."""
    check = "check nvidia-smi" if name in ON_NVIDIA else "check its device and driver"
    return missing(name) or (
        f"ONNX Runtime fell back to another provider, no usable device; {check}"
    )


def missing(name: str) -> str | None:
    """Return which library of a provider can't be loaded, and what to do; None if all can."""
    import onnxruntime as ort

    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    # Providers that are compiled in have no library of their own.
    steps = [(str(library), "a library is missing; install it")] if library.exists() else []
    if name in ON_NVIDIA:
        install = "install torch or nvidia-cudnn for this CUDA" if name == "cuda" else "install it"
        steps = [
            ("libcuda.so.1", "no NVIDIA driver here; install it, or ask for provider cpu"),
            (str(library), f"a library is missing; {install}"),
        ]
    for needed, way_out in steps:
        try:
            ctypes.CDLL(needed)
        except OSError as e:
            return f"{one_line(str(e).replace(str(library.parent) + '/', ''), 120)}; {way_out}"
    return None


def _load_cuda_libraries() -> None:
    import onnxruntime as ort

    # It prints what it doesn't find; open_session says it as an exception.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
