"""The shape of a spec, section by section.

The docstrings and descriptions here are the reference: they are what the published JSON schema
(`onnxadmm/spec/spec.schema.json`) and the comments that `onnxadmm init` writes say.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from onnxadmm.spec.compression import Prune, Quantize
from onnxadmm.spec.sections import PositiveFloat, PositiveInt, Section, Text, whole
from onnxadmm.spec.training import Length, Loss, Metric, Objective, Schedule, Train


class Split(Section):
    """One set of samples: an array for each input of the model, and labels when the loss needs them."""

    inputs: dict[Text, Text] = Field(
        min_length=1,
        description="Model input -> file (.npz, .npy, idx, idx.gz), relative to the spec; "
        "`file.npz#name` chooses an array of the archive. An input that is a single number has one for all samples.",
    )
    labels: Text | None = Field(None, description="The file with a label (or target) a sample.")
    limit: PositiveInt | None = Field(None, description="Use only the first so many samples.")


class Normalize(Section):
    """Subtract the mean and divide by the standard deviation, one for all or one a channel.

    Channels are axis 1 of the input, or the last one where only that has so many.
    """

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


class Augment(Section):
    """How images are moved before each training step, at random, each epoch anew; what lies outside repeats the edge.

    Evaluation, calibration and the proof see them as they are. A teacher answers to the moved images.
    """

    flip: Literal["horizontal", "vertical", "both"] | None = Field(
        None, description="Mirror half the images; both: along each axis for itself."
    )
    shift: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Move by up to this share of width and height, in whole pixels."
    )
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="Turn by up to so many degrees either way."
    )
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Enlarge or shrink by up to this share."
    )
    inputs: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        None,
        description="Only these inputs, all moved alike; by default every float input that is an image: "
        "[N, C, H, W] or [N, H, W, C] with 1 to 4 channels.",
    )
    layout: Literal["auto", "NCHW", "NHWC"] = Field(
        "auto", description="Where the channels are; auto: where 1 to 4 of them are, NCHW first."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.flip is None and not (self.shift or self.rotate or self.zoom):
            raise ValueError("moves nothing; give flip, shift, rotate or zoom, or drop augment")
        return self


class Data(Section):
    """Samples to train, calibrate and evaluate on."""

    train: Split
    evaluate: Split | None = Field(None, description="Held out; metrics are measured here.")
    preprocess: tuple[Preprocess, ...] = ()
    augment: Augment | None = None
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 64


# What ONNX Runtime can be built with, by its names in lower case without "ExecutionProvider".
Provider = Literal[
    "cpu",
    "cuda",
    "tensorrt",
    "nvtensorrtrtx",
    "migraphx",
    "openvino",
    "dnnl",
    "vitisai",
    "qnn",
    "coreml",
    "dml",
    "webgpu",
    "xnnpack",
    "acl",
    "cann",
]


Threads = Annotated[int, Field(ge=1, le=1024)]


class Benchmark(Section):
    """What is timed against the original in ONNX Runtime."""

    providers: tuple[Provider, ...] = Field(
        ("cpu",),
        description="Where to run: those that this build of ONNX Runtime holds; one that can't be used is "
        "said and left unmeasured. An empty list times nothing.",
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field((1,), min_length=1)
    threads: Threads | Annotated[tuple[Threads, ...], Field(min_length=1)] = Field(
        1, description="Inside an operator; a list times each number."
    )
    rounds: Annotated[int, Field(ge=5, le=10_000)] = Field(
        100, description="Paired, interleaved runs a comparison."
    )

    @field_validator("providers", "batch_sizes", "threads")
    @classmethod
    def _no_twice(cls, value: object) -> object:
        if isinstance(value, tuple) and len(set(value)) != len(value):
            raise ValueError("holds a value twice")
        return value

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """The numbers of threads; the first heads the report."""
        return self.threads if isinstance(self.threads, tuple) else (self.threads,)


class Drop(Section):
    """How much worse a metric may get; exactly one of absolute and relative."""

    absolute: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="In the metric's own unit: 0.001 of accuracy is 0.1 percentage points."
    )
    relative: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="As a share of the original's value."
    )
    by: Literal["interval", "value"] = Field(
        "interval",
        description="interval: even the worse end of the drop's 95 % interval, over the held-out samples, must "
        "be within the limit. value: the measured drop, for a set of samples that is all there is.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.absolute is None) == (self.relative is None):
            raise ValueError("a drop holds exactly one of absolute, relative")
        return self

    @property
    def limit(self) -> float:
        """The limit, whichever it is."""
        return self.absolute if self.absolute is not None else (self.relative or 0.0)


class Gates(Section):
    """Goals. A gate that failed, or could not be measured, makes the exit status 1."""

    max_drop: dict[Text, Annotated[float, Field(ge=0, le=1e9)] | Drop] = Field(
        default_factory=dict,
        description="Metric -> the most it may get worse: absolute as a number, or `{relative: 0.01}` of "
        "the original's value. The worse end of its interval counts; with `by: value` the value does.",
    )
    min_speedup: dict[Provider, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        default_factory=dict,
        description="Provider -> how many times faster, at every batch size and number of threads: the lower "
        "end of the interval.",
    )
    max_latency_ms: dict[Provider, PositiveFloat] = Field(
        default_factory=dict,
        description="Provider -> median at the first batch size and number of threads: the upper end of its "
        "interval.",
    )
    max_file_bytes: PositiveInt | None = None
    min_compression: PositiveFloat | None = Field(
        None, description="Original parameters over those that are left."
    )


def _by_loss(value: object) -> object:
    """Take the name of a loss for an objective with its defaults."""
    return {"loss": value} if isinstance(value, str) else value


class Spec(Section):
    """A whole spec. Every key but `version` has a default."""

    version: Annotated[Literal[1], BeforeValidator(whole)]
    data: Data | None = Field(None, description="Without it the model is compressed in one shot.")
    objective: Annotated[
        Objective, BeforeValidator(_by_loss, json_schema_input_type=Loss | Objective)
    ] = Field(Objective(), description="The name of a loss alone stands for its defaults.")
    train: Train = Train()
    prune: tuple[Prune, ...] = ()
    quantize: tuple[Quantize, ...] = ()
    schedule: Schedule = Schedule()
    benchmark: Benchmark = Benchmark()
    gates: Gates = Gates()
    pack: Literal["none", "auto"] = Field(
        "none",
        description="auto: tensors with few different values or many zeros are stored as short streams that "
        "ONNX Runtime unpacks when it makes the session, and exporters' debugging notes (stack traces) go. The file "
        "shrinks, the speed stays.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.prune and not self.quantize and self.pack == "none":
            raise ValueError("nothing to do; add a prune or a quantize section")
        if self.data is None and self.int8:
            raise ValueError(
                "quantize needs data to calibrate the activations; add data.train, drop quantize, or give it "
                "activations: none"
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

    @property
    def resolved_schedule(self) -> Schedule:
        """The schedule with the progressive steps that suit the rates."""
        return self.schedule.resolved(high_rate=any(p.high_rate for p in self.prune))

    @property
    def int8(self) -> bool:
        """Whether any layer gets int8 activations."""
        return any(q.int8 is not None for q in self.quantize)

    @property
    def level_epochs(self) -> Length:
        """How long ADMM trains towards the levels of `quantize`."""
        if self.data is None or not self.quantize:
            return 0
        if self.schedule.quantize is not None:
            return self.schedule.quantize
        return 0 if all(q.weights.is_int8 for q in self.quantize) else self.schedule.epochs

    @model_validator(mode="after")
    def _gates_name_metrics(self) -> Self:
        for name in self.gates.max_drop:
            if name not in get_args(Metric) and name != self.objective.resolved_metric:
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
