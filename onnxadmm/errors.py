"""Every failure that a user can meet, as one tree.

    OnnxadmmError
    ├── SpecError            exit 2   the spec, or the command line
    ├── InputError           exit 3   something that came in
    │   ├── ModelError                the ONNX file
    │   │   └── UnsupportedError      valid, but beyond what onnxadmm handles
    │   ├── DataError                 arrays and labels
    │   └── CheckpointError           a stored run
    ├── ResourceError        exit 4   disk, memory, I/O
    ├── DivergedError        exit 5   the training left the finite numbers
    ├── VerificationError    exit 70  the proof failed: the result isn't what was trained
    └── Interrupted          exit 130 or 143

A message says what, where, why; and after a semicolon what to do. The command line prints it as one
line, `error: ...`, and exits with `exit_code`.
"""

from __future__ import annotations


def one_line(text: object, limit: int = 280) -> str:
    """Return `text` as one printable line of at most `limit` characters.

    Names in a model are a stranger's bytes: control characters (terminal escapes among them) are
    replaced, white space is folded, and the middle of a long text gives way to `…`.
    """
    whole = str(text)
    # Of a name of megabytes nobody sees the middle.
    if len(whole) > 16 * limit:
        whole = f"{whole[: 8 * limit]} {whole[-8 * limit :]}"
    line = " ".join(whole.split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if len(line) <= limit:
        return line
    head = (limit * 2) // 3
    return f"{line[:head]}…{line[-(limit - head - 1) :]}"


class OnnxadmmError(Exception):
    """Base of all that onnxadmm raises on purpose."""

    exit_code: int = 70

    def __str__(self) -> str:
        return one_line(super().__str__())


class SpecError(OnnxadmmError):
    """The spec or the command line is wrong; the message names the key."""

    exit_code = 2


class InputError(OnnxadmmError):
    """A file that came in can't be used."""

    exit_code = 3


class ModelError(InputError):
    """The ONNX model is damaged, hostile or inconsistent."""


class UnsupportedError(ModelError):
    """The ONNX model is valid, but holds something that onnxadmm can't handle."""


class DataError(InputError):
    """An array doesn't fit the model; the message names file, array and the first bad sample."""


class CheckpointError(InputError):
    """A stored run is damaged, or belongs to another model, spec, data or version."""


class ResourceError(OnnxadmmError):
    """Disk, memory or another resource of the machine."""

    exit_code = 4


class DivergedError(OnnxadmmError):
    """A loss, gradient or residual is no longer finite."""

    exit_code = 5


class VerificationError(OnnxadmmError):
    """The written graph doesn't compute what was trained. Nothing is written then."""


class Interrupted(OnnxadmmError):  # noqa: N818  (not a fault: somebody asked us to stop)
    """A signal asked the run to stop; the state is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
