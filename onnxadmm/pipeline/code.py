"""Functions of the user's own, from Python files that a spec names. Nothing here runs unless it is allowed."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxadmm.errors import SpecError, one_line
from onnxadmm.graph.containment import RefusedError, open_contained
from onnxadmm.progress import Progress
from onnxadmm.spec import Spec

MAX_BYTES = 1 << 20
_FEWEST, _MOST = 2, 3


@dataclass(frozen=True)
class Function:
    """A function of the output, the labels and, where it takes three, the original's output.

    Attributes:
        reference: As the spec says it.
        sha256: Of its file, 64 hexadecimal digits.
        asks_original: Whether it takes the original's output.
    """

    reference: str
    sha256: str
    asks_original: bool
    _call: Callable[..., Any] = field(repr=False)

    def __call__(self, output: Any, labels: Any, original: Any, /) -> Any:
        """Call it.

        Raises:
            SpecError: It raised something; names its line.
        """
        given = (output, labels, original) if self.asks_original else (output, labels)
        file = self.reference.rpartition(":")[0]
        return _guarded(file, lambda: self._call(*given))


def load_functions(spec: Spec, folder: Path, *, allow: bool) -> dict[str, Function]:
    """Return the functions that a spec's objective names, by key; run their files once.

    Args:
        spec: The spec.
        folder: Its own folder; no file outside it is read.
        allow: Whether the user said that code may run.

    Raises:
        SpecError: It isn't allowed, a file isn't one to trust by its place, or it holds no such function.
    """
    modules: dict[str, tuple[ModuleType, str]] = {}
    found: dict[str, Function] = {}
    for key, reference in spec.objective.code.items():
        where = f"objective.{key}"
        if not allow:
            raise SpecError(
                f"{where}: {one_line(reference, 80)!r} is code, which runs with --allow-code only; read the file, then "
                "add the flag"
            )
        file, _, name = reference.rpartition(":")
        if file not in modules:
            content = _content(folder, file, where)
            modules[file] = _run(file, content), hashlib.sha256(content).hexdigest()
        module, digest = modules[file]
        call = getattr(module, name, None)
        if not callable(call):
            raise SpecError(
                f"{where}: {one_line(file, 60)!r} holds no function {name!r}; mend one of the two"
            )
        found[key] = Function(reference, digest, _takes_original(call, reference, where), call)
    return found


def announce(functions: Mapping[str, Function], progress: Progress) -> None:
    """Say what code a run executes."""
    for key, function in functions.items():
        progress.note(
            f"objective.{key} runs code: {one_line(function.reference, 80)}, SHA-256 {function.sha256}"
        )


def _content(folder: Path, file: str, where: str) -> bytes:
    try:
        descriptor, _ = open_contained(Path(os.path.realpath(folder)), file, "the spec's folder")
    except RefusedError as e:
        raise SpecError(
            f"{where}: code file {one_line(repr(file), 60)} {e}; keep it as a plain file in the spec's folder"
        ) from None
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(
            f"{where}: code file {one_line(file, 60)!r} is larger than {MAX_BYTES} bytes"
        )
    return content


def _run(file: str, content: bytes) -> ModuleType:
    """Execute a file's bytes, those that were checked and hashed, as a module of its own."""
    module = ModuleType(f"onnxadmm_own_code_{hashlib.sha256(file.encode()).hexdigest()[:12]}")
    module.__file__ = file
    # Dataclasses look their module up there.
    sys.modules[module.__name__] = module
    # The user allowed it, for this file.
    _guarded(file, lambda: exec(compile(content, file, "exec"), module.__dict__))  # noqa: S102
    return module


def _takes_original(call: Callable[..., Any], reference: str, where: str) -> bool:
    """Return whether a function takes three arguments; refuse one that takes neither two nor three."""
    for count in (_MOST, _FEWEST):
        try:
            inspect.signature(call).bind(*range(count))
        except (TypeError, ValueError):
            continue
        return count == _MOST
    raise SpecError(
        f"{where}: {one_line(reference, 80)!r} takes neither (output, labels) nor (output, labels, original); mend "
        "its arguments"
    )


def _guarded(file: str, call: Callable[[], Any]) -> Any:
    """Call; what the file raises becomes one line that names its place."""
    try:
        return call()
    except SpecError:
        raise
    except (Exception, SystemExit) as e:  # noqa: BLE001  (somebody else's code raises anything)
        line = e.lineno if isinstance(e, SyntaxError) else _line(e, file)
        raise SpecError(
            f"code file {one_line(file, 60)!r}, line {line or '?'}: {type(e).__name__}: {one_line(e, 120)}; mend it"
        ) from None


def _line(error: BaseException, file: str) -> int | None:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return lines[-1] if lines else None
