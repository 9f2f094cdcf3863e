"""A realistic report: LeNet-5 pruned by ADMM and quantized to int8, with two batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxadmm.report import (
    BatchLatency,
    ChannelClass,
    Epoch,
    LatencyFacts,
    ModelFacts,
    Ratios,
    Report,
    Residuals,
    SpeedupFacts,
    Stage,
    Verification,
)
from onnxadmm.report.gates import judge
from onnxadmm.spec import parse_spec

SPEC = {
    "version": 1,
    "data": {
        "train": {"inputs": {"image": "train-images.gz"}, "labels": "train-labels.gz"},
        "evaluate": {"inputs": {"image": "t10k-images.gz"}, "labels": "t10k-labels.gz"},
        "preprocess": [{"scale": 0.00392156862745098}],
    },
    "prune": [{"structure": "channel", "amount": 0.7, "round_to": 8}],
    "quantize": [{"layers": "*"}],
    "schedule": {"epochs": 8, "retrain": 6, "steps": 2},
    "benchmark": {"batch_sizes": [1, 64]},
    "gates": {
        "max_drop": {"accuracy": 0.001},
        "min_speedup": {"cpu": 2.0},
        "max_latency_ms": {"cpu": 0.2},
        "max_file_bytes": 50000,
        "min_compression": 10.0,
    },
}


def _latency(median_1: float, median_64: float, seed: int) -> dict[str, LatencyFacts]:
    draw = np.random.default_rng(seed)
    batches = {}
    for batch, median in ((1, median_1), (64, median_64)):
        noise = draw.gamma(2.0, 0.018, 400) + draw.normal(0, 0.006, 400)
        noise += (draw.random(400) < 0.02) * draw.gamma(2.0, 0.2, 400)
        samples = median * (1 + noise - np.median(noise))
        batches[batch] = BatchLatency.of(samples.tolist(), batch)
    return {"cpu": LatencyFacts.of(batches)}


def _speedup(original: ModelFacts, other: ModelFacts) -> dict[str, dict[int, SpeedupFacts]]:
    before, after = original.latency["cpu"].batches, other.latency["cpu"].batches
    found = {}
    for batch, facts in before.items():
        ratio = facts.median_ms / after[batch].median_ms
        found[int(batch)] = SpeedupFacts(ratio=ratio, low=ratio * 0.985, high=ratio * 1.013)
    return {"cpu": found}


def _history() -> list[Epoch]:
    draw = np.random.default_rng(7)
    epochs = []
    rho = 1e-3
    for i in range(14):
        admm = i < 8
        step = 1 if i < 4 else 2
        if i == 4:
            rho = 4e-3
        inside = i % 4
        loss = (0.12 * np.exp(-inside / 2) + 0.03 * step) if admm else 0.05 * np.exp(-(i - 8) / 2)
        metric = 0.9925 - (0.002 * step * np.exp(-inside / 2) if admm else 0.004 * 0.5 ** (i - 7))
        primal = 0.6 * np.exp(-inside * 0.9) + 0.01
        dual = 0.3 * np.exp(-inside * 0.6) + 0.008
        epochs.append(
            Epoch(
                epoch=i + 1,
                stage="admm" if admm else "retrain",
                step=step,
                loss=float(loss + draw.random() * 0.004 + 0.01),
                metric=float(metric + draw.normal() * 1e-4),
                rho=rho if admm else None,
                primal=float(primal) if admm else None,
                dual=float(dual) if admm else None,
                seconds=11.3,
                constraints={
                    "conv1": Residuals(primal=float(primal) * 0.7, dual=float(dual)),
                    "fc1": Residuals(primal=float(primal) * 1.2, dual=float(dual)),
                }
                if admm
                else {},
            )
        )
        rho *= 1.69
    return epochs


def lenet_report(**changes: Any) -> Report:
    """Build the sample; `changes` replace fields before the gates are judged."""
    spec = parse_spec(SPEC)
    original = ModelFacts(
        file_bytes=1_726_212,
        parameters=431_080,
        nonzero_parameters=431_080,
        macs=2_293_000,
        metrics={"accuracy": 0.9925, "loss": 0.0241},
        latency=_latency(0.262, 11.9, 1),
        peak_memory_bytes=21_300_000,
        session_s=0.0121,
    )
    pruned = ModelFacts(
        file_bytes=87_904,
        parameters=20_882,
        nonzero_parameters=20_882,
        macs=437_520,
        metrics={"accuracy": 0.9921, "loss": 0.0262},
        latency=_latency(0.083, 3.05, 2),
        peak_memory_bytes=9_800_000,
        session_s=0.0093,
    )
    compressed = ModelFacts(
        file_bytes=39_012,
        parameters=20_882,
        nonzero_parameters=20_640,
        macs=437_520,
        metrics={"accuracy": 0.9919, "loss": 0.0271},
        latency=_latency(0.091, 2.21, 3),
        peak_memory_bytes=9_100_000,
        session_s=0.0107,
    )
    fields: dict[str, Any] = {
        "onnxadmm": "0.1.0",
        "created": "2026-11-22",
        "model": "lenet5.onnx",
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "seed": 0,
        "original": original,
        "compressed": compressed,
        "pruned": pruned,
        "ratios": Ratios.between(original, compressed, _speedup(original, compressed)),
        "pruned_ratios": Ratios.between(original, pruned, _speedup(original, pruned)),
        "verification": Verification(
            cut_vs_masked_max_error=3.1e-7,
            import_max_error=9.5e-7,
            tolerance=1e-5,
            import_tolerance=1e-4,
            samples=64,
            passed=True,
        ),
        "channels": [
            ChannelClass(class_name="conv1", members=["conv1", "pool1"], size=20, kept=8),
            ChannelClass(class_name="conv2", members=["conv2", "pool2"], size=50, kept=24),
            ChannelClass(class_name="fc1", members=["fc1", "relu3"], size=500, kept=40),
            ChannelClass(
                class_name="fc2",
                members=["fc2"],
                size=10,
                kept=10,
                fixed=True,
                reason="reaches the graph output logits",
            ),
        ],
        "history": _history(),
        "stages": [
            Stage(name="read", seconds=0.21),
            Stage(name="import", seconds=1.4),
            Stage(name="admm", seconds=90.6),
            Stage(name="retrain", seconds=67.8),
            Stage(name="quantize", seconds=2.9),
            Stage(name="benchmark", seconds=14.2),
        ],
        "environment": {
            "cpu": "Intel Xeon Platinum 8481C (AVX-512 VNNI)",
            "threads": 1,
            "onnxruntime": "1.23.2",
            "torch": "2.9.1",
            "python": "3.12.3",
            "platform": "Linux x86_64",
        },
    }
    report = Report(**{**fields, **changes})
    if "gates" in changes:
        return report
    return report.model_copy(update={"gates": tuple(judge(spec.gates, report))})


def bare_report(**changes: Any) -> Report:
    """Build the smallest report: one shot, no data, no gates, nothing timed."""
    original = ModelFacts(
        file_bytes=1_726_212, parameters=431_080, nonzero_parameters=431_080, macs=2_293_000
    )
    compressed = ModelFacts(
        file_bytes=500_000, parameters=120_000, nonzero_parameters=120_000, macs=700_000
    )
    fields: dict[str, Any] = {
        "onnxadmm": "0.1.0",
        "model": "net.onnx",
        "spec": {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]},
        "seed": 0,
        "original": original,
        "compressed": compressed,
        "ratios": Ratios.between(original, compressed),
        "verification": Verification(passed=True),
    }
    return Report(**{**fields, **changes})
