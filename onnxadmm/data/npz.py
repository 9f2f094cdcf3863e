"""One array of a .npz archive: a zip file of .npy members, never extracted, never trusted."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader, FileIO
from typing import IO, cast

from onnxadmm.data.limits import CHUNK_BYTES, refuse_expansion
from onnxadmm.data.npy import stored_npy
from onnxadmm.data.stored import StoredArray, damage_named, file_bytes
from onnxadmm.errors import DataError, one_line

MAX_NAME_LENGTH = 1024
ENCRYPTED = 0x1


class _ShortReads(BufferedReader):
    """A file that refuses a long read.

    `zipfile` reads the whole directory of an archive in one go, as long as the archive says, and
    makes an object of every entry. A megabyte is more than ten thousand entries.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(file_bytes(self) - self.tell(), 0)
        if size > CHUNK_BYTES:
            raise zipfile.BadZipFile(f"a directory of {size} bytes is too large")
        return super().read(size)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for in an archive.

    `what` says for whom (`input 'x'`, `labels`), `names` are the array names that mean it, and
    `others` those that mean something else: the only array of an archive serves under any name but
    these.
    """

    what: str
    names: tuple[str, ...]
    others: frozenset[str] = frozenset()


def open_npz(
    raw: FileIO, member: str | None, wanted: Wanted, file: str, stack: ExitStack
) -> StoredArray:
    """Find one array of an archive and read its header.

    Args:
        raw: The open file.
        member: The array's name when the spec chooses one (`file.npz#name`).
        wanted: What to look for otherwise.
        file: The file's base name, for messages.
        stack: Closes what is opened here.

    Raises:
        DataError: It is no archive, its directory is hostile or damaged, or there is no such array.
    """
    title = f"data file {file!r}"
    reader = stack.enter_context(_ShortReads(raw))
    with damage_named(title):
        # zipfile looks for the end only; NumPy's archives start with a member, or are empty
        if reader.read(4) not in (b"PK\3\4", b"PK\5\6"):
            raise DataError(f"{title}: not a valid .npz (zip) file; write it with numpy.savez")
        archive = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", reader)))
    names = _names(archive, title)
    info = names[_choose(list(names), member, wanted, title)]
    title = f"data file {file!r}, array {one_line(info.filename.removesuffix('.npy'), 60)!r}"
    if info.flag_bits & ENCRYPTED:
        raise DataError(f"{title}: is encrypted; write the archive without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{title}: zip compression method {info.compress_type} is not read; "
            "write it with numpy.savez or savez_compressed"
        )
    if info.compress_size > file_bytes(raw):
        raise DataError(f"{title}: the zip file is truncated or corrupt; write it again")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        refuse_expansion(title, info.compress_size, info.file_size)
    elif info.compress_size != info.file_size:
        raise DataError(f"{title}: the zip directory is corrupt (two sizes); write it again")
    with damage_named(title):
        stream = stack.enter_context(archive.open(info))
    return stored_npy(stream, info.file_size, title, file)


def _names(archive: zipfile.ZipFile, title: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members by array name; refuse an archive that NumPy wouldn't have written."""
    members = archive.infolist()
    for info in members:
        # orig_filename: zipfile cuts a name at a NUL byte
        name = info.orig_filename
        parts = name.split("/")
        if (
            not name.isprintable()
            or "\\" in name
            or len(name) > MAX_NAME_LENGTH
            or any(part in ("", ".", "..") for part in parts)
        ):
            raise DataError(
                f"{title}: a zip member is named {one_line(repr(name), 60)}, which is no array name "
                "but a path; write the file with numpy.savez"
            )
    counts = Counter(info.filename.removesuffix(".npy") for info in members)
    for name, count in counts.items():
        if count > 1:
            raise DataError(
                f"{title}: duplicate zip member: {one_line(name, 60)!r} is there {count} times; keep one"
            )
    return {info.filename.removesuffix(".npy"): info for info in members}


def _choose(names: Sequence[str], member: str | None, wanted: Wanted, title: str) -> str:
    """Return the name of the member that is meant."""
    if not names:
        raise DataError(f"{title}: the zip archive is empty; write it with numpy.savez")
    there = one_line(", ".join(names[:20]), 60)
    if member is not None:
        name = member.removesuffix(".npy")
        if name in names:
            return name
        raise DataError(
            f"{title}: no array {one_line(member, 60)!r} for {wanted.what}; the archive holds {there}"
        )
    found = [name for name in wanted.names if name in names]
    if len(found) > 1:
        raise DataError(
            f"{title}: {' and '.join(found)} could both be the {wanted.what}; "
            f"choose with file.npz#{found[0]}"
        )
    if not found and len(names) == 1 and names[0] not in wanted.others:
        found = [names[0]]
    if not found:
        raise DataError(
            f"{title}: no array for {wanted.what} (looked for {one_line(', '.join(wanted.names), 60)}); "
            f"the archive holds {there}: choose a key with file.npz#key"
        )
    return found[0]
