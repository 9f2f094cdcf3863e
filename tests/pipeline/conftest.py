"""A small network with data that it labels itself: the original's accuracy is 1."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from graphs import Builder

from onnxadmm.bench import open_session
from onnxadmm.graph import model_bytes


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """Return a folder with model.onnx, train.npz, test.npz and spec.yaml."""
    folder = tmp_path_factory.mktemp("workplace")
    b = Builder(3, 2, 6)
    b.conv(12)
    b.activation("Relu")
    b.pool()
    b.conv(10)
    b.activation("Relu")
    b.head("flatten")
    model = b.model()
    content = model_bytes(model)
    (folder / "model.onnx").write_bytes(content)
    rng = np.random.default_rng(0)
    session = open_session(content)
    for name, count in (("train", 512), ("test", 256)):
        x = rng.standard_normal((count, 2, 6, 6)).astype(np.float32)
        (logits,) = session.run(None, {"x": x})
        np.savez(folder / f"{name}.npz", x=x, y=logits.argmax(1))
    spec = {
        "version": 1,
        "data": {
            "train": {"inputs": {"x": "train.npz"}, "labels": "train.npz"},
            "evaluate": {"inputs": {"x": "test.npz"}, "labels": "test.npz"},
            "batch_size": 32,
        },
        "prune": [{"structure": "channel", "amount": 0.5}],
        "quantize": [{"layers": "*"}],
        "schedule": {"epochs": 2, "retrain": 2, "updates_per_epoch": 2},
        "benchmark": {"rounds": 5, "batch_sizes": [1, 4]},
        "gates": {"min_compression": 1.5},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder
