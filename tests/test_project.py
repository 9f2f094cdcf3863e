"""What the project promises of itself: its README, its data, its public names."""

from __future__ import annotations

import gzip
import math
import re
import subprocess
import sys
from pathlib import Path

import documents
import onnx
import pytest
import yaml
from graphs import Builder

import onnxadmm
from onnxadmm.graph import model_bytes
from onnxadmm.spec import parse_spec, read_spec

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_python_example_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    b = Builder(0, 2, 6)
    b.conv(8)
    b.head("flatten")
    (tmp_path / "model.onnx").write_bytes(model_bytes(b.model()))
    spec = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "spec.yaml").write_text(spec)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small" / "model.onnx").exists()
    assert done.stdout.strip().endswith("True")


def test_the_generated_parts_of_the_readme_are_those_of_the_code():
    assert documents.written(README) == README, "run `python tests/documents.py`"


def test_every_yaml_block_of_the_readme_is_a_valid_spec():
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        assert yaml.safe_load(block)["version"] == 1
        parse_spec(block)


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_spec_of_the_zoo_is_valid_and_its_files_are_there(path):
    spec = read_spec(path)
    for split in (spec.data.train, spec.data.evaluate):
        for file in (*split.inputs.values(), split.labels):
            assert (path.parent / file).is_file()


def test_the_embedded_data_is_mnist_and_small_enough():
    folder = ROOT / "models" / "lenet5" / "data"
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 12_000_000
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        images = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        assert len(images) == 16 + count * 784
        assert len(labels) == 8 + count


def test_the_reference_network_is_the_papers():
    model = onnx.load(ROOT / "models" / "lenet5" / "lenet5.onnx")
    sizes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    weights = [s for n, s in sizes.items() if n.endswith("weight")]
    assert weights == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]
    assert sum(math.prod(s) for s in weights) == 430_500


def test_the_public_names_are_these():
    assert sorted(onnxadmm.__all__) == [
        "Inspection",
        "Result",
        "__version__",
        "compress",
        "inspect",
    ]
    for name in onnxadmm.__all__:
        assert getattr(onnxadmm, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        _ = onnxadmm.nosuch


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, onnxadmm; sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_test_that_a_promise_of_security_md_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text("utf-8")))
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= there
