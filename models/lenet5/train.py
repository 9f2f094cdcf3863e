"""Train LeNet-5 (20-50-500-10, as in the ADMM papers) on MNIST and write `lenet5.onnx`.

    python models/lenet5/train.py [--epochs 20] [--seed 0] [--output models/lenet5/lenet5.onnx]

The plain recipe, without augmentation, so that what compression costs is seen against a baseline of the
papers' kind: 430,500 weights, biases not counted (arXiv 1804.03294, section 4). It prints the test
accuracy after each epoch, writes the network after the last one, and records what it reached in
`lenet5.json` beside it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
MEAN, STD = 0.1307, 0.3081


def images(path: Path) -> torch.Tensor:
    """Read an idx3 file as normalised images [N, 1, 28, 28]."""
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    pixels = torch.from_numpy(raw.reshape(-1, 1, 28, 28).astype(np.float32))
    return (pixels / 255.0 - MEAN) / STD


def labels(path: Path) -> torch.Tensor:
    """Read an idx1 file as labels [N]."""
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=8)
    return torch.from_numpy(raw.astype(np.int64))


def lenet5() -> nn.Sequential:
    """Build the network with names that read well in a graph."""
    first = (nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    return nn.Sequential(*first, *second, *head)


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of images whose largest logit is the label."""
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(b).argmax(1) == t).sum())
            for b, t in zip(x.split(1000), y.split(1000), strict=True)
        )
    model.train()
    return hits / len(y)


def main() -> None:
    """Train, export, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--output", type=Path, default=HERE / "lenet5.onnx")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = (
        images(args.data / "train-images-idx3-ubyte.gz"),
        labels(args.data / "train-labels-idx1-ubyte.gz"),
    )
    test_x = images(args.data / "t10k-images-idx3-ubyte.gz")
    test_y = labels(args.data / "t10k-labels-idx1-ubyte.gz")
    model = lenet5()
    batch = 64
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    steps = args.epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    reached = 0.0
    for epoch in range(args.epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            index = order[start : start + batch]
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        reached = accuracy(model, test_x, test_y)
        print(
            f"epoch {epoch + 1:2d}/{args.epochs}  loss {loss.item():.4f}  test accuracy {reached:.4f}",
            flush=True,
        )
    model.eval()
    export(model, args.output)
    record = {
        "test_accuracy": reached,
        "epochs": args.epochs,
        "seed": args.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }
    args.output.with_suffix(".json").write_text(
        json.dumps(record, indent=2) + "\n", encoding="utf-8"
    )


def export(model: nn.Sequential, path: Path) -> None:
    """Write the network as ONNX, opset 17, batch left free, layers named as the papers name them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    w = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    names = {"0": "conv1", "3": "conv2", "7": "fc1", "9": "fc2"}
    initializers = [
        numpy_helper.from_array(v, f"{names[k.split('.')[0]]}.{k.split('.')[1]}")
        for k, v in w.items()
    ]

    def node(
        op: str, name: str, inputs: list[str], output: str, **attributes: object
    ) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=name, **attributes)

    def layer(name: str) -> list[str]:
        return [f"{name}.weight", f"{name}.bias"]

    nodes = [
        node("Conv", "conv1", ["image", *layer("conv1")], "conv1_out", kernel_shape=[5, 5]),
        node("Relu", "relu1", ["conv1_out"], "relu1_out"),
        node("MaxPool", "pool1", ["relu1_out"], "pool1_out", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "conv2", ["pool1_out", *layer("conv2")], "conv2_out", kernel_shape=[5, 5]),
        node("Relu", "relu2", ["conv2_out"], "relu2_out"),
        node("MaxPool", "pool2", ["relu2_out"], "pool2_out", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "flatten", ["pool2_out"], "flat", axis=1),
        node("Gemm", "fc1", ["flat", *layer("fc1")], "fc1_out", transB=1),
        node("Relu", "relu3", ["fc1_out"], "relu3_out"),
        node("Gemm", "fc2", ["relu3_out", *layer("fc2")], "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proto.producer_name = "onnxadmm models/lenet5/train.py"
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


if __name__ == "__main__":
    main()
