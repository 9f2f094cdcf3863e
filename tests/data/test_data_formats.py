"""What is written in a format is what is read from it."""

from __future__ import annotations

import gzip
import struct
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxadmm.data.npz import Wanted
from onnxadmm.data.opening import open_array
from onnxadmm.errors import DataError

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
shapes = arrays.array_shapes(min_dims=1, max_dims=5, max_side=6)
plain_dtypes = st.one_of(
    st.just(np.dtype(bool)),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def idx_bytes(array: np.ndarray) -> bytes:
    big = array.astype(array.dtype.newbyteorder(">"))
    code = IDX_CODES[array.dtype.str[1:]]
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + big.tobytes()


def read(folder: Path, reference: str, samples: int | None = None, names=("x",)) -> np.ndarray:
    with ExitStack() as stack:
        return open_array(reference, folder, Wanted("input 'x'", names), stack).read(samples)


def same(got: np.ndarray, written: np.ndarray) -> None:
    assert got.dtype == written.dtype.newbyteorder("=")
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, written)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


@quick
@given(array=arrays.arrays(plain_dtypes, shapes), fortran=st.booleans(), samples=st.integers(1, 8))
def test_npy_round_trip(folder, array, fortran, samples):
    np.save(folder / "a.npy", np.asfortranarray(array) if fortran else array)
    same(read(folder, "a.npy"), array)
    same(read(folder, "a.npy", samples), array[:samples])


@quick
@given(
    array=arrays.arrays(plain_dtypes, shapes),
    other=arrays.arrays(plain_dtypes, shapes),
    packed=st.booleans(),
    samples=st.integers(1, 8),
)
def test_npz_round_trip(folder, array, other, packed, samples):
    (np.savez_compressed if packed else np.savez)(folder / "a.npz", x=array, other=other)
    same(read(folder, "a.npz"), array)
    same(read(folder, "a.npz#other"), other)
    same(read(folder, "a.npz", samples), array[:samples])


@quick
@given(
    array=arrays.arrays(st.sampled_from(sorted(IDX_CODES)), shapes),
    zipped=st.booleans(),
    samples=st.integers(1, 8),
)
def test_idx_round_trip(folder, array, zipped, samples):
    name = "a-ubyte.gz" if zipped else "a.idx"
    content = idx_bytes(array)
    (folder / name).write_bytes(gzip.compress(content, 1) if zipped else content)
    same(read(folder, name), array)
    same(read(folder, name, samples), array[:samples])


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "T10K.IDX3-UBYTE", "a.idx", "a.idx1"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_goes_by_the_names_that_people_use(tmp_path, name, zipped):
    array = np.arange(6, dtype="u1")
    name += ".gz" if zipped else ""
    (tmp_path / name).write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    same(read(tmp_path, name), array)


def test_every_header_version_of_npy_is_read(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version)
        same(read(tmp_path, "a.npy"), array)


def test_the_only_array_of_an_archive_needs_no_name(tmp_path):
    array = np.arange(4)
    np.savez(tmp_path / "a.npz", anything=array)
    same(read(tmp_path, "a.npz"), array)


def test_an_array_name_may_hold_slashes_and_colons(tmp_path):
    array = np.arange(4)
    np.savez(tmp_path / "a.npz", **{"serving/x:0": array, "y": array + 1})
    same(read(tmp_path, "a.npz", names=("serving/x:0",)), array)
    same(read(tmp_path, "a.npz#serving/x:0"), array)


def test_absolute_paths_and_parents_are_the_spec_authors_choice(tmp_path):
    array = np.arange(4)
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "inner").mkdir()
    same(read(tmp_path / "inner", "../a.npy"), array)
    same(read(tmp_path / "inner", str(tmp_path / "a.npy")), array)


def test_home_and_variables_are_not_expanded(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.arange(4))
    monkeypatch.setenv("HOME", str(tmp_path))
    for reference in ("~/a.npy", "$HOME/a.npy", "${HOME}/a.npy"):
        with pytest.raises(DataError, match="No such file"):
            read(Path(tempfile.gettempdir()), reference)
