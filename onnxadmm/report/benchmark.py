"""The document of a benchmark: models against the first of them. What `benchmark.json` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from onnxadmm.errors import InputError, one_line
from onnxadmm.report.document import Gate, ModelFacts, Ratios, Unmeasured, explain_document
from onnxadmm.report.fields import Document, Facts, Items
from onnxadmm.report.gates import Candidate, judge

if TYPE_CHECKING:
    from onnxadmm.spec import Gates

KIND: Literal["benchmark"] = "benchmark"


class BenchmarkedModel(Facts):
    """One model."""

    name: str
    facts: ModelFacts
    ratios: Ratios | None = Field(None, description="Against the first model; null for that one.")
    gates: Items[Gate] = Field((), description="Those of the spec, judged for this model.")


class BenchmarkReport(Document):
    """The whole document."""

    version: Literal[1] = Field(1, description="Of this format.")
    kind: Literal["benchmark"] = KIND
    onnxadmm: str = Field(description="The version that wrote it.")
    created: str | None = Field(None, description="ISO date; null in a reproducible document.")
    inputs: Literal["data", "random"] = Field(
        description="data: samples of the spec's. random: made up, of the right types and shapes."
    )
    spec: dict[str, JsonValue] = Field(
        description="What was asked for: `benchmark`, and `gates` where a spec set some."
    )
    models: Items[BenchmarkedModel] = Field(
        description="The first is what the others compare with."
    )
    warnings: Items[str] = ()
    unmeasured: Items[Unmeasured] = ()
    environment: dict[str, str | int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _first_is_the_baseline(self) -> Self:
        if not self.models or self.models[0].ratios is not None:
            raise ValueError("the first of models is what the others compare with")
        if any(m.ratios is None for m in self.models[1:]):
            raise ValueError("a model after the first has no ratios")
        return self

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All gates; with several candidates each says in its name which it is about."""
        several = len(self.models) > 2  # noqa: PLR2004  (a baseline and a candidate)
        return tuple(
            g.model_copy(update={"name": f"{m.name}: {g.name}"}) if several else g
            for m in self.models
            for g in m.gates
        )

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "benchmark.json") -> Self:
        """Read a document.

        Raises:
            InputError: It is none that this version reads; names the file and the field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as e:
            raise InputError(explain_document(e, one_line(name, 80), 1, "benchmark.json")) from None


def candidates(found: BenchmarkReport) -> dict[str, Candidate]:
    """Return the models after the first, by name, as gates look at them."""
    first = found.models[0].facts
    return {
        m.name: Candidate(first, m.facts, m.ratios, found.unmeasured, found.spec)
        for m in found.models
        if m.ratios is not None
    }


def judged(found: BenchmarkReport, gates: Gates) -> BenchmarkReport:
    """Return the document with gates judged for each model after the first."""
    verdicts = {name: tuple(judge(gates, c)) for name, c in candidates(found).items()}
    models = tuple(m.model_copy(update={"gates": verdicts.get(m.name, ())}) for m in found.models)
    return found.model_copy(update={"models": models})


def benchmark_schema() -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of `benchmark.json`."""
    return BenchmarkReport.schema_document()
