"""A run that dies at a rename: nothing half-written counts, and resumed it ends with the same bytes."""

from __future__ import annotations

import os

import pytest

import onnxadmm
from onnxadmm.training import engine

OVERRIDES = ["benchmark={providers: []}", "schedule={epochs: 1, retrain: 1}", "gates={}"]
RESULTS = ("model.float.onnx", "model.onnx")


class Killed(BaseException):
    """The process is dead."""


class Death:
    """Lets nothing reach the disk any more after the given rename: neither `finally` nor `except` can mend it."""

    CALLS = ("replace", "unlink", "rmdir", "mkdir", "open", "ftruncate", "fsync")

    def __init__(self, patch, at, after):
        self.at, self.after, self.count, self.dead = at, after, 0, False
        for name in self.CALLS:
            patch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*args, **kwargs):
            if self.dead and (name != "open" or args[1] & os.O_CREAT):
                raise Killed
            if name == "replace":
                self.count += 1
                if self.count == self.at:
                    if self.after:
                        real(*args, **kwargs)
                    self.dead = True
                    raise Killed
            return real(*args, **kwargs)

        return call


def run(workplace, folder, *, resume=False):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    return onnxadmm.compress(*arguments, output=folder, overrides=OVERRIDES, resume=resume)


@pytest.fixture(scope="module")
def whole(workplace, tmp_path_factory):
    """Return the bytes of a run that nobody killed, and how many renames it does."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CHECKPOINT_INTERVAL_S", 1e9)
        counted = Death(patch, 0, after=False)
        run(workplace, folder)
    return {n: (folder / n).read_bytes() for n in RESULTS}, counted.count


# Two files a checkpoint of either stage, then the float model, spec and reports, the model and the receipt.
@pytest.mark.parametrize(("back", "after"), [(12, True), (9, False), (2, True), (1, False)])
def test_killed_at_a_rename_and_resumed_the_result_is_the_same(
    workplace, whole, tmp_path, back, after
):
    expected, renames = whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CHECKPOINT_INTERVAL_S", 1e9)
        Death(patch, renames + 1 - back, after)
        with pytest.raises(Killed):
            run(workplace, tmp_path)
    for name in RESULTS:
        there = tmp_path / name
        assert not there.exists() or there.read_bytes() == expected[name]
    run(workplace, tmp_path, resume=True)
    assert {n: (tmp_path / n).read_bytes() for n in RESULTS} == expected
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]
