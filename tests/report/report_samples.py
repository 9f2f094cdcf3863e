"""A realistic report: LeNet-5 pruned by ADMM and quantized to int8, with two batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxadmm.report import (
    BatchLatency,
    ChannelClass,
    Epoch,
    LatencyFacts,
    MetricChange,
    ModelFacts,
    Ratios,
    Report,
    Residuals,
    SpeedupFacts,
    Stage,
    Verification,
)
from onnxadmm.report.benchmark import BenchmarkedModel, BenchmarkReport, judged
from onnxadmm.report.gates import judge
from onnxadmm.report.profiles import FusionFacts, LayerFacts, OperatorFacts, ProfileFacts
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
        "max_drop": {"accuracy": 0.002},
        "min_speedup": {"cpu": 2.0},
        "max_latency_ms": {"cpu": 0.2},
        "max_file_bytes": 50000,
        "min_compression": 10.0,
    },
}


def profile(name: str, scale: float) -> ProfileFacts:
    """Build the profile of one of the sample's models; `scale` is its speed."""
    layers = {"conv1": ("Conv", 0.021), "pool1": ("MaxPool", 0.006), "conv2": ("Conv", 0.061)}
    layers |= {"pool2": ("MaxPool", 0.004), "fc1": ("FusedGemm", 0.022), "fc2": ("Gemm", 0.003)}
    if name == "compressed":
        kernels = {
            "Conv": "QLinearConv",
            "MaxPool": "NhwcMaxPool",
            "FusedGemm": "QGemm",
            "Gemm": "QGemm",
        }
        layers = {k: (kernels[op], ms) for k, (op, ms) in layers.items()}
        layers = {"image_q": ("QuantizeLinear", 0.004), **layers}
    listed = [
        LayerFacts(layer=k, nodes=[k], operator=op, provider="cpu", ms=ms * scale)
        for k, (op, ms) in layers.items()
    ]
    kinds = dict.fromkeys(x.operator for x in listed)
    times = {k: [x.ms for x in listed if x.operator == k] for k in kinds}
    return ProfileFacts(
        batch_size=1,
        runs=200,
        run_ms=sum(x.ms for x in listed),
        operators=sorted(
            (
                OperatorFacts(operator=k, provider="cpu", nodes=len(ms), ms=sum(ms))
                for k, ms in times.items()
            ),
            key=lambda o: -o.ms,
        ),
        layers=listed,
        fusions=[FusionFacts(parts="Conv + Relu", into="Conv", count=2)],
    )


def with_profile(facts: ModelFacts, found: ProfileFacts, provider: str = "cpu") -> ModelFacts:
    """Return a model with a profile of one of its providers."""
    latency = facts.latency[provider].model_copy(update={"profile": found})
    return facts.model_copy(update={"latency": {**facts.latency, provider: latency}})


def _latency(median_1: float, median_64: float, seed: int) -> dict[str, LatencyFacts]:
    draw = np.random.default_rng(seed)
    batches = {}
    for batch, median in ((1, median_1), (64, median_64)):
        noise = draw.gamma(2.0, 0.018, 400) + draw.normal(0, 0.006, 400)
        noise += (draw.random(400) < 0.02) * draw.gamma(2.0, 0.2, 400)
        samples = median * (1 + noise - np.median(noise))
        batches[batch] = BatchLatency.of(samples.tolist(), batch)
    four = {4: {64: BatchLatency.of([0.4 * median_64] * 9, 64)}}
    return {"cpu": LatencyFacts.of(batches, threads=1, more_threads=four)}


def _speedup(original: ModelFacts, other: ModelFacts) -> dict[str, dict[int, SpeedupFacts]]:
    before, after = original.latency["cpu"].batches, other.latency["cpu"].batches
    found = {}
    for batch, facts in before.items():
        ratio = facts.median_ms / after[batch].median_ms
        found[int(batch)] = SpeedupFacts(ratio=ratio, low=ratio * 0.985, high=ratio * 1.013)
    return {"cpu": found}


def _ratios(original: ModelFacts, other: ModelFacts, changed: int) -> Ratios:
    """Compare two of the sample's models, of which so many samples in 10,000 differ."""
    drop = other.metrics["accuracy"] - original.metrics["accuracy"]
    width = 1.96 * changed**0.5 / 10_000
    change = MetricChange(
        low=drop - width,
        high=drop + width,
        relative_low=(drop - width) / original.metrics["accuracy"],
        relative_high=(drop + width) / original.metrics["accuracy"],
        samples=10_000,
    )
    (four,) = original.latency["cpu"].more_threads["4"].values()
    (now,) = other.latency["cpu"].more_threads["4"].values()
    ratio = four.median_ms / now.median_ms
    faster = SpeedupFacts(ratio=ratio, low=ratio * 0.96, high=ratio * 1.05)
    return Ratios.between(
        original,
        other,
        _speedup(original, other),
        more_threads={"cpu": {4: {64: faster}}},
        metric_changes={"accuracy": change},
    )


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
    original = with_profile(original, profile("original", 1.0))
    pruned = with_profile(pruned, profile("pruned", 0.3))
    compressed = with_profile(compressed, profile("compressed", 0.33))
    fields: dict[str, Any] = {
        "onnxadmm": "0.1.0",
        "created": "2026-11-22",
        "model": "lenet5.onnx",
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "seed": 0,
        "original": original,
        "compressed": compressed,
        "pruned": pruned,
        "ratios": _ratios(original, compressed, 30),
        "pruned_ratios": _ratios(original, pruned, 20),
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


def lenet_benchmark(gates: dict[str, Any] | None = None) -> BenchmarkReport:
    """Build the sample's three models as a benchmark, judged by the sample's gates or by others."""
    report = lenet_report()
    assert report.pruned is not None
    found = BenchmarkReport(
        onnxadmm="0.1.0",
        created="2026-11-22",
        inputs="data",
        spec={"benchmark": SPEC["benchmark"], "gates": SPEC["gates"]},
        models=[
            BenchmarkedModel(name="lenet5.onnx", facts=report.original),
            BenchmarkedModel(
                name="model.float.onnx", facts=report.pruned, ratios=report.pruned_ratios
            ),
            BenchmarkedModel(name="model.onnx", facts=report.compressed, ratios=report.ratios),
        ],
        environment=report.environment,
    )
    return judged(found, parse_spec({**SPEC, "gates": gates or SPEC["gates"]}).gates)


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
