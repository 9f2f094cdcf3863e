"""Speed and memory of models in ONNX Runtime, measured in pairs; and sessions for everybody else.

Importing this loads no ONNX Runtime; the functions do, when they are called.
"""

from __future__ import annotations

from onnxadmm.bench.comparison import compare
from onnxadmm.bench.isolated import IsolatedSession, open_isolated
from onnxadmm.bench.machine import environment
from onnxadmm.bench.peak import Kind
from onnxadmm.bench.providers import ProviderError
from onnxadmm.bench.results import (
    Comparison,
    Latency,
    Measurement,
    Setting,
    Speedup,
    Unmeasured,
)
from onnxadmm.bench.running import Pace, paced, run
from onnxadmm.bench.sessions import available_providers, open_session, run_batched

__all__ = [
    "Comparison",
    "IsolatedSession",
    "Kind",
    "Latency",
    "Measurement",
    "Pace",
    "ProviderError",
    "Setting",
    "Speedup",
    "Unmeasured",
    "available_providers",
    "compare",
    "environment",
    "open_isolated",
    "open_session",
    "paced",
    "run",
    "run_batched",
]
