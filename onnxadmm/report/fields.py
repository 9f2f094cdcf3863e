"""What the documents of this package are made of: strict, frozen values with their bounds."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Count = Annotated[int, Field(ge=0, lt=2**63)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Number = Annotated[float, Field()]
# Lists are welcome from Python too; what is kept can't change.
Items = Annotated[tuple[T, ...], Field(strict=False)]


class Facts(BaseModel):
    """A mapping of a document: unknown keys are errors, values are never coerced nor changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
