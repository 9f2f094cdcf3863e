"""External data is read from inside the model's folder, checked, and never opened elsewhere."""

import ctypes
import hashlib
import os
import sys

import numpy as np
import onnx
import pytest
from onnx import helper
from small_graphs import FLOAT, cnn, external, mlp, model, save, without_weight

from onnxadmm.errors import ModelError, ResourceError
from onnxadmm.graph import constant_of, load_model, model_bytes

CONTENT = np.arange(16, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(CONTENT.tobytes())
    (tmp_path / "canary.bin").write_bytes(CONTENT.tobytes())
    return inside


@pytest.fixture
def opened(folder):
    """Tell whether anybody opened the file outside the folder, by whatever name."""
    if sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    path = os.fsencode(folder.parent / "canary.bin")
    libc.inotify_add_watch(descriptor, path, 0x1 | 0x2 | 0x20)

    def happened():
        try:
            return len(os.read(descriptor, 65536)) > 0
        except BlockingIOError:
            return False

    yield happened
    os.close(descriptor)


def load(tensor, folder):
    return load_model(save(mlp(tensor), folder / "m.onnx"))


def test_the_watch_sees_an_open(folder, opened):
    (folder.parent / "canary.bin").read_bytes()
    assert opened()


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "sub//w é.bin"])
def test_files_inside_the_folder_are_read_once(folder, location, monkeypatch):
    (folder / "sub").mkdir()
    for name in ("sub/w.bin", "sub/w é.bin"):
        (folder / name).write_bytes(CONTENT.tobytes())
    save(mlp(external(location)), folder / "m.onnx")
    monkeypatch.chdir(folder)
    loaded = load_model("m.onnx")
    for path in (folder / "w.bin", folder / "sub" / "w.bin", folder / "sub" / "w é.bin"):
        path.unlink()
    np.testing.assert_array_equal(constant_of(loaded.graph.initializers["w"]).ravel(), CONTENT)
    assert not onnx.load_from_string(model_bytes(loaded)).graph.initializer[0].external_data


def test_offset_length_and_checksum(folder):
    content = b"x" * 64 + CONTENT.tobytes()
    (folder / "w.bin").write_bytes(content)
    checksum = hashlib.sha1(content).hexdigest()
    tensor = external("w.bin", ("offset", "64"), ("length", "64"), ("checksum", checksum))
    loaded = load(tensor, folder)
    np.testing.assert_array_equal(constant_of(loaded.graph.initializers["w"]).ravel(), CONTENT)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([("offset", "64")], "size"),
        ([("offset", "-4")], "offset"),
        ([("offset", "4.0")], "offset"),
        ([("offset", "٣")], "offset"),
        ([("offset", "9" * 5000)], "offset"),
        ([("length", "-1")], "length"),
        ([("length", "60")], "length"),
        ([("length", str(1 << 62))], "length"),
        ([("location", "w.bin")], "location"),
        ([("checksum", "0" * 40)], "checksum"),
        ([("__class__", "x")], "key"),
        ([("basepath", "/")], "key"),
    ],
)
def test_bad_entries_are_refused(folder, entries, word):
    with pytest.raises(ModelError, match=word):
        load(external("w.bin", *entries), folder)


@pytest.mark.parametrize(
    "location",
    [
        "../canary.bin",
        "sub/../../canary.bin",
        "nosuch/../../canary.bin",
        "sub/../w.bin",
        "..\\canary.bin",
        "C:canary.bin",
        "~/canary.bin",
        "file:///etc/passwd",
        "http://localhost/canary.bin",
        "w.bin\0/../../canary.bin",
        "/proc/self/environ",
        "*/_ORT_MEM_ADDR_/*",
        "",
        ".",
        "gone.bin",
        "m.onnx",
        "sub",
        "link.bin",
        "chain.bin",
        "linked/canary.bin",
        "hard.bin",
        "fifo",
        "loop",
        "x" * 5000,
    ],
)
def test_other_places_are_refused_and_never_opened(folder, opened, location):
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to("../canary.bin")
    (folder / "chain.bin").symlink_to("link.bin")
    (folder / "linked").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    os.link(folder.parent / "canary.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo")
    opened()  # making the hard link may count
    with pytest.raises(ModelError, match="external data location") as caught:
        load(external(location), folder)
    assert not opened()
    assert len(str(caught.value)) <= 280
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("location", ["link.bin", "way/w.bin"])
def test_a_symlink_that_stays_inside_is_refused_too(folder, location):
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(CONTENT.tobytes())
    (folder / "link.bin").symlink_to("sub/w.bin")
    (folder / "way").symlink_to("sub")
    with pytest.raises(ModelError, match="is a symlink, or lies behind one"):
        load(external(location), folder)


def test_the_absolute_path_of_a_file_inside_is_refused_too(folder):
    with pytest.raises(ModelError, match="external data location"):
        load(external(str(folder / "w.bin")), folder)


def in_constant(tensor):
    proto = without_weight(mlp())
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    return proto


def in_sparse(tensor):
    proto = without_weight(mlp())
    tensor.dims[:] = [16]
    indices = helper.make_tensor("i", onnx.TensorProto.INT64, [16], range(16))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4, 4]))
    return proto


def in_subgraph(tensor):
    info = helper.make_tensor_value_info("o", FLOAT, [4, 4])
    node = helper.make_node("Identity", ["w"], ["o"])
    branch = helper.make_graph([node], "b", [], [info], [tensor])
    return model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [("c", onnx.TensorProto.BOOL, [])],
        [("y", FLOAT, [4, 4])],
    )


def in_unused_function(tensor):
    proto = mlp()
    nodes = [helper.make_node("Constant", [], ["b"], value=tensor)]
    imports = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("f", "F", [], ["b"], nodes, imports))
    proto.opset_import.add(domain="f", version=1)
    return proto


def in_training(tensor):
    proto = mlp()
    proto.training_info.add().initialization.initializer.append(tensor)
    return proto


def not_marked(tensor):
    tensor.data_location = onnx.TensorProto.DEFAULT
    return mlp(tensor)


PLACES = [in_constant, in_sparse, in_subgraph, in_unused_function, in_training]


@pytest.mark.parametrize("place", PLACES)
def test_good_external_data_is_read_in_every_place(folder, place):
    load_model(save(place(external("w.bin")), folder / "m.onnx"))


@pytest.mark.parametrize("place", [*PLACES, not_marked])
def test_hostile_external_data_is_found_in_every_place(folder, opened, place):
    with pytest.raises(ModelError, match="external"):
        load_model(save(place(external("../canary.bin")), folder / "m.onnx"))
    assert not opened()


def test_nothing_is_opened_when_a_later_tensor_is_hostile(folder, opened):
    proto = cnn()
    proto.graph.initializer[1].CopyFrom(external("../canary.bin", name="b1", dims=(6,)))
    with pytest.raises(ModelError, match="'b1'"):
        load_model(save(proto, folder / "m.onnx"))
    assert not opened()


def test_more_data_than_memory_is_a_resource_error(folder, monkeypatch):
    monkeypatch.setattr("onnxadmm.graph.external.available_bytes", lambda: 100)
    with pytest.raises(ResourceError, match="memory"):
        load(external("w.bin"), folder)
