"""Typed access to a node's attributes, with the standard's defaults."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def number(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def text(node: ir.Node, name: str, default: str) -> str:
    """Return a string attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def integers(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """Return a list of integers."""
    attribute = node.attributes.get(name)
    return list(default if attribute is None else attribute.as_ints())
