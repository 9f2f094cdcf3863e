"""The IDX format of the MNIST family, plain or gzipped: a magic number, big-endian sizes, values.

http://yann.lecun.com/exdb/mnist/ describes it: two zero bytes, a type, the rank, a uint32 an axis.
"""

from __future__ import annotations

import gzip
import math
import struct
from contextlib import ExitStack
from io import BufferedReader, FileIO
from typing import IO, cast

import numpy as np

from onnxadmm.data.limits import refuse_expansion
from onnxadmm.data.stored import MAX_RANK, StoredArray, damage_named, file_bytes, require_size
from onnxadmm.errors import DataError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def open_idx(raw: FileIO, title: str, file: str, stack: ExitStack) -> StoredArray:
    """Read the header of an IDX file, and check the size against it as far as it is known.

    Of a gzipped file only a bound is known before it is decoded; `StoredArray.read` checks the rest.

    Args:
        raw: The open file; a name that ends in `.gz` says that it is gzipped.
        title: The file, for messages.
        file: Its base name.
        stack: Closes what is opened here.

    Raises:
        DataError: It is not IDX, or can't hold what its header declares.
    """
    held = file_bytes(raw)
    stream: IO[bytes] = stack.enter_context(BufferedReader(raw))
    zipped = file.lower().endswith(".gz")
    with damage_named(title):
        if zipped:
            start = stream.read(2)
            if start != GZIP_MAGIC:
                raise DataError(
                    f"{title}: invalid, not a gzip file though its name says so; download it again, "
                    "or drop the .gz if it is unpacked"
                )
            stream.seek(0)
            stream = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=stream)))
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:  # noqa: PLR2004
            raise DataError(
                f"{title}: invalid, the magic number is {magic.hex() or 'missing'}, not one of IDX "
                "(0000 and a type); is this an idx file?"
            )
        rank = magic[3]
        if not 1 <= rank <= MAX_RANK:
            raise DataError(f"{title}: invalid IDX header: {rank} axes; write it again")
        sizes = stream.read(4 * rank)
        if len(sizes) < 4 * rank:
            raise DataError(f"{title}: truncated inside the IDX header; download it again")
    shape: tuple[int, ...] = struct.unpack(f">{rank}I", sizes)
    dtype = np.dtype(TYPES[magic[2]])
    declared = math.prod(shape) * dtype.itemsize
    if zipped:
        refuse_expansion(title, held, declared)
    else:
        require_size(title, declared, held - 4 - 4 * rank, shape)
    return StoredArray(title, file, dtype, shape, fortran=False, stream=stream)
