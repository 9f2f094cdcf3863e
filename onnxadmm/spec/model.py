"""The shape of a spec, section by section.

The docstrings and descriptions here are the reference: they are what the published JSON schema
(`onnxadmm/spec/spec.schema.json`) and the comments that `onnxadmm init` writes say.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Share = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Layers = Text | Annotated[tuple[Text, ...], Field(min_length=1)]
Metric = Literal["accuracy", "agreement", "mse"]


def _whole(value: object) -> object:
    """Refuse `true` and `1.0` for a 1: a Literal compares with ==, and would take them."""
    if isinstance(value, bool | float):
        raise ValueError("should be a whole number")  # noqa: TRY004  (pydantic reports ValueErrors)
    return value


class Section(BaseModel):
    """A mapping of the spec: unknown keys are errors, values are never coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    """One set of samples: an array for each input of the model, and labels when the loss needs them."""

    inputs: dict[Text, Text] = Field(
        min_length=1,
        description="Model input -> file (.npz, .npy, idx, idx.gz), relative to the spec; "
        "`file.npz#name` chooses an array of the archive.",
    )
    labels: Text | None = Field(None, description="The file with a label (or target) a sample.")
    limit: PositiveInt | None = Field(None, description="Use only the first so many samples.")


class Normalize(Section):
    """Subtract the mean and divide by the standard deviation, by channel (axis 1 of the input)."""

    mean: tuple[Annotated[float, Field(ge=-1e30, le=1e30)], ...] = Field(
        min_length=1, max_length=4096
    )
    std: tuple[PositiveFloat, ...] = Field(min_length=1, max_length=4096)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}; give one of each a channel"
            )
        return self


class Preprocess(Section):
    """One step from the stored arrays to what the model wants; exactly one key."""

    scale: PositiveFloat | None = Field(
        None, description="Multiply by this (integers become float32)."
    )
    normalize: Normalize | None = None
    inputs: tuple[Text, ...] | None = Field(
        None, description="Only these inputs; by default every float input."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.scale is None) == (self.normalize is None):
            raise ValueError("a step holds exactly one of scale, normalize")
        return self


class Data(Section):
    """Samples to train, calibrate and evaluate on."""

    train: Split
    evaluate: Split | None = Field(None, description="Held out; metrics are measured here.")
    preprocess: tuple[Preprocess, ...] = ()
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 64


class Distillation(Section):
    """The original model teaches the compressed one (Hinton et al., arXiv 1503.02531)."""

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share of the loss that comes from the teacher; the rest from the labels."
    )
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 4.0


class Objective(Section):
    """What is minimised, and what is measured."""

    loss: Literal["cross_entropy", "bce", "mse", "distill"] = Field(
        "cross_entropy",
        description="bce is on logits; distill needs no labels: the original model teaches.",
    )
    metric: Metric | None = Field(
        None,
        description="By default accuracy for cross_entropy and bce, mse for mse, agreement for distill.",
    )
    output: Text | None = Field(
        None, description="The model output to look at; the first by default."
    )
    distill: Distillation | None = Field(None, description="Mix the teacher into a labelled loss.")

    @model_validator(mode="after")
    def _labels_fit_the_metric(self) -> Self:
        wanted = "mse" if self.loss in ("cross_entropy", "distill") else "accuracy"
        if self.metric == wanted and self.loss != "bce":
            held = "targets" if self.loss == "mse" else "classes"
            raise ValueError(
                f"metric: {self.metric} can't be measured on the labels of loss: {self.loss}, which are {held}; "
                f"drop it, or use agreement"
            )
        return self

    @property
    def resolved_metric(self) -> Metric:
        """The metric that is measured: the one asked for, or the one that suits the loss."""
        if self.metric is not None:
            return self.metric
        if self.loss == "mse":
            return "mse"
        return "agreement" if self.loss == "distill" else "accuracy"

    @property
    def needs_labels(self) -> bool:
        """Whether training or the metric reads labels."""
        return self.loss != "distill" or self.resolved_metric == "accuracy"


class Prune(Section):
    """Take a share of something away from the layers that match.

    A layer is matched by globs over node names and weight names. Of several entries of one structure
    that match, the last one holds.
    """

    layers: Layers = "*"
    structure: Literal["channel", "unstructured"] = Field(
        description="channel: coupled channels, cut from the graph. unstructured: single weights become "
        "zero (no speed in ONNX Runtime)."
    )
    amount: Share = Field(description="The share taken away, in `unit`.")
    unit: Literal["channels", "parameters"] | None = Field(
        None,
        description="channels for structure channel, parameters (single weights) for unstructured.",
    )
    round_to: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Kept counts become multiples of this; by default 8 for classes of 32 and more, else 1.",
    )
    min_channels: PositiveInt = Field(2, description="A class keeps at least so many channels.")

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        wanted = "channels" if self.structure == "channel" else "parameters"
        if self.unit not in (None, wanted):
            raise ValueError(
                f"unit: {self.unit} does not go with structure: {self.structure}; use {wanted}"
            )
        return self


class WeightQuantization(Section):
    """How weights are stored."""

    bits: Annotated[Literal[8], BeforeValidator(_whole)] = 8
    granularity: Literal["channel", "tensor"] = Field(
        "channel", description="One scale an output channel, or one a tensor."
    )


class ActivationQuantization(Section):
    """How activations are stored between operators."""

    bits: Annotated[Literal[8], BeforeValidator(_whole)] = 8
    calibrate: Literal["minmax", "percentile"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        99.999, description="The share of values, in percent, that the range holds."
    )
    samples: PositiveInt = Field(512, description="So many training samples calibrate the ranges.")
    signed: bool | None = Field(
        None,
        description="int8 instead of uint8. uint8 is what CPUs with VNNI run fast.",
    )


class Quantize(Section):
    """Static quantization as QuantizeLinear/DequantizeLinear of the layers that match."""

    layers: Layers = "*"
    weights: WeightQuantization = WeightQuantization()
    activations: ActivationQuantization = ActivationQuantization()


class Optimizer(Section):
    """The W-step's optimizer, and the retraining's."""

    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD only.")


class Rho(Section):
    """The penalty's weight. Grown geometrically, and faster while the primal residual lags.

    See `onnxadmm.admm.penalty` (Boyd et al. 2011, section 3.4.1, residual balancing).
    """

    initial: PositiveFloat = 1e-3
    growth: Annotated[float, Field(ge=1, le=100)] = Field(
        1.3, description="Factor at each Z/U update."
    )
    maximum: PositiveFloat = 10.0


class Schedule(Section):
    """How long, and how."""

    epochs: Epochs = Field(10, description="ADMM epochs, over all steps; 0 projects in one shot.")
    retrain: Epochs = Field(5, description="Epochs with the mask fixed, after the last step.")
    steps: Annotated[int, Field(ge=1, le=10)] = Field(
        1, description="Progressive steps, each warm-started (arXiv 1903.09769)."
    )
    updates_per_epoch: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Z and U are updated so many times an epoch."
    )
    optimizer: Optimizer = Optimizer()
    rho: Literal["auto"] | Rho = "auto"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-3, description="A step ends early once both relative residuals are below this."
    )


class Benchmark(Section):
    """What is timed against the original in ONNX Runtime."""

    providers: tuple[Literal["cpu", "cuda"], ...] = Field(
        ("cpu",), description="Where to run; an empty list times nothing."
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field((1,), min_length=1)
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    rounds: Annotated[int, Field(ge=5, le=10_000)] = Field(
        100, description="Paired, interleaved runs a comparison."
    )

    @field_validator("providers", "batch_sizes")
    @classmethod
    def _no_twice(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) != len(value):
            raise ValueError("holds a value twice")
        return value


class Gates(Section):
    """Goals. A gate that failed, or could not be measured, makes the exit status 1."""

    max_drop: dict[Text, Annotated[float, Field(ge=0, le=1e9)]] = Field(
        default_factory=dict, description="Metric -> the most it may get worse (absolute)."
    )
    min_speedup: dict[Literal["cpu", "cuda"], Annotated[float, Field(gt=0, le=1e6)]] = Field(
        default_factory=dict, description="Provider -> how many times faster, at every batch size."
    )
    max_latency_ms: dict[Literal["cpu", "cuda"], PositiveFloat] = Field(
        default_factory=dict, description="Provider -> median at the first batch size."
    )
    max_file_bytes: PositiveInt | None = None
    min_compression: PositiveFloat | None = Field(
        None, description="Original parameters over those that are left."
    )


class Spec(Section):
    """A whole spec. Every key but `version` has a default."""

    version: Annotated[Literal[1], BeforeValidator(_whole)]
    data: Data | None = Field(None, description="Without it the model is compressed in one shot.")
    objective: Objective = Objective()
    prune: tuple[Prune, ...] = ()
    quantize: tuple[Quantize, ...] = ()
    schedule: Schedule = Schedule()
    benchmark: Benchmark = Benchmark()
    gates: Gates = Gates()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.prune and not self.quantize:
            raise ValueError("nothing to do; add a prune or a quantize section")
        if self.quantize and self.data is None:
            raise ValueError(
                "quantize needs data to calibrate the activations; add data.train, or drop quantize"
            )
        seen: set[tuple[str, object]] = set()
        for kind, entries in (("prune", self.prune), ("quantize", self.quantize)):
            for entry in entries:
                key = (f"{kind} {getattr(entry, 'structure', '')}".strip(), entry.layers)
                if key in seen:
                    raise ValueError(
                        f"{key[0]} names the layers {entry.layers!r} twice; keep one of the two"
                    )
                seen.add(key)
        return self

    @model_validator(mode="after")
    def _gates_name_metrics(self) -> Self:
        for name in self.gates.max_drop:
            if name not in get_args(Metric):
                near = difflib.get_close_matches(name, get_args(Metric), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {_METRICS}"
                raise ValueError(f"gates.max_drop names the unknown metric {name[:60]!r}; {hint}")
        return self


_METRICS = ", ".join(get_args(Metric))


def spec_schema() -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of a spec."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Spec.model_json_schema(),
    }
