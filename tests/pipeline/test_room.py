"""Training that can't fit into memory or on the disk: nothing is begun, nothing is left."""

from __future__ import annotations

import pytest
import yaml

import onnxadmm
from onnxadmm.errors import ResourceError
from onnxadmm.pipeline import learning


@pytest.mark.parametrize("short", ["memory", "disk"])
def test_a_run_that_can_not_fit_leaves_nothing(workplace, tmp_path, monkeypatch, short):
    if short == "memory":
        monkeypatch.setattr(learning, "free_memory", lambda: (1000, "memory"))
    else:
        monkeypatch.setattr(learning, "free_disk", lambda _: 1000)
    spec = yaml.safe_load((workplace / "spec.yaml").read_text())
    for split in ("train", "evaluate"):
        files = spec["data"][split]
        files["inputs"] = {"x": str(workplace / files["inputs"]["x"])}
        files["labels"] = str(workplace / files["labels"])
    with pytest.raises(ResourceError, match=f"of {short}"):
        onnxadmm.compress(workplace / "model.onnx", spec, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
