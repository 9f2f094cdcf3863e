"""What is taken away: the sections `prune` and `quantize`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from onnxadmm.spec.sections import Layers, PositiveInt, Section, Share, whole

INT8_BITS = 8
HIGH_RATE = 0.9
HIGH_CHANNEL_RATE = 0.7
MOST_POWER_BITS = 6
"""More powers of two than that a float32 weight can't use."""
MOST_INT8_POWER_BITS = 4
"""The largest power is then 64."""


class Prune(Section):
    """Take a share of something away from the layers that match.

    A layer is matched by globs over node names and weight names, a class of coupled channels by its own
    name too, which `inspect` shows. Of several entries of one structure that match, the last one holds,
    with its `round_to` and `min_channels`.
    """

    layers: Layers = "*"
    structure: Literal[
        "channel",
        "unstructured",
        "filter",
        "input_channel",
        "shape",
        "block",
        "n_of_m",
        "pattern",
    ] = Field(
        description="channel: coupled channels, cut from the graph. The others zero parts of each weight "
        "by itself, which is no speed in ONNX Runtime: unstructured (single weights), filter (outputs), "
        "input_channel (inputs), shape (columns of the GEMM view), block (tiles of it), n_of_m (so many of "
        "every `group`), pattern (kernel positions, one of `patterns` a kernel)."
    )
    amount: Share = Field(description="The share taken away, in `unit`.")
    unit: Literal["channels", "parameters", "macs"] | None = Field(
        None,
        description="channels for channel, filter and input_channel, parameters for the others; scope global "
        "has the choice: parameters (the default there) and macs are those of all layers that hold the channels or "
        "weights.",
    )
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="layer: each class, or weight, loses the same share. global, of structure channel or unstructured: "
        "`amount` is one budget for all that match; channels, or weights, of the highest score a `unit` stay.",
    )
    round_to: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Kept counts become multiples of this; by default 8 for classes of 32 and more, else 1.",
    )
    min_channels: PositiveInt = Field(2, description="A class keeps at least so many channels.")
    block: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]] = (
        Field((4, 4), description="Rows and columns of a block.")
    )
    group: Annotated[int, Field(ge=2, le=64)] = Field(
        4, description="n_of_m: the M; `amount` 0.5 of 4 is 2:4."
    )
    patterns: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="pattern: so many patterns serve a weight."
    )
    renormalise: bool = Field(
        True,
        description="Whether channels may go that a normalisation or mean is computed over; it is taken "
        "over those that stay.",
    )
    heads: Literal["dimensions", "whole"] = Field(
        "dimensions",
        description="What goes of attention heads: dimensions, the same of each head, or whole heads. One entry "
        "that says whole says it for the model.",
    )

    @property
    def high_rate(self) -> bool:
        """Whether it takes about ten times and more: the parameters between two layers fall with both."""
        whole = self.structure in ("channel", "filter", "input_channel")
        return self.amount >= (HIGH_CHANNEL_RATE if whole else HIGH_RATE)

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.scope == "global":
            if self.structure not in ("channel", "unstructured"):
                raise ValueError(
                    f"scope: global does not go with structure: {self.structure}; use channel or unstructured"
                )
            if self.structure == "channel" or self.unit == "macs":
                return self
        by_channel = self.structure in ("channel", "filter", "input_channel")
        wanted = "channels" if by_channel else "parameters"
        if self.unit not in (None, wanted):
            raise ValueError(
                f"unit: {self.unit} does not go with structure: {self.structure}; use {wanted}"
            )
        return self


class WeightQuantization(Section):
    """The levels that weights take: a scale times one of a few numbers (arXiv 1903.09769, section 3.3)."""

    levels: Literal["uniform", "binary", "ternary", "powers_of_two"] = Field(
        "uniform",
        description="uniform: whole numbers up to 2^(bits - 1) - 1 with a sign. binary: -1 and 1. ternary: those and "
        "0. powers_of_two: 0 and 1, 2, 4, … with a sign, as many as `bits` hold. What pruning zeroed stays zero.",
    )
    bits: Annotated[int, Field(ge=2, le=8)] | None = Field(
        None,
        description="By default 8 for uniform and 4 for powers_of_two, which takes 6 at most; binary and ternary "
        "have none.",
    )
    granularity: Literal["channel", "tensor"] = Field(
        "channel", description="One scale an output channel, or one a tensor."
    )

    @model_validator(mode="after")
    def _bits_fit(self) -> Self:
        if self.bits is None:
            return self
        if self.levels in ("binary", "ternary"):
            raise ValueError(f"bits: {self.bits} does not go with levels: {self.levels}; drop it")
        if self.levels == "powers_of_two" and self.bits > MOST_POWER_BITS:
            raise ValueError(
                f"bits: {self.bits} does not go with levels: powers_of_two; use 2 to {MOST_POWER_BITS}"
            )
        return self

    @property
    def resolved_bits(self) -> int:
        """The width of a level: the one asked for, or the one that suits the levels."""
        if self.bits is not None:
            return self.bits
        return {"uniform": 8, "powers_of_two": 4, "binary": 1, "ternary": 2}[self.levels]

    @property
    def is_int8(self) -> bool:
        """Whether it is the full int8 grid, which loses next to nothing without training."""
        return self.levels == "uniform" and self.resolved_bits == INT8_BITS


class ActivationQuantization(Section):
    """How activations are stored between operators."""

    bits: Annotated[Literal[8], BeforeValidator(whole)] = 8
    calibrate: Literal["minmax", "percentile", "mse", "entropy"] = Field(
        "percentile",
        description="The range that is told apart: all that was seen, all but the tails, or what loses least: in "
        "squared error, or of the histogram's shape (Kullback-Leibler).",
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        99.999, description="The share of values, in percent, that the range holds."
    )
    samples: PositiveInt = Field(512, description="So many training samples calibrate the ranges.")
    signed: bool | None = Field(
        None,
        description="int8 instead of uint8. By default what a probe finds faster on the first provider: uint8 on CPUs "
        "with VNNI.",
    )


class Quantize(Section):
    """Put the weights of the layers that match on levels, and their activations, if asked, into int8.

    With int8 activations the result holds QuantizeLinear/DequantizeLinear pairs and integer kernels run; with
    float ones the weights alone are stored small.
    """

    layers: Layers = "*"
    weights: WeightQuantization = WeightQuantization()
    activations: ActivationQuantization | Literal["none"] | None = Field(
        None,
        description="none: they stay float. By default int8 where weights are uniform of 8 bits, else none.",
    )

    @model_validator(mode="after")
    def _fits_int8(self) -> Self:
        powers = self.weights.levels == "powers_of_two"
        if self.int8 is not None and powers and self.weights.resolved_bits > MOST_INT8_POWER_BITS:
            raise ValueError(
                f"powers_of_two of {self.weights.resolved_bits} bits go beyond 127, and with int8 activations the "
                f"weights are int8; use {MOST_INT8_POWER_BITS} bits at most, or activations: none"
            )
        return self

    @property
    def int8(self) -> ActivationQuantization | None:
        """How activations become int8; None where they stay float."""
        if self.activations is None:
            return ActivationQuantization() if self.weights.is_int8 else None
        return None if self.activations == "none" else self.activations
