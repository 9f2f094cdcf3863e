"""Every failure as one line on stderr and its exit status."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from onnxadmm.errors import OnnxadmmError, ResourceError, one_line

from .interrupts import Stopped

BUG = 70
USAGE = 2
LIMIT = 280


class Main(click.Group):
    """A group that turns exceptions into `error: what, where, why; what to do`."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> None:
        """Run a command and exit with its status."""
        extra["standalone_mode"] = False
        _let_all_text_through()
        try:
            status = super().main(args, prog_name or "onnxadmm", **extra)
        except click.exceptions.NoArgsIsHelpError as e:
            click.echo(e.format_message(), err=True)
            sys.exit(USAGE)
        except BrokenPipeError:
            # Whoever read our output has gone; there is nobody to tell.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
            sys.exit(128 + 13)
        except (KeyboardInterrupt, Stopped, Exception) as e:  # noqa: BLE001  (a traceback is nobody's answer)
            _fail(*_explain(e))
        sys.exit(status if isinstance(status, int) else 0)


def _let_all_text_through() -> None:
    """Print `?` for what the terminal's encoding lacks: a run of hours must not end at a ρ."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the message of a failure and its exit status."""
    if isinstance(error, Stopped):
        error = error.reason
    if isinstance(error, OnnxadmmError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        return f"{error.format_message()} see `onnxadmm --help`", USAGE
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted; nothing was written", 130
    if isinstance(error, MemoryError):
        return (
            "not enough memory; use a smaller batch or a machine with more",
            ResourceError.exit_code,
        )
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return (
            f"not enough address space for a library ({one_line(error, 80)}); raise the limit (ulimit -v)",
            ResourceError.exit_code,
        )
    if isinstance(error, OSError):
        where = f" {one_line(error.filename, 100)}" if error.filename else ""
        what = error.strerror or type(error).__name__
        return f"{what}{where}; check disk and permissions", ResourceError.exit_code
    return _log_bug(error), BUG


def _fail(message: str, status: int) -> NoReturn:
    line = one_line(message, LIMIT)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)


def _log_bug(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="onnxadmm-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(text)
    except OSError:
        path = "nowhere: no temporary folder is writable"
    what = one_line(f"{type(error).__name__}: {error}", 120)
    return f"a bug in onnxadmm ({what}); the traceback is in {path}, please report it"
