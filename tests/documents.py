"""The generated parts of the README. Rewrite them with `python tests/documents.py`; a test compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxadmm.ops import Operator, registered
from onnxadmm.spec import Spec

README = Path(__file__).resolve().parents[1] / "README.md"


def spec_reference() -> str:
    """Return a table of every key of the spec with its type, default and meaning."""
    schema = Spec.model_json_schema()
    rows = ["| key | takes | default | |", "|---|---|---|---|"]
    rows += list(_rows(schema, schema["$defs"], ""))
    return "\n".join(rows)


def _rows(section: dict[str, Any], definitions: dict[str, Any], path: str):
    required = set(section.get("required", ()))
    for key, field in section["properties"].items():
        inner, repeated = _section(field, definitions)
        name = f"{path}{key}"
        default = "required" if key in required else _default(field)
        if repeated and default != "required":
            default = ""
        yield f"| `{name}` | {_kind(field, definitions)} | {default} | {_text(field)} |"
        if inner is not None:
            yield from _rows(inner, definitions, f"{name}{'[]' if repeated else ''}.")


def _section(field, definitions):
    """Return the section that a field holds, and whether it is a list of them."""
    for option in field.get("anyOf", [field]):
        repeated = option.get("type") == "array"
        target = option.get("items", {}) if repeated else option
        reference = target.get("$ref") or (target.get("allOf", [{}])[0].get("$ref"))
        if reference:
            return definitions[reference.rsplit("/", 1)[-1]], repeated
    return None, False


def _kind(field, definitions) -> str:
    names = []
    for option in field.get("anyOf", [field]):
        if option.get("type") == "null":
            continue
        if "$ref" in option:
            names.append("section")
        elif "const" in option:
            names.append(f"`{option['const']}`")
        elif "enum" in option:
            names.append(", ".join(f"`{e}`" for e in option["enum"]))
        elif option.get("type") == "array":
            inner = _kind(option.get("items", option.get("prefixItems", [{}])[0]), definitions)
            names.append(f"list of {inner}")
        elif option.get("type") == "object":
            names.append("mapping")
        else:
            words = {"string": "text", "boolean": "true, false"}
            names.append(words.get(option.get("type"), str(option.get("type"))) + _bounds(option))
    return " or ".join(dict.fromkeys(names))


def _bounds(option) -> str:
    low = option.get("minimum", option.get("exclusiveMinimum"))
    high = option.get("maximum", option.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    left = "(" if "exclusiveMinimum" in option else "["
    right = ")" if "exclusiveMaximum" in option else "]"
    return f" in {left}{low:g}, {high:g}{right}" if None not in (low, high) else f" from {low:g}"


def _default(field) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    if value is None or isinstance(value, dict):
        return ""
    return f"`{json.dumps(value)}`" if value != [] else "none"


def _text(field) -> str:
    return field.get("description", "").replace("|", "\\|").replace("\n", " ")


def operator_list() -> str:
    """Return the operators that have a torch builder, with the versions that it serves."""
    trainable: dict[str, list[int]] = {}
    for (_, op, version), definition in registered().items():
        if type(definition).build is not Operator.build:
            trainable.setdefault(op, []).append(version)
    return ", ".join(
        f"{op} ({', '.join(map(str, sorted(v)))})" for op, v in sorted(trainable.items())
    )


def written(text: str) -> str:
    """Return the README with its generated parts as they should be."""
    for name, content in (("spec", spec_reference()), ("operators", operator_list())):
        begin, end = f"<!-- {name}: written by tests/documents.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
