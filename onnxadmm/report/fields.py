"""What the documents of this package are made of: strict, frozen values with their bounds."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

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


class Document(Facts):
    """A whole document, with its JSON and the schema of that."""

    def to_json(self) -> str:
        """Return the document as JSON: keys sorted, indented by 2, a newline at the end."""
        document = self.model_dump(mode="json", by_alias=True)
        return (
            json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
            + "\n"
        )

    @classmethod
    def schema_document(cls) -> dict[str, Any]:
        """Return its JSON schema (Draft 2020-12)."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True),
        }
