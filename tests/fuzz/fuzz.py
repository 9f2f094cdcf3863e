"""Fuzzing by hand, for as long as you like: `python tests/fuzz/fuzz.py model|look|spec [MINUTES]`.

With Atheris installed (`pip install atheris`), inputs are drawn towards code that no input has reached
yet; without it, at random. A finding is printed, and its bytes are kept in `cases/`, where
`test_fuzzing.py` replays it for ever after.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
DRAWN_BYTES = 4096


def main() -> None:
    """Fuzz one target until the time is over or something is found; exit status 1 for a finding."""
    name, minutes = sys.argv[1], float((*sys.argv[2:], "10")[0])
    kind = "spec" if name == "spec" else "model"
    guided = importlib.util.find_spec("atheris") is not None and name != "look"
    if guided:
        import atheris

        # What is instrumented must be imported here for the first time.
        with atheris.instrument_imports(include=["onnxadmm"], enable_loader_override=False):
            import onnxadmm.graph.loading
            import onnxadmm.spec.reading  # noqa: F401
    import fuzz_inputs
    import fuzz_targets
    from hypothesis import HealthCheck, given, settings

    target: Callable[[bytes, Path], bool] = getattr(
        fuzz_targets, {"model": "load", "spec": "read"}.get(name, name)
    )
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "w.bin").write_bytes(bytes(64))
    end, began = time.monotonic() + minutes * 60, time.monotonic()
    counts = {"runs": 0, "taken": 0}

    def tell() -> None:
        seconds = time.monotonic() - began
        print(
            f"{name}: {counts['runs']} runs, {counts['taken']} taken, {seconds:.0f} s", flush=True
        )

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(getattr(fuzz_inputs, f"{kind}s")())
    def one(content: bytes) -> None:
        counts["runs"] += 1
        if counts["runs"] % 2000 == 0:
            tell()
        try:
            counts["taken"] += target(content, folder)
        except fuzz_targets.BrokenPromise as e:
            path = HERE / "cases" / kind / hashlib.sha256(content).hexdigest()[:16]
            path.write_bytes(content)
            print(f"FOUND {e}; kept as {path}", flush=True)
            os._exit(1)

    # The first run imports what is imported late.
    target(fuzz_inputs.SEEDS[0] if kind == "model" else b"version: 1", folder)
    run = one.hypothesis.fuzz_one_input
    if guided:

        def guided_run(data: bytes) -> None:
            if time.monotonic() > end:
                tell()
                os._exit(0)
            run(data)

        corpus = HERE / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        atheris.Setup(
            [sys.argv[0], f"-max_len={DRAWN_BYTES}", "-len_control=0", str(corpus)], guided_run
        )
        atheris.Fuzz()
    source = random.Random(int(time.time()))
    while time.monotonic() < end:
        run(source.randbytes(source.randrange(64, DRAWN_BYTES)))
    tell()


if __name__ == "__main__":
    main()
