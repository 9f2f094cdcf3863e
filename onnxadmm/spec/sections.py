"""What every section of a spec is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Share = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Layers = Text | Annotated[tuple[Text, ...], Field(min_length=1)]


def whole(value: object) -> object:
    """Refuse `true` and `1.0` for a 1: a Literal compares with ==, and would take them."""
    if isinstance(value, bool | float):
        raise ValueError("should be a whole number")  # noqa: TRY004  (pydantic reports ValueErrors)
    return value


class Section(BaseModel):
    """A mapping of the spec: unknown keys are errors, values are never coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
