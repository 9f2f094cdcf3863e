"""Every failure as one line on stderr and its exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import click

from onnxadmm.errors import OnnxadmmError, ResourceError, one_line

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
        try:
            status = super().main(args, prog_name or "onnxadmm", **extra)
        except OnnxadmmError as e:
            _fail(str(e), e.exit_code)
        except click.exceptions.NoArgsIsHelpError as e:
            click.echo(e.format_message(), err=True)
            sys.exit(USAGE)
        except click.UsageError as e:
            _fail(f"{e.format_message()} see `onnxadmm --help`", USAGE)
        except click.Abort:
            _fail("interrupted; nothing was written", 130)
        except KeyboardInterrupt:
            _fail("interrupted; nothing was written", 130)
        except BrokenPipeError:
            # Whoever read our output has gone; there is nobody to tell.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
            sys.exit(128 + 13)
        except MemoryError:
            _fail(
                "not enough memory; use a smaller batch or a machine with more",
                ResourceError.exit_code,
            )
        except OSError as e:
            where = f" {one_line(e.filename, 100)}" if e.filename else ""
            _fail(
                f"{e.strerror or type(e).__name__}{where}; check disk and permissions",
                ResourceError.exit_code,
            )
        except Exception as e:  # noqa: BLE001  (the last resort: a bug of ours must not show a traceback)
            _fail(_log_bug(e), BUG)
        else:
            sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    line = one_line(message, LIMIT)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)


def _log_bug(error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="onnxadmm-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(text)
    except OSError:
        path = "nowhere: no temporary folder is writable"
    what = one_line(f"{type(error).__name__}: {error}", 120)
    return f"a bug in onnxadmm ({what}); the traceback is in {path}, please report it"
