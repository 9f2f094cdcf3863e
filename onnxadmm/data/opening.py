"""From a file name in the spec to an open array, by the format that the name says."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from onnxadmm.data.idx import open_idx
from onnxadmm.data.npy import open_npy
from onnxadmm.data.npz import Wanted, open_npz
from onnxadmm.data.stored import StoredArray, file_bytes, open_regular
from onnxadmm.errors import DataError, one_line

_MEMBER = re.compile(r"(?P<path>.*?\.npz)#(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_IDX = re.compile(r".*(?:ubyte|\.idx[0-9]*)(?:\.gz)?", re.IGNORECASE | re.DOTALL)


def open_array(reference: str, folder: Path, wanted: Wanted, stack: ExitStack) -> StoredArray:
    """Open the file that a spec names and read the header of its array, not its values.

    Args:
        reference: A path as the spec says it, taken literally (no `~`, no variables), perhaps with
            `#name` after a .npz file.
        folder: What a relative path starts from.
        wanted: What to look for in an archive.
        stack: Closes the file.

    Raises:
        DataError: The file can't be opened, or holds no array that can be read.
    """
    chosen = _MEMBER.fullmatch(reference)
    member = chosen["member"] if chosen else None
    path = folder / (chosen["path"] if chosen else reference)
    file = one_line(path.name, 80)
    title = f"data file {file!r}"
    name = path.name.lower()
    if not (name.endswith((".npz", ".npy")) or _IDX.fullmatch(name)):
        raise DataError(
            f"{title}: unknown format, for {wanted.what}; known are .npz (with #name), .npy, and idx "
            "(*-ubyte, *.idx, also with .gz)"
        )
    raw = stack.enter_context(open_regular(path, title))
    if file_bytes(raw) == 0:
        raise DataError(f"{title}: the file is empty (invalid, truncated); write it again")
    if name.endswith(".npz"):
        return open_npz(raw, member, wanted, file, stack)
    if name.endswith(".npy"):
        return open_npy(raw, title, file, stack)
    return open_idx(raw, title, file, stack)
