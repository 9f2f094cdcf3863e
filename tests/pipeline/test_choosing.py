"""The spec's `train` section: which tensors learn, and whether running statistics do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Builder

import onnxadmm
from onnxadmm import ops
from onnxadmm.errors import SpecError
from onnxadmm.graph import constant_of


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Return a network with a BatchNormalization and a scale, and a folder with data for it."""
    b = Builder(0, 2, 6)
    b.conv(6, w=b.weight(6, 2, 3, 3, name="first"))
    b.batchnorm()
    b.activation("Relu")
    b.conv(4, w=b.weight(4, 6, 3, 3, name="second"))
    b.value = b.node("Mul", b.value, b.weight(1, name="scale"))
    b.head("pool")
    folder = tmp_path_factory.mktemp("choosing")
    rng = np.random.default_rng(0)
    x = (3 + rng.standard_normal((64, 2, 6, 6))).astype(np.float32)
    np.savez(folder / "train.npz", x=x)
    return b.model(), folder


def compress(network, **train):
    model, folder = network
    spec = {
        "version": 1,
        "data": {"train": {"inputs": {"x": str(folder / "train.npz")}}, "batch_size": 16},
        "objective": {"loss": "distill"},
        "train": train,
        "prune": [{"structure": "unstructured", "amount": 0.3, "layers": ["first", "second"]}],
        "schedule": {"epochs": 0, "retrain": 1},
        "benchmark": {"providers": []},
    }
    return held(onnxadmm.compress(model, spec).model)


def held(model: ir.Model):
    return {name: np.array(constant_of(v)) for name, v in ops.held(model).items()}


def statistics(model):
    node = next(n for n in model.graph if n.op_type == "BatchNormalization")
    return [v.name for v in node.inputs[3:5]]


def test_statistics_stay_unless_the_spec_lets_them_run(network):
    before, names = held(network[0]), statistics(network[0])
    frozen = compress(network)
    running = compress(network, statistics="running")
    for name in names:
        assert np.array_equal(frozen[name], before[name])
        assert np.isfinite(running[name]).all()
    # The inputs' mean is 3: the first convolution's output isn't centred where the old statistics say.
    assert not np.allclose(running[names[0]], before[names[0]])
    assert (running[names[1]] > 0).all()


def test_the_spec_excludes_and_includes_tensors(network):
    before = held(network[0])
    usual = compress(network)
    assert not np.array_equal(usual["first"], before["first"])
    assert np.array_equal(usual["scale"], before["scale"])
    chosen = compress(network, exclude=["se*"], include=["scale"])
    assert np.array_equal(chosen["second"], before["second"])
    assert not np.array_equal(chosen["scale"], before["scale"])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"exclude": ["secnod"]},
            r"train.exclude: 'secnod' names no tensor; did you mean 'second'",
        ),
        ({"include": ["{mean}"]}, r"statistics of BatchNormalization .*statistics: running"),
        ({"exclude": ["*"]}, r"prune: .*match no weight|no tensor of .* learns|learns"),
    ],
)
def test_what_cannot_be_chosen_is_refused(network, train, message):
    mean = statistics(network[0])[0]
    train = {k: [g.format(mean=mean) for g in globs] for k, globs in train.items()}
    with pytest.raises(SpecError, match=message):
        compress(network, **train)
