"""Large tensors outside the process's own memory: whoever reads one maps it, and a copy costs what is written.

The bytes lie in an unnamed file that the kernel keeps in memory. Each array is a mapping of its own that ends
with the array, and is private: a page is copied when somebody writes to it. So a graph that holds a tensor and
a module that trains it share its memory until the first step.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any
from weakref import finalize

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import ResourceError

Array = np.ndarray[Any, Any]

MAPPED_BYTES = 1 << 20
"""Smaller tensors are plain arrays."""
_PIECE_BYTES = 1 << 24


def unnamed_file() -> IO[bytes]:
    """Return a file without a name, in memory where the system has such files."""
    # A system or a container may lack it.
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.fdopen(os.memfd_create("onnxadmm"), "w+b")
    return tempfile.TemporaryFile()


class Store:
    """An unnamed file that holds tensors, each from a whole page on; it goes with the last of them.

    Attributes:
        descriptor: Of the open file.
    """

    def __init__(self) -> None:
        """Make an empty one."""
        file = unnamed_file()
        self.descriptor, self._end = file.fileno(), 0
        finalize(self, file.close)

    def add(self, kind: ir.DataType, shape: Sequence[int], source: Array | Source) -> Stored:
        """Take a tensor in.

        Args:
            kind: Its element type, of whole bytes.
            shape: Its shape.
            source: Its content, or where that is read from, in little-endian order.

        Raises:
            OSError: The source can't be read.
            ResourceError: There is no room.
            EOFError: It ends too early.
        """
        stored = Stored(self, self._end, kind, tuple(shape))
        pieces = source.pieces() if isinstance(source, Source) else _pieces(source)
        for piece in pieces:
            self._append(memoryview(piece))
        if self._end < stored.offset + stored.nbytes:
            raise EOFError
        self._append(memoryview(bytes(-self._end % mmap.ALLOCATIONGRANULARITY)))
        return stored

    def _append(self, content: memoryview) -> None:
        while content:
            try:
                done = os.pwrite(self.descriptor, content, self._end)
            except OSError as e:
                raise ResourceError(
                    f"no room for the model's weights: {e.strerror}; free memory, or space in TMPDIR"
                ) from None
            self._end, content = self._end + done, content[done:]


class Source:
    """A range of an open file."""

    def __init__(self, descriptor: int, offset: int, size_bytes: int) -> None:
        """Hold where it is."""
        self._descriptor, self._offset, self._size_bytes = descriptor, offset, size_bytes

    def pieces(self) -> Any:
        """Yield the content; less of it where the file ends early."""
        done = 0
        while done < self._size_bytes:
            wanted = min(_PIECE_BYTES, self._size_bytes - done)
            piece = os.pread(self._descriptor, wanted, self._offset + done)
            if not piece:
                return
            yield piece
            done += len(piece)


def _pieces(array: Array) -> Any:
    plain = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(plain), _PIECE_BYTES):
        yield plain[start : start + _PIECE_BYTES].data


class Stored:
    """A tensor of a `Store`.

    Attributes:
        offset: Where it begins, in bytes.
        kind: Its element type.
        shape: Its shape.
        nbytes: Its size.
    """

    def __init__(
        self, store: Store, offset: int, kind: ir.DataType, shape: tuple[int, ...]
    ) -> None:
        self._store, self.offset, self.kind, self.shape = store, offset, kind, shape
        self._dtype = kind.numpy().newbyteorder("<")
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize

    def array(self) -> Array:
        """Return its content; writing to it changes this array alone.

        Raises:
            ResourceError: The system can't map it.
        """
        return (
            map_private(self._store.descriptor, self.offset, self.nbytes)
            .view(self._dtype)
            .reshape(self.shape)
        )

    def tensor(self, like: ir.TensorProtocol) -> MappedTensor:
        """Return it as a tensor of a graph, named and described like `like`."""
        shape = ir.Shape(self.shape)
        return MappedTensor(
            lambda: ir.Tensor(self.array(), dtype=self.kind, shape=shape),
            self.kind,
            shape,
            name=like.name,
            doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
        )


class MappedTensor(ir.LazyTensor):
    """A tensor whose content is mapped anew whenever it is asked for: each array is its reader's own."""


def is_mapped(value: ir.Value) -> bool:
    """Whether each array that `constant_of` returns of a value is the caller's own, to be written as he likes."""
    return isinstance(value.const_value, MappedTensor)


def map_private(descriptor: int, offset: int, size_bytes: int) -> Array:
    """Return a range of an open file as bytes; what is written to them stays in this process.

    Python's own mmap keeps a descriptor open for each mapping, and a network has more tensors than a process
    may open files.

    Args:
        descriptor: The file's; it may be closed afterwards.
        offset: A multiple of the page size.
        size_bytes: Of the range.

    Raises:
        ResourceError: The system can't map it.
    """
    if not size_bytes:
        return np.empty(0, np.uint8)
    place = _mmap(None, size_bytes, _READ_WRITE, mmap.MAP_PRIVATE, descriptor, offset)
    if place == _FAILED:
        why = os.strerror(ctypes.get_errno())
        raise ResourceError(
            f"{size_bytes} bytes of the model's weights can't be mapped: {why}; free memory"
        )
    mapped = (ctypes.c_uint8 * size_bytes).from_address(place)
    # At the end of the process something may still be read.
    finalize(mapped, _munmap, place, size_bytes).atexit = False
    return np.ctypeslib.as_array(mapped)


_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_system = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap = _system.mmap, _system.munmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
]
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value
