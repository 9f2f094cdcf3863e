"""The document: what `report.json` holds, strict, frozen and versioned.

The descriptions here are the reference: they are what the published JSON schema
(`onnxadmm/report/report.schema.json`) says. Every number carries its unit in its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from onnxadmm.errors import InputError, one_line
from onnxadmm.report.fields import Count, Document, Facts, Items, NonNegative, Number, PositiveInt
from onnxadmm.report.timing import BatchLatency, LatencyFacts, SpeedupFacts, Timed, numbered

VERSION: Literal[2] = 2
"""Of the format. Version 1, whose schema is `report.schema.1.json`, is still read."""

MAX_DEPTH = 32


class ModelFacts(Facts):
    """What one model weighs, costs and scores."""

    file_bytes: Count = Field(description="The model file, external data included.")
    parameters: Count = Field(description="Weights stored, zeros included.")
    nonzero_parameters: Count
    macs: Count = Field(description="Multiply-accumulates of one sample.")
    metrics: dict[str, Number] = Field(default_factory=dict)
    latency: dict[str, LatencyFacts] = Field(
        default_factory=dict, description="Provider (cpu, cuda) -> latency."
    )
    peak_memory_bytes: Count | None = Field(
        None, description="Peak resident memory that a session and its runs add to a process."
    )
    session_s: NonNegative | None = Field(None, description="Seconds to create a session.")

    def timed(self) -> list[Timed]:
        """Return the settings that it was timed under, in order."""
        found = [Timed(p, None, b) for p, facts in self.latency.items() for b in facts.batches]
        found += [
            Timed(p, t, b)
            for p, facts in self.latency.items()
            for t, batches in facts.more_threads.items()
            for b in batches
        ]
        return sorted(found, key=lambda s: s.order)

    def latency_at(self, setting: Timed) -> BatchLatency | None:
        """Return its numbers under a setting."""
        facts = self.latency.get(setting.provider)
        if facts is None:
            return None
        found = (
            facts.batches
            if setting.threads is None
            else facts.more_threads.get(setting.threads, {})
        )
        return found.get(setting.batch)


class MetricChange(Facts):
    """How far the change of a metric can be trusted: its 95 % interval over the held-out samples.

    The models are compared sample by sample, so that only samples on which they differ widen it.
    """

    low: Number = Field(description="Lower end of compressed minus original.")
    high: Number = Field(description="Upper end.")
    relative_low: Number | None = Field(
        None, description="Lower end of the change as a share of the original. Null: that is 0."
    )
    relative_high: Number | None = Field(None, description="Upper end.")
    samples: PositiveInt


class Ratios(Facts):
    """Original over compressed: how many times smaller. Null where compressed is 0."""

    file_bytes: NonNegative | None
    parameters: NonNegative | None
    nonzero_parameters: NonNegative | None
    macs: NonNegative | None
    peak_memory_bytes: NonNegative | None = None
    metrics: dict[str, Number] = Field(
        default_factory=dict, description="Metric -> compressed minus original."
    )
    metric_changes: dict[str, MetricChange] = Field(
        default_factory=dict, description="Metric -> interval of its change."
    )
    latency: dict[str, SpeedupFacts] = Field(
        default_factory=dict, description="Provider -> speedup at the first batch size."
    )
    speedup: dict[str, dict[str, SpeedupFacts]] = Field(
        default_factory=dict, description="Provider -> batch size (as text) -> speedup."
    )
    speedup_more_threads: dict[str, dict[str, dict[str, SpeedupFacts]]] = Field(
        default_factory=dict,
        description="Provider -> further numbers of threads (as text) -> batch size -> speedup.",
    )

    @classmethod
    def between(
        cls,
        original: ModelFacts,
        compressed: ModelFacts,
        speedup: Mapping[str, Mapping[int, SpeedupFacts]] | None = None,
        *,
        more_threads: Mapping[str, Mapping[int, Mapping[int, SpeedupFacts]]] | None = None,
        metric_changes: Mapping[str, MetricChange] | None = None,
    ) -> Self:
        """Compare two models.

        Args:
            original: The reference.
            compressed: What became of it.
            speedup: Provider -> batch size -> speedup; the first batch size heads its provider.
            more_threads: Provider -> further numbers of threads -> batch size -> speedup.
            metric_changes: Metric -> interval of its change.
        """
        measured = {p: dict(batches) for p, batches in (speedup or {}).items() if batches}
        memory = None
        if original.peak_memory_bytes is not None and compressed.peak_memory_bytes is not None:
            memory = _over(original.peak_memory_bytes, compressed.peak_memory_bytes)
        return cls(
            file_bytes=_over(original.file_bytes, compressed.file_bytes),
            parameters=_over(original.parameters, compressed.parameters),
            nonzero_parameters=_over(original.nonzero_parameters, compressed.nonzero_parameters),
            macs=_over(original.macs, compressed.macs),
            peak_memory_bytes=memory,
            metrics={
                name: compressed.metrics[name] - value
                for name, value in original.metrics.items()
                if name in compressed.metrics
            },
            latency={p: next(iter(batches.values())) for p, batches in measured.items()},
            speedup={
                p: {str(b): facts for b, facts in batches.items()}
                for p, batches in measured.items()
            },
            speedup_more_threads={
                p: {str(t): {str(b): s for b, s in batches.items()} for t, batches in by.items()}
                for p, by in (more_threads or {}).items()
            },
            metric_changes=dict(metric_changes or {}),
        )

    def timed(self) -> list[Timed]:
        """Return the settings of which the speedup is known, in order."""
        found = [Timed(p, None, b) for p, batches in self.speedup.items() for b in batches]
        found += [
            Timed(p, t, b)
            for p, by_threads in self.speedup_more_threads.items()
            for t, batches in by_threads.items()
            for b in batches
        ]
        return sorted(found, key=lambda s: s.order)

    def speedup_at(self, setting: Timed) -> SpeedupFacts | None:
        """Return the speedup under a setting."""
        found = self.speedup.get(setting.provider, {})
        if setting.threads is not None:
            found = self.speedup_more_threads.get(setting.provider, {}).get(setting.threads, {})
        return found.get(setting.batch)

    @field_validator("speedup_more_threads")
    @classmethod
    def _keys_are_threads(
        cls, value: dict[str, dict[str, dict[str, SpeedupFacts]]]
    ) -> dict[str, dict[str, dict[str, SpeedupFacts]]]:
        return {
            provider: {t: numbered(batches) for t, batches in numbered(by_threads).items()}
            for provider, by_threads in value.items()
        }

    @field_validator("speedup")
    @classmethod
    def _keys_are_sizes(
        cls, value: dict[str, dict[str, SpeedupFacts]]
    ) -> dict[str, dict[str, SpeedupFacts]]:
        return {provider: numbered(batches) for provider, batches in value.items()}


class Verification(Facts):
    """The proof: the cut graph computes what the masked one did, the import what the ONNX did."""

    cut_vs_masked_max_error: NonNegative | None = Field(None, description="Null: not measured.")
    import_max_error: NonNegative | None = Field(
        None, description="Trainable module against ONNX Runtime. Null: not measured."
    )
    tolerance: NonNegative | None = Field(None, description="For cut against masked.")
    import_tolerance: NonNegative | None = Field(None, description="For the import.")
    samples: Count = 0
    passed: bool


class Gate(Facts):
    """A goal of the spec, and whether it was met. Not measured is not met."""

    name: str = Field(description="Key of the spec's gates, dotted: max_drop.accuracy.")
    limit: Number
    value: Number | None = Field(None, description="Null: could not be measured.")
    passed: bool
    message: str


class ChannelClass(Facts):
    """Channels that live and die together, counted along the axes that carry them."""

    model_config = ConfigDict(populate_by_name=True)

    class_name: str = Field(alias="class")
    members: Items[str] = Field((), description="Nodes or weights that carry the class.")
    size: Count
    kept: Count
    fixed: bool = False
    reason: str | None = Field(None, description="Why the class is fixed.")

    @model_validator(mode="after")
    def _keeps_what_it_has(self) -> Self:
        if self.kept > self.size:
            raise ValueError(f"keeps {self.kept} of {self.size} channels")
        return self


class Residuals(Facts):
    """Relative ADMM residuals of one constraint."""

    primal: NonNegative
    dual: NonNegative


class Epoch(Facts):
    """One epoch of training."""

    epoch: Count = Field(description="Counted over the whole run.")
    stage: Literal["admm", "retrain"]
    step: Count = Field(description="Progressive step.")
    loss: Number
    metric: Number | None = Field(None, description="The objective's metric on held-out data.")
    rho: NonNegative | None = None
    primal: NonNegative | None = Field(None, description="Relative primal residual.")
    dual: NonNegative | None = Field(None, description="Relative dual residual.")
    seconds: NonNegative
    constraints: dict[str, Residuals] = Field(default_factory=dict)


class PackedTensor(Facts):
    """A tensor that the file stores as streams, unpacked by ONNX Runtime when it makes the session."""

    tensor: str
    kind: Literal["levels", "sparse levels", "sparse"]
    dense_bytes: Count
    packed_bytes: Count = Field(description="Streams, tables and scales, without nodes and names.")
    entropy_bytes: NonNegative = Field(
        description="Of its elements as independent symbols, with tables and scales."
    )


class Unmeasured(Facts):
    """Something asked for that could not be measured."""

    what: str
    reason: str


class Stage(Facts):
    """A stage of the run and how long it took."""

    name: str
    seconds: NonNegative


class Report(Document):
    """The whole document."""

    version: Literal[2] = Field(VERSION, description="Of this format.")
    onnxadmm: str = Field(description="The version that wrote it.")
    created: str | None = Field(None, description="ISO date; null in a reproducible document.")
    model: str = Field(description="File name of the original.")
    spec: dict[str, JsonValue] = Field(description="As resolved, every default written out.")
    seed: Count
    original: ModelFacts
    compressed: ModelFacts
    pruned: ModelFacts | None = Field(None, description="After cutting, before quantization.")
    ratios: Ratios = Field(description="Original against compressed.")
    pruned_ratios: Ratios | None = Field(None, description="Original against pruned.")
    verification: Verification
    gates: Items[Gate] = ()
    channels: Items[ChannelClass] = ()
    packing: Items[PackedTensor] = ()
    history: Items[Epoch] = ()
    warnings: Items[str] = ()
    unmeasured: Items[Unmeasured] = ()
    stages: Items[Stage] = ()
    environment: dict[str, str | int] = Field(default_factory=dict)

    @field_validator("spec")
    @classmethod
    def _plain_and_finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        _refuse_odd_values(value, 0)
        return value

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "report.json") -> Self:
        """Read a document of this version or an older one.

        Args:
            text: JSON.
            name: The file's name, for messages.

        Raises:
            InputError: It is not a report that this version reads; names the file and the field.
        """
        try:
            return cls.model_validate_json(_upgraded(text))
        except ValidationError as e:
            raise InputError(explain_document(e, one_line(name, 80))) from None


def report_schema() -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of `report.json`."""
    return Report.schema_document()


def _upgraded(text: str | bytes) -> str | bytes:
    """Return a version 1 document as one of version 2, which only adds fields; others as they are."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text  # whoever reads it says what is wrong
    older = isinstance(document, dict) and type(document.get("version")) is int
    if older and document["version"] == 1:
        return json.dumps({**document, "version": VERSION})
    return text


def _over(original: int, compressed: int) -> float | None:
    if original == compressed:
        return 1.0
    return original / compressed if compressed else None


def _refuse_odd_values(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}, not a finite number")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_odd_values(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _refuse_odd_values(item, depth + 1)


def explain_document(
    error: ValidationError, name: str, newest: int = VERSION, document: str = "report.json"
) -> str:
    """Turn pydantic's list into one line about the first thing that is wrong.

    Args:
        error: What pydantic found.
        name: The file's name.
        newest: The newest version of the format that is read.
        document: What such a file is called.
    """
    errors = error.errors(include_url=False)
    version = next((e for e in errors if e["loc"] == ("version",)), None)
    if version is not None and isinstance(version["input"], int) and version["input"] > newest:
        got = one_line(version["input"], 20)
        return (
            f"{name}: version {got} is newer than this onnxadmm reads ({newest}); upgrade onnxadmm"
        )
    # A misspelt name is both missing and unknown; the unknown one is what the file says.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "json_invalid":
        return f"{name}: not JSON: {one_line(first['ctx']['error'], 120)}; give a {document}"
    where = one_line(".".join(str(part) for part in first["loc"]) or "the document", 80)
    if first["type"] == "missing":
        return f"{name}: field {where} is missing; give a {document} that onnxadmm wrote"
    if first["type"] == "extra_forbidden":
        return f"{name}: unknown field {where}; give a {document} that onnxadmm wrote"
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {where}: {message[0].lower()}{message[1:]}; give an unchanged {document}"
