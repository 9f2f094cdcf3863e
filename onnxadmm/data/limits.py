"""What a data file may ask of the machine, decided before anything is allocated."""

from __future__ import annotations

from onnxadmm.errors import DataError, ResourceError
from onnxadmm.memory import available_bytes

# No read is longer: a damaged or hostile length field can't ask for more.
CHUNK_BYTES = 1 << 20
# Deflate can't expand further (RFC 1951: 258 bytes from a pair of one-bit codes, and framing).
DEFLATE_LIMIT = 1032
# Real samples stay far below; arrays of zeros and bombs don't, at the lowest level of compression (230)
# either. Small ones harm nobody.
SUSPECT_EXPANSION = 200
HARMLESS_BYTES = 256 << 20
# The rest of the memory is for the model, the training and everybody else.
MEMORY_SHARE = 0.5


def size_text(size_bytes: float) -> str:
    """Return a size as people read it: `12345 bytes`, `1.5 MiB`, `4.0 GiB`."""
    if size_bytes < 1 << 20:  # exact: a file that is a byte short must not look whole
        return f"{size_bytes:.0f} bytes"
    if size_bytes > 1 << 90:  # a header can say so; a float can't always
        return "an absurd number of bytes"
    size_bytes /= 1 << 10
    for unit in ("MiB", "GiB"):
        size_bytes /= 1 << 10
        if size_bytes < 1 << 10:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / (1 << 10):.4g} TiB"


def refuse_expansion(title: str, stored_bytes: int, declared_bytes: int) -> None:
    """Refuse a compressed array that can't hold, or suspiciously well holds, what it declares.

    Args:
        title: The file and array, for the message.
        stored_bytes: The compressed size in the file.
        declared_bytes: The size that its header declares.

    Raises:
        DataError: More than deflate can expand to, or a decompression bomb.
    """
    if declared_bytes > DEFLATE_LIMIT * stored_bytes:
        raise DataError(
            f"{title}: the header declares {size_text(declared_bytes)} of data, more than the "
            f"{size_text(stored_bytes)} stored can hold; the file is truncated or corrupt: write it again"
        )
    if declared_bytes > HARMLESS_BYTES and declared_bytes > SUSPECT_EXPANSION * stored_bytes:
        raise DataError(
            f"{title}: {size_text(stored_bytes)} would expand to {size_text(declared_bytes)}, like a "
            "decompression bomb; if the size is meant, store the array uncompressed"
        )


def require_memory(needed_bytes: int) -> None:
    """Refuse data that would take more than its share of the memory.

    Raises:
        ResourceError: The arrays need more; says how much there is.
    """
    allowed = available_bytes() * MEMORY_SHARE
    if needed_bytes > allowed:
        raise ResourceError(
            f"data: the arrays need {size_text(needed_bytes)} of memory, {size_text(allowed)} may be "
            "used (half of what is available); use fewer samples with `limit`, or a larger machine"
        )
