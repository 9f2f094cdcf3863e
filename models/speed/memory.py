"""What import and write-back of a large model take in memory, as a multiple of its weights.

    python models/speed/memory.py --folder DIR [--gib 2.3]

A chain of matrix products is written with its weights beside it, loaded, probed, imported, compared with ONNX Runtime,
written back untrained and saved. After each stage the resident memory of this process is printed, with what its pages
come to (a page that is mapped twice counts once). It exits with 1 where the peak is above 1.5 times the weights.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import torch

from onnxadmm.graph import load_model, probe, save_model
from onnxadmm.memory import GIB
from onnxadmm.modules import compare_with_runtime, import_model, write_back

SIZE = 4096
ALLOWED = 1.5


def write_chain(folder: Path, layers: int) -> Path:
    """Write the model, its weights beside it; return its path."""
    calls = "\n".join(f"h{k + 1} = MatMul(h{k}, w{k})" for k in range(layers))
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,{SIZE}] h0) => (float[N,{SIZE}] h{layers}) {{ {calls} }}'
    )
    rng = np.random.default_rng(0)
    with (folder / "weights.data").open("wb") as file:
        for k in range(layers):
            content = rng.standard_normal((SIZE, SIZE), dtype=np.float32) / SIZE**0.5
            tensor = proto.graph.initializer.add(
                name=f"w{k}", data_type=onnx.TensorProto.FLOAT, dims=content.shape
            )
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": "weights.data", "offset": file.tell(), "length": content.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(content.data)
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(stage: str) -> None:
    """Print what the process holds."""
    held = psutil.Process().memory_full_info()
    sizes = {"resident": held.rss, "pages": held.pss, "peak": peak_bytes()}
    print(f"{stage:13}", *(f"{n} {s / GIB:5.2f} GiB" for n, s in sizes.items()), flush=True)


def main() -> int:
    """Run the stages and compare the peak."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--folder", type=Path, required=True, help="takes twice the model's size")
    options.add_argument("--gib", type=float, default=2.3, help="of weights")
    wanted = options.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    path = write_chain(wanted.folder, round(wanted.gib * GIB / (4 * SIZE**2)))
    weights = (wanted.folder / "weights.data").stat().st_size
    show("start")
    model = load_model(path)
    show("loaded")
    seen = probe(model)
    imported = import_model(model, seen)
    imported.module.eval()
    show("imported")
    compare_with_runtime(model, imported, {"h0": np.ones((1, SIZE), np.float32)})
    show("compared")
    write_back(model, imported.state)
    save_model(model, wanted.folder / "again.onnx")
    show("saved")
    ratio = peak_bytes() / weights
    print(f"peak: {ratio:.2f} times {weights / GIB:.2f} GiB of weights")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
