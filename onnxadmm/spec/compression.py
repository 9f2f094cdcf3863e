"""What is taken away: the sections `prune` and `quantize`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from onnxadmm.spec.sections import Layers, PositiveInt, Section, Share, whole


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
        "has the choice: parameters (the default there) and macs are those of all layers that hold the channels.",
    )
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="layer: each class loses the same share. global, of structure channel: `amount` is one "
        "budget for all classes that match, and those of the highest score a `unit` stay.",
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

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.scope == "global":
            if self.structure != "channel":
                raise ValueError(
                    f"scope: global does not go with structure: {self.structure}; use channel"
                )
            return self
        by_channel = self.structure in ("channel", "filter", "input_channel")
        wanted = "channels" if by_channel else "parameters"
        if self.unit not in (None, wanted):
            raise ValueError(
                f"unit: {self.unit} does not go with structure: {self.structure}; use {wanted}"
            )
        return self


class WeightQuantization(Section):
    """How weights are stored."""

    bits: Annotated[Literal[8], BeforeValidator(whole)] = 8
    granularity: Literal["channel", "tensor"] = Field(
        "channel", description="One scale an output channel, or one a tensor."
    )


class ActivationQuantization(Section):
    """How activations are stored between operators."""

    bits: Annotated[Literal[8], BeforeValidator(whole)] = 8
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
