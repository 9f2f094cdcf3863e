"""Reading a spec: YAML or JSON text, strict, to a frozen `Spec`; and back to text."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec.model import Spec

# A spec is a page or two; what is larger is a mistake or an attack on the parser.
MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 20_000
SIGNED_64 = 1 << 63


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema over PyYAML: `1e-3` is a number, `on` is a word, keys don't repeat."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth = getattr(self, "depth", 0) + 1
        self.nodes = getattr(self, "nodes", 0) + 1
        if self.depth > MAX_DEPTH:
            raise SpecError(f"spec: YAML nested deeper than {MAX_DEPTH} levels; flatten it")
        if self.nodes > MAX_NODES:
            raise SpecError(f"spec: more than {MAX_NODES} YAML nodes; a spec is a page or two")
        if self.check_event(yaml.AliasEvent):
            raise SpecError("spec: YAML aliases (*name) are not allowed; write the value out")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise SpecError(
                f"spec line {event.start_mark.line + 1}: YAML tags (!name) are not allowed; write the "
                "plain value"
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise SpecError(
                    f"spec line {key_node.start_mark.line + 1}: a key must be a plain word, "
                    f"got {one_line(getattr(key_node, 'value', 'a collection'), 40)!r}"
                )
            if key_node.value in seen:
                raise SpecError(
                    f"spec line {key_node.start_mark.line + 1}: duplicate key "
                    f"{one_line(key_node.value, 60)!r}; keep one"
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave `<<` a plain key (refused as unknown): merging is how YAML bombs are built."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would read as another type: `1e-3` is text to PyYAML alone."""


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("null", r"^(?:~|null|Null|NULL)$", "~nN"),
    ("null", r"^$", ("",)),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
        )


def _construct_int(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    text = str(loader.construct_scalar(cast("yaml.ScalarNode", node)))
    if len(text) > 40:  # noqa: PLR2004  (int() is quadratic; no key takes more than 10 digits)
        raise SpecError(f"spec: the number {one_line(text, 20)} is too large; write a smaller one")
    return int(text, 0) if text.lower().startswith(("0x", "0o")) else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_spec(path: str | Path, overrides: Iterable[str] = ()) -> Spec:
    """Read a spec file (YAML or JSON).

    Args:
        path: The file, at most 1 MiB of UTF-8.
        overrides: `key=value` with a dotted key and a YAML value, as `--set` gives them.

    Raises:
        SpecError: The file can't be read, or what it says is not a spec; names the key.
    """
    name = one_line(Path(path).name, 80)
    try:
        content = _content(path)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise SpecError(f"spec {name}: {reason}; give a YAML or JSON file") from None
    if len(content) > MAX_BYTES:
        raise SpecError(f"spec {name}: larger than {MAX_BYTES} bytes; a spec is a page or two")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise SpecError(
            f"spec {name}: byte {e.start} is not UTF-8; save the file in that encoding"
        ) from None
    return parse_spec(text, overrides, name=name)


def parse_spec(
    source: str | Mapping[str, Any], overrides: Iterable[str] = (), name: str = "spec"
) -> Spec:
    """Parse a spec from YAML or JSON text, or from a mapping of plain values.

    Raises:
        SpecError: It is not a spec; names the key and, for a misspelt one, the nearest.
    """
    document = _load_yaml(source, name) if isinstance(source, str) else _copied(source, "", name)
    if not isinstance(document, dict):
        what = "empty" if document is None else f"a {type(document).__name__}"
        raise SpecError(f"{name}: the top level is {what}, not a mapping; start with `version: 1`")
    for override in overrides:
        _override(document, override)
    version = document.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and 1 < version < SIGNED_64:
        raise SpecError(f"{name}: version {version} is newer than this onnxadmm (1); upgrade it")
    _refuse_odd_values(document, "", name)
    try:
        # JSON, since strict validation takes lists for tuples only from there.
        return Spec.model_validate_json(json.dumps(document))
    except ValidationError as e:
        raise SpecError(f"{name}: {_explain(e.errors(include_url=False))}") from None


def dump_spec(spec: Spec) -> str:
    """Return the spec as YAML, every default written out."""
    document = spec.model_dump(mode="json", exclude_none=True)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _content(path: str | Path) -> bytes:
    """Return the file's first MAX_BYTES + 1 bytes; refuse what isn't a regular file."""
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _copied(value: Any, where: str, name: str, depth: int = 0) -> Any:
    """Copy a mapping of plain values, so that overrides don't reach the caller's; tuples become lists."""
    if depth > MAX_DEPTH:
        raise SpecError(f"{name}: {one_line(where, 80)} is nested too deep; flatten it")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(
                    f"{name}: key {one_line(_below(where, key), 80)} is no text; quote it"
                )
        return {k: _copied(v, _below(where, k), name, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(v, _below(where, i), name, depth + 1) for i, v in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise SpecError(
        f"{name}: {one_line(where, 80) or 'the spec'} is a {type(value).__name__}; give text, a number, a "
        "list or a mapping"
    )


def _load_yaml(text: str, name: str) -> Any:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        document = loader.get_single_data()
    except yaml.MarkedYAMLError as e:
        where = f" line {e.problem_mark.line + 1}" if e.problem_mark else ""
        what = f"{e.context or ''} {e.problem or 'not YAML'}"
        raise SpecError(
            f"{name}{where}: not valid YAML: {one_line(what, 150)}; mend it there"
        ) from None
    except yaml.YAMLError as e:
        raise SpecError(f"{name}: not valid YAML: {one_line(e, 150)}; write it anew") from None
    except (RecursionError, ValueError) as e:
        raise SpecError(f"{name}: not valid YAML: {one_line(e, 120)}; write it anew") from None
    finally:
        if loader is not None:
            loader.dispose()
    return document


def _override(document: dict[str, Any], override: str) -> None:
    """Set one dotted key of the document, in place: `schedule.epochs=3`, `prune.0.amount=0.5`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SpecError(
            f"--set {one_line(override, 80)!r}: expected key=value; write --set KEY=VALUE"
        )
    value = _load_yaml(text, f"--set {one_line(key, 60)}") if text else ""
    node: Any = document
    parts = key.split(".")
    if len(parts) > MAX_DEPTH:
        raise SpecError(
            f"--set {one_line(key, 80)}: names {len(parts)} levels, at most {MAX_DEPTH} are read; mend the key"
        )
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(node, list):
            # At most 9 digits: int() refuses thousands of them, and no list is that long.
            if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(node):
                raise SpecError(
                    f"--set {one_line(key, 80)}: {part!r} is not an index of a list of {len(node)}"
                )
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not last and part not in node:
                node[part] = {}
        else:
            raise SpecError(
                f"--set {one_line(key, 80)}: {'.'.join(parts[:position])} holds a value, not a section"
            )
        if last:
            node[index] = value
        else:
            node = node[index]


def _refuse_odd_values(value: Any, where: str, name: str) -> None:
    """Refuse what YAML can say and a spec never means: null, NaN, huge numbers, control characters."""
    shown = one_line(where, 80)
    if value is None:
        raise SpecError(f"{name}: {shown} is null (empty); give a value or drop the key")
    if isinstance(value, dict):
        for key, item in value.items():
            below = _below(where, key)
            if not key.isprintable():
                raise SpecError(
                    f"{name}: key {one_line(below, 80)} holds control characters; write plain text"
                )
            _refuse_odd_values(item, below, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_odd_values(item, _below(where, index), name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{name}: {shown} is {value}; a finite number is needed")
    elif isinstance(value, int) and not -SIGNED_64 <= value < SIGNED_64:
        # Shown in hexadecimal: Python refuses to write thousands of decimal digits.
        raise SpecError(
            f"{name}: {shown} is {one_line(hex(value), 20)}, too large for any key; write a smaller one"
        )
    elif isinstance(value, str) and not value.isprintable():
        raise SpecError(f"{name}: {shown} holds control characters; write plain text")


def _below(where: str, key: object) -> str:
    """Return the dotted name of what a section or a list holds."""
    return f"{where}.{key}" if where else str(key)


def _explain(errors: list[ErrorDetails]) -> str:
    """Turn pydantic's list into one line about the first thing to mend."""
    # A union reports a failure of each branch. The deepest one is where the user meant to be; of two
    # as deep, the one that took the value's type.
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    deepest = max(errors, key=lambda e: (len(e["loc"]), not e["type"].endswith("_type")))
    error = unknown[0] if unknown else deepest
    where = ".".join(str(p) for p in error["loc"] if not _is_branch(p)) or "the spec"
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {one_line(where, 80)}; {hint}"
    if error["type"] == "missing":
        return f"key {one_line(where, 80)} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    if error["type"] == "literal_error" and isinstance(got, str):
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = difflib.get_close_matches(got, choices, n=1, cutoff=0.5)
        message += f"; did you mean {near[0]!r}?" if near else ""
    shown = "" if isinstance(got, dict | list) else f", got {one_line(repr(got), 60)}"
    way = "" if ";" in message else "; the README's table of keys says what it takes"
    return f"{one_line(where, 80)}: {message[0].lower()}{message[1:]}{shown}{way}"


def _is_branch(part: int | str) -> bool:
    """Whether pydantic put this into the location to name a branch of a union."""
    return isinstance(part, str) and (part in _BRANCHES or "[" in part)


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the section at this location takes."""
    section: type[BaseModel] = Spec
    for part in location:
        if isinstance(part, int) or part not in section.model_fields:
            continue
        found = _section_of(section.model_fields[part].annotation)
        if found is not None:
            section = found
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for a in get_args(annotation) if (s := _section_of(a))), None)


def _sections(section: type[BaseModel]) -> set[str]:
    names = {section.__name__}
    for field in section.model_fields.values():
        found = _section_of(field.annotation)
        if found is not None:
            names |= _sections(found)
    return names


_BRANCHES = _sections(Spec) | {"bool", "constrained-int", "constrained-str", "str", "tuple"}
