"""An array in an open file: what its header declares, and its values once they are asked for."""

from __future__ import annotations

import contextlib
import errno
import gzip
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxadmm.data.limits import CHUNK_BYTES, size_text
from onnxadmm.errors import DataError, ResourceError, one_line

MAX_RANK = 32


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as it is written: `[60000, 28, 28]`."""
    return "[" + ", ".join(str(n) for n in shape) + "]"


@contextlib.contextmanager
def damage_named(title: str) -> Iterator[None]:
    """Turn what decoders raise over damaged bytes into a `DataError` that names the array."""
    try:
        yield
    except EOFError:
        raise DataError(
            f"{title}: truncated, the compressed data ends too early; write or download it again"
        ) from None
    except MemoryError:
        raise ResourceError(f"{title}: not enough memory; use fewer samples with `limit`") from None
    except (
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        struct.error,
        # what zipfile raises over encrypted members, unknown methods and wild offsets
        RuntimeError,
        ValueError,
        OverflowError,
        IndexError,
    ) as e:
        raise DataError(
            f"{title}: corrupt or invalid: {one_line(e, 100)}; write or download it again"
        ) from None
    except OSError as e:
        if e.errno == errno.EINVAL:  # a seek to before the start
            raise DataError(
                f"{title}: corrupt: an offset lies outside the file; write or download it again"
            ) from None
        raise ResourceError(
            f"{title}: {e.strerror or one_line(e, 80)}; check the disk and try again"
        ) from None


def open_regular(path: Path, title: str) -> FileIO:
    """Open a regular file for reading; never waits, runs or creates anything.

    Raises:
        DataError: There is no such file, or it is a directory, a FIFO, a device or a socket.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise DataError(
            f"{title}: can't open the file: {reason}; paths are relative to the spec"
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO, device or socket"
        raise DataError(f"{title}: is {kind}, not a regular file; name a data file")
    return FileIO(descriptor)


def file_bytes(file: IO[bytes] | FileIO) -> int:
    """Return the size of an open file."""
    return os.fstat(file.fileno()).st_size


def require_size(title: str, declared_bytes: int, held_bytes: int, shape: tuple[int, ...]) -> None:
    """Refuse an array whose header declares another size than the file holds.

    Raises:
        DataError: Fewer bytes (truncated, or a lying header), or more.
    """
    if declared_bytes > held_bytes:
        raise DataError(
            f"{title}: the header declares shape {one_line(shape_text(shape), 60)}, "
            f"{size_text(declared_bytes)} of data, but the file holds {size_text(held_bytes)}; "
            "it is truncated or corrupt: write it again"
        )
    if declared_bytes < held_bytes:
        raise DataError(
            f"{title}: {held_bytes - declared_bytes} bytes follow the values of shape "
            f"{one_line(shape_text(shape), 60)} that the header declares; the size is wrong: write it again"
        )


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array whose header is read and whose values are still in the file.

    `stream` stands at the first value and stays open for as long as its owner keeps it so.
    """

    title: str
    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    stream: IO[bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all values, as declared."""
        return math.prod(self.shape) * self.dtype.itemsize

    def needed_bytes(self, samples: int) -> int:
        """Return the memory that reading so many samples takes."""
        if self.fortran:  # read whole, then copied into sample order
            return 2 * self.nbytes
        return min(samples, self.shape[0]) * math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, samples: int | None = None) -> NDArray[Any]:
        """Read the first samples, in native byte order and C order; once only.

        The rest is decoded too, and dropped: a checksum holds for the whole.

        Args:
            samples: How many along axis 0; all by default.

        Raises:
            DataError: The bytes are damaged, fewer or more than declared.
            ResourceError: There is not enough memory, or the disk fails.
        """
        shape = self.shape
        if samples is not None and shape and not self.fortran:
            shape = (min(samples, shape[0]), *shape[1:])
        with damage_named(self.title):
            array: NDArray[Any] = np.empty(shape[::-1] if self.fortran else shape, self.dtype)
            raw = array.reshape(-1).view(np.uint8)
            self._fill(raw)
            self._skip(self.nbytes - raw.size)
            if self.stream.read(1):
                raise DataError(
                    f"{self.title}: holds more data than the shape "
                    f"{one_line(shape_text(self.shape), 60)} that its header declares; the size is wrong: write it again"
                )
        if self.dtype == np.bool_ and raw.size and raw.max() > 1:
            raise DataError(
                f"{self.title}: a bool is stored as {raw.max()}, neither 0 nor 1; write it again"
            )
        if not self.dtype.isnative:
            array = array.byteswap(inplace=True).view(self.dtype.newbyteorder("="))
        if self.fortran:
            array = np.ascontiguousarray(array.T if samples is None else array.T[:samples])
        return array

    def _fill(self, raw: NDArray[np.uint8]) -> None:
        view = raw.data
        position = 0
        while position < len(view):
            chunk = self.stream.read(min(CHUNK_BYTES, len(view) - position))
            if not chunk:
                self._fail_short(position)
            view[position : position + len(chunk)] = chunk
            position += len(chunk)

    def _skip(self, size: int) -> None:
        left = size
        while left:
            chunk = self.stream.read(min(CHUNK_BYTES, left))
            if not chunk:
                self._fail_short(self.nbytes - left)
            left -= len(chunk)

    def _fail_short(self, held_bytes: int) -> None:
        require_size(self.title, self.nbytes, held_bytes, self.shape)
