"""Damaged and hostile files are refused, in one line, before they cost anything."""

from __future__ import annotations

import gzip
import io
import os
import pickle  # noqa: TID251  (written here so that the readers can refuse it)
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onnxadmm.data import limits
from onnxadmm.errors import DataError, ResourceError


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(content)) + content


def shaped(shape: str, descr: str = "'<f4'") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


def idx(shape, payload: bytes, code: int = 0x0D) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + payload


IMAGES = np.random.default_rng(0).normal(size=(12, 3, 4, 4)).astype(np.float32)
CLASSES = np.arange(12, dtype=np.uint8) % 10
BIG_ENDIAN = IMAGES.astype(">f4").tobytes()


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)


@pytest.fixture
def refused(tmp_path, load):
    """Write a file, and return the message that loading it gives."""

    def run(name: str, content: bytes | list, *, labels: str | None = None) -> str:
        if isinstance(content, list):
            archive(tmp_path / name, content)
        else:
            (tmp_path / name).write_bytes(content)
        np.save(tmp_path / "labels.npy", CLASSES)
        tracemalloc.start()
        try:
            with pytest.raises(DataError) as caught:
                load(name, labels or (name if name.endswith(".npz") else "labels.npy"))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        message = str(caught.value)
        assert peak < 32 << 20
        assert message.isprintable()
        assert len(message) <= 280
        assert "; " in message  # what to do about it
        return message

    return run


def test_shapes_that_the_file_cannot_hold(refused):
    for shape in ("(1099511627776, 3, 4, 4)", "(" + "4611686018427387904," * 32 + ")"):
        assert "truncated" in refused("a.npy", shaped(shape))
    assert "truncated" in refused("a.npy", npy(IMAGES)[:-1])
    assert "size" in refused("a.npy", npy(IMAGES) + b"\0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        b"\xff\xfe",
        "(" * 9000,
        "-" * 9000 + "1",
        "'\\d'",
        "__import__('os').abort()",
        "{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,)}",
        "{[]: 1}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 5}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0x" + "f" * 8000 + ",)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 40 + ")}",
    ],
)
def test_headers_that_are_no_headers(refused, text):
    assert "header" in refused("a.npy", header(text) + b"\0" * 64)


def test_header_lengths_are_limited_before_they_are_believed(refused):
    bomb = b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 100
    assert "header" in refused("a.npy", bomb)
    assert "header" in refused("a.npz", [("x.npy", bomb), ("y.npy", npy(CLASSES))])


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.array([None] * 12, dtype=object), "pickle"),
        (IMAGES.astype(np.complex64), "complex"),
        (np.array(["a"] * 12), "string"),
        (np.array([b"a"] * 12), "string"),
        (np.zeros(12, "f4,i4"), "structured"),
        (np.zeros(12, "V4"), "void"),
        (np.zeros(12, "M8[s]"), "datetime"),
    ],
)
def test_only_plain_numbers_are_read(refused, array, word):
    assert word in refused("a.npz", [("x.npy", npy(array)), ("y.npy", npy(CLASSES))])
    assert "dtype" in refused("b.npz", [("x.npy", npy(IMAGES)), ("y.npy", npy(array))])


def test_a_pickle_is_never_loaded(refused):
    class Bomb:
        def __reduce__(self):
            return os.abort, ()

    content = pickle.dumps(Bomb())
    assert "pickle" in refused("a.npy", content)
    assert "pickle" in refused("a.npz", [("x.npy", content), ("y.npy", npy(CLASSES))])


def test_archives_inside_archives(refused, tmp_path):
    archive(tmp_path / "inner.npz", [("x.npy", npy(IMAGES))])
    inner = (tmp_path / "inner.npz").read_bytes()
    assert "zip" in refused("a.npz", [("x.npy", inner), ("y.npy", npy(CLASSES))])
    assert "no array" in refused("b.npz", [("x.npz", inner), ("y.npy", npy(CLASSES))])


@pytest.mark.parametrize(
    "name",
    ["../up.npy", "/abs.npy", "a//b.npy", "dir/", "back\\slash.npy", "\x1b[31m.npy", "x" * 2000],
)
def test_members_that_are_paths(refused, name):
    members = [("x.npy", npy(IMAGES)), ("y.npy", npy(CLASSES)), (name, b"")]
    assert "zip member" in refused("a.npz", members)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_duplicate_members(refused):
    x, y = npy(IMAGES), npy(CLASSES)
    for twin in ("x.npy", "x"):
        assert "duplicate" in refused("a.npz", [("x.npy", x), ("y.npy", y), (twin, x)])


def test_a_directory_of_very_many_members(refused):
    members = [("x.npy", npy(IMAGES)), ("y.npy", npy(CLASSES))]
    many = members + [(f"{'m' * 900}{i}.npy", b"") for i in range(1500)]
    assert "directory" in refused("a.npz", many)


def test_a_bomb_is_refused_unexpanded(refused, monkeypatch):
    # the same rule with smaller numbers: a real bomb takes a while to write
    monkeypatch.setattr(limits, "HARMLESS_BYTES", 1 << 20)
    zeros = np.zeros((1 << 14, 3, 4, 4), np.float32)
    message = refused("a.npz", [("x.npy", npy(zeros)), ("y.npy", npy(CLASSES))])
    assert "bomb" in message
    content = gzip.compress(idx(zeros.shape, zeros.tobytes()))
    assert "bomb" in refused("a.idx.gz", content)


def test_a_gzip_file_that_expands_beyond_its_header(refused):
    content = idx(IMAGES.shape, BIG_ENDIAN) + bytes(40 << 20)
    assert "more data" in refused("a.idx.gz", gzip.compress(content, 1))


def test_more_than_the_memory_is_refused_before_reading(tmp_path, load, monkeypatch):
    np.savez(tmp_path / "data.npz", x=IMAGES, y=CLASSES)
    monkeypatch.setattr(limits, "available_bytes", lambda: 2000)
    with pytest.raises(ResourceError, match=r"memory.*limit"):
        load()
    assert len(load(limit=1)) == 1


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\0\1\x0d\4" + bytes(16), "magic"),
        (b"\0\0\7\1" + bytes(16), "magic"),
        (b"\0\0", "magic"),
        (b"\0\0\x0d\0", "axes"),
        (b"\0\0\x0d\xff" + b"\xff" * 2000, "axes"),
        (b"\0\0\x0d\x20" + b"\xff" * 2000, "truncated"),
        (b"\0\0\x0d\4\0\0", "header"),
        (idx((13, 3, 4, 4), BIG_ENDIAN), "truncated"),
        (idx((11, 3, 4, 4), BIG_ENDIAN), "size"),
        (idx((2**31, 3, 4, 4), BIG_ENDIAN), "truncated"),
    ],
)
def test_idx_files_that_lie(refused, content, word):
    assert word in refused("a.idx", content)
    refused("a.idx.gz", gzip.compress(content))


def test_damaged_gzip(refused):
    good = gzip.compress(idx(IMAGES.shape, BIG_ENDIAN))
    assert "truncated" in refused("a.idx.gz", good[: len(good) // 2])
    assert "truncated" in refused("a.idx.gz", good[:-4])
    assert "CRC" in refused("a.idx.gz", good[:-8] + b"0000" + good[-4:])
    assert "gzip" in refused("a.idx.gz", good + b"junk")
    assert "more data" in refused("a.idx.gz", good + good)
    assert "gzip" in refused("a.idx.gz", idx(IMAGES.shape, BIG_ENDIAN))
    assert "gzip" in refused("a.idx.gz", zlib.compress(BIG_ENDIAN))


def test_damaged_zip(refused, tmp_path):
    archive(
        tmp_path / "s.npz", [("x.npy", npy(IMAGES)), ("y.npy", npy(CLASSES))], zipfile.ZIP_STORED
    )
    good = (tmp_path / "s.npz").read_bytes()
    flipped = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
    assert "CRC" in refused("a.npz", flipped)
    assert "zip" in refused("a.npz", good[: len(good) // 2])
    assert "zip" in refused("a.npz", b"x,y\n1,2\n")
    assert "zip" in refused("a.npz", b"#!/bin/sh\n" + good)
    assert "empty" in refused("a.npz", b"")
    assert "empty" in refused("a.npz", [])


def test_a_limit_does_not_hide_damage_behind_it(tmp_path, load):
    np.savez(tmp_path / "data.npz", x=IMAGES, y=CLASSES)
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        load(limit=1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_zip_methods_are_refused(tmp_path, load, method):
    archive(tmp_path / "data.npz", [("x.npy", npy(IMAGES)), ("y.npy", npy(CLASSES))], method)
    with pytest.raises(DataError, match="method"):
        load()


def test_only_regular_files_are_opened(tmp_path, load):
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "device.npz").symlink_to("/dev/zero")
    for name, word in (("fifo", "FIFO"), ("folder", "directory"), ("device", "device")):
        with pytest.raises(DataError, match=word):
            load(f"{name}.npz")
    for name in ("none.npz", "nul\0.npz"):
        with pytest.raises(DataError, match="can't open"):
            load(name)
    with pytest.raises(DataError, match="format"):
        load("table.csv")


def seed_files() -> dict[str, bytes]:
    image = idx(IMAGES.shape, BIG_ENDIAN)
    files = {"a.npy": npy(IMAGES), "a.idx": image, "a.idx.gz": gzip.compress(image)}
    for name, save in (("stored.npz", np.savez), ("packed.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, x=IMAGES, y=CLASSES)
        files[name] = stream.getvalue()
    return files


SEEDS = seed_files()
ends = st.one_of(st.integers(0, 200), st.integers(-200, -1), st.integers(0, 2500))


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(ends, st.integers(0, 255)), max_size=4),
    cut=st.none() | ends,
)
@example(name="stored.npz", edits=[], cut=None)
def test_any_damage_is_refused_or_harmless(tmp_path, load, name, edits, cut):
    content = bytearray(SEEDS[name])
    for position, value in edits:
        content[position % len(content)] = value
    (tmp_path / name).write_bytes(content[:cut])
    np.save(tmp_path / "labels.npy", CLASSES)
    try:
        dataset = load(name, "labels.npy")
    except DataError:
        return
    assert len(dataset) == 12
    assert np.isfinite(dataset.batch(slice(None))[0]["x"]).all()
