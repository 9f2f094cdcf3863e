"""Where the time of a run goes, as a document says it."""

from __future__ import annotations

from pydantic import Field

from onnxadmm.report.fields import Count, Facts, Items, NonNegative, PositiveInt


class OperatorFacts(Facts):
    """All nodes of one operator on one provider."""

    operator: str
    provider: str
    nodes: Count
    ms: NonNegative = Field(description="In a run.")


class LayerFacts(Facts):
    """A layer of the model with what was fused into it."""

    layer: str = Field(description="Name of its first node with weights, or of its last node.")
    nodes: Items[str] = Field(
        (), description="The model's nodes; empty for what ONNX Runtime put in."
    )
    operator: str = Field(description="What computes it in the graph that runs.")
    provider: str
    ms: NonNegative = Field(description="In a run.")


class FusionFacts(Facts):
    """Nodes that became one."""

    parts: str = Field(description="Operators of the model.")
    into: str = Field(description="What runs instead.")
    count: PositiveInt


class FallbackFacts(Facts):
    """Nodes that run elsewhere than on the provider that was asked for."""

    operator: str
    provider: str
    nodes: PositiveInt
    names: Items[str] = Field((), description="The first few.")
    reason: str
    ms: NonNegative = Field(description="In a run.")


class ProfileFacts(Facts):
    """What ONNX Runtime's profiler saw, at the first batch size of a provider."""

    batch_size: PositiveInt
    runs: PositiveInt
    run_ms: NonNegative = Field(
        description="All nodes of a run. Profiling makes runs slower: compare nodes with it, not models."
    )
    operators: Items[OperatorFacts] = Field((), description="Slowest first.")
    layers: Items[LayerFacts] = Field((), description="In the order that they run in.")
    fusions: Items[FusionFacts] = Field((), description="Most frequent first.")
    fallbacks: Items[FallbackFacts] = Field((), description="Slowest first.")
    copies: Count = Field(
        0, description="Nodes that copy between the provider's memory and the CPU's."
    )
    copies_ms: NonNegative = Field(0.0, description="In a run.")
