"""Training that can't fit is refused before it starts, with the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import runs

from onnxadmm.errors import ResourceError
from onnxadmm.graph import probe
from onnxadmm.spec import Optimizer
from onnxadmm.training import CheckpointStore, engine
from onnxadmm.training.checkpoints import KEPT
from onnxadmm.training.demand import Demand, estimate, require


def demanded(net, batch_size=8, **schedule):
    return estimate(
        net.model,
        probe(net.model),
        runs.schedule(**schedule),
        batch_size=batch_size,
        samples=100,
        constrained=[c.tensors for c in net.constraints()],
    )


class Weighing(CheckpointStore):
    """Notes how many bytes of tensors it is given to save."""

    largest = 0

    def save(self, checkpoint):
        self.largest = max(self.largest, sum(t.nbytes for t in checkpoint.tensors.values()))
        super().save(checkpoint)


@pytest.mark.parametrize(
    "optimizer", [{"name": "Adam"}, {"name": "SGD", "momentum": 0.9}, {"name": "SGD"}]
)
def test_the_estimate_is_what_a_run_really_holds(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", 0.0)
    monkeypatch.setattr(engine, "CHECKPOINT_SHARE", 1e9)
    settings = {"steps": 1, "retrain": 0, "optimizer": Optimizer(**optimizer)}
    store = Weighing(tmp_path, {})
    net, made = runs.trainer("admm", store=store, schedule=settings)
    made.run()
    demand = demanded(net, **settings)
    # Statistics of normalisations, which aren't trained, are counted as well.
    trained = sum(w.nbytes for w in net.imported.binding.values())
    assert trained <= demand.weights <= 1.02 * trained
    # Masks and step counts are the rest.
    assert store.largest == pytest.approx(demand.checkpoints / (KEPT + 1), rel=0.15)


def test_activations_grow_with_the_batch():
    net = runs.Network()
    one, eight = demanded(net, batch_size=1), demanded(net, batch_size=8)
    assert one.activations > 0
    assert eight.activations == pytest.approx(8 * one.activations, rel=1e-3)
    assert eight.memory - one.memory == eight.activations - one.activations


DEMAND = Demand(
    weights=1 << 30,
    gradients=1 << 30,
    optimizer=2 << 30,
    admm=3 << 30,
    activations=7 << 30,
    teacher=0,
    retreat=3 << 30,
    checkpoints=1 << 30,
)


def test_what_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(
        ResourceError, match=r"14\.0 GiB of memory .*7\.0 GiB.* 13\.0 GiB is free"
    ) as e:
        require(DEMAND, memory_bytes=13 << 30, disk_bytes=9 << 30, where="memory")
    assert e.value.exit_code == 4
    with pytest.raises(ResourceError, match=r"4\.0 GiB of disk space, 2\.0 GiB is free") as e:
        require(DEMAND, memory_bytes=15 << 30, disk_bytes=2 << 30, where="memory")
    # What wouldn't help is not advised.
    assert "--no-checkpoints" not in str(e.value)
    with pytest.raises(ResourceError, match=r"--no-checkpoints, .* \(then 3\.\d GiB\)"):
        require(DEMAND, memory_bytes=15 << 30, disk_bytes=(7 << 30) // 2, where="memory")
    without = replace(DEMAND, checkpoints=0)
    with pytest.raises(ResourceError, match=r"go back to needs about 3\.\d GiB of disk space"):
        require(without, memory_bytes=15 << 30, disk_bytes=2 << 30, where="memory")


def test_what_fits_passes():
    require(DEMAND, memory_bytes=14 << 30, disk_bytes=5 << 30, where="memory")
    without = replace(DEMAND, checkpoints=0)
    require(without, memory_bytes=14 << 30, disk_bytes=4 << 30, where="memory")
