"""Packing: a held tensor becomes a few short streams that ONNX Runtime turns back when it loads the model.

What pruning and quantization earned is then in the file and not only in the weights: a tensor of few
different values costs their entropy, a sparse one the entropy of its places besides, up to a few percent.
The value keeps its name; a chain of calls of the decoders (`onnxadmm.compact.unpacking`) computes it. The
content is the same to the last bit, but that minus zero becomes zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.compact.coding import (
    MAX_BASE,
    Digits,
    Positions,
    Symbols,
    encode_positions,
    encode_symbols,
)
from onnxadmm.compact.unpacking import (
    DOMAIN,
    SMALLEST_IR_VERSION,
    SMALLEST_OPSET,
    add_functions,
    decoder_bytes,
)
from onnxadmm.graph import constant_of
from onnxadmm.graph.holding import hold, value_names

Array = np.ndarray[Any, Any]

SMALLEST_TENSOR_BYTES = 256
"""What is smaller can't gain more than its streams' names cost."""
LARGEST_TENSOR = 1 << 26
"""Elements; decoding takes up to 40 bytes each, for a moment, when a session is made."""
LARGEST_LEVEL = 127
_CALL_BYTES = 60
_HELD_BYTES = 15
_PACKABLE = "fiu"


@dataclass(frozen=True)
class Packing:
    """How one tensor is stored.

    Attributes:
        tensor: Its name.
        kind: What it is: `levels` or `sparse levels` (few different values), `sparse` (the values as they
            are).
        dense_bytes: What it took before.
        packed_bytes: What its streams, tables and scales take, without nodes and names.
        entropy_bytes: The entropy of its values and places under their own frequencies, with the table
            (and scales); no code of independent symbols takes less.
    """

    tensor: str
    kind: str
    dense_bytes: int
    packed_bytes: int
    entropy_bytes: float


@dataclass(frozen=True)
class _Streams:
    places: Positions | None
    symbols: Symbols | None
    table: Array
    scales: Array | None
    kind: str

    @property
    def nbytes(self) -> int:
        parts = (self.places, self.symbols, self.table, self.scales)
        return sum(p.nbytes for p in parts if p is not None)

    @property
    def sink(self) -> str | None:
        """The decoder that puts values or codes at their places; None for those of all places."""
        if self.places is None:
            return None
        if self.table.dtype != np.float32:
            name = "scatter"
        else:
            name = "spread" if self.symbols is None else "fill"
        return f"{name}1" if self.places.remainders is None else name

    @property
    def calls(self) -> list[str]:
        """The decoders, as often as they are called."""
        streams = 0 if self.symbols is None else sum(1 for _ in self.symbols.streams)
        made = ["escape"] * (streams - 1)
        if self.places is not None:
            streams += 1 if self.places.remainders is None else 2
        made += ["base"] * streams
        if self.sink is not None:
            made.append(self.sink)
        if self.sink is None or self.sink.startswith("scatter"):
            made.append("lookup")
            if self.symbols is None:
                made.append("order")
        return made if self.scales is None else [*made, "scaled"]

    @property
    def overhead(self) -> int:
        """About what calls and names take."""
        held = self.calls.count("base") + (1 if self.scales is None else 2)
        return len(self.calls) * _CALL_BYTES + held * _HELD_BYTES


def pack_tensors(model: ir.Model) -> list[Packing]:
    """Pack every tensor of the main graph that gets smaller by it, in place.

    Args:
        model: The graph. Names, opset and interface stay; the decoders come as functions of the domain
            `admm`.

    Returns:
        What was done, tensor by tensor; nothing where the opset is below 12 or the IR version below 8.
    """
    if model.opset_imports.get("", 0) < SMALLEST_OPSET or model.ir_version < SMALLEST_IR_VERSION:
        return []
    chosen = []
    for value in ops.held_tensors(model):
        content = constant_of(value)
        if content is None or not _may_pack(model.graph, value, content):
            continue
        if content.dtype.kind == "f":
            # A masked weight may be minus zero; for the coder that would be another value.
            content = content + content.dtype.type(0)
        streams = min(_choices(content), key=lambda s: s.nbytes + s.overhead, default=None)
        if streams is not None and streams.nbytes + streams.overhead < content.nbytes:
            chosen.append((value, content, streams))
    gain = sum(c.nbytes - s.nbytes - s.overhead for _, c, s in chosen)
    needed = {name for _, _, s in chosen for name in s.calls}
    if gain <= decoder_bytes(needed, model.opset_imports[""]):
        return []
    writer = _Writer(model)
    done = []
    for value, content, streams in chosen:
        writer.write(value, content, streams)
        entropy = _entropy_bytes(content, streams)
        name = value.name or ""
        done.append(Packing(name, streams.kind, content.nbytes, streams.nbytes, entropy))
    writer.finish()
    return done


def _may_pack(graph: ir.Graph, value: ir.Value, content: Array) -> bool:
    producer = value.producer()
    here = graph if producer is None else producer.graph
    return (
        # What a branch holds is decoded nowhere.
        here is graph
        and (producer is not None or graph.initializers.get(value.name or "") is value)
        and content.dtype.kind in _PACKABLE
        and content.dtype.isnative
        and content.dtype.itemsize <= 8  # noqa: PLR2004
        and content.nbytes >= SMALLEST_TENSOR_BYTES
        and content.size <= LARGEST_TENSOR
        and not value.is_graph_input()
        and not value.is_graph_output()
    )


def _choices(content: Array) -> Iterator[_Streams]:
    """Yield the ways to store this content."""
    bits = content.reshape(-1).view(f"u{content.dtype.itemsize}")
    values, codes = _ranked(bits)
    if len(values) <= min(MAX_BASE, content.size // 2):
        yield from _levels(codes, values.view(content.dtype), None)
    if content.dtype == np.float32 and content.ndim > 1:
        for axis in range(min(content.ndim, 2)):
            found = find_scales(content, axis)
            if found is not None:
                levels, scales = found
                ranked, codes = _ranked(levels.reshape(-1))
                yield from _levels(codes, ranked.astype(np.float32), scales)
    there = np.flatnonzero(bits)
    if 0 < len(there) <= content.size * 3 // 4:
        table = np.concatenate([bits[there], np.zeros(1, bits.dtype)]).view(content.dtype)
        yield _Streams(encode_positions(there, len(bits)), None, table, None, "sparse")


def _ranked(flat: Array) -> tuple[Array, Array]:
    """Return the different values, the most frequent first, and each element's rank."""
    values, codes, counts = np.unique(flat, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return values[order], rank[codes.reshape(-1)]


def _levels(codes: Array, values: Array, scales: Array | None) -> Iterator[_Streams]:
    yield _Streams(None, encode_symbols(codes, len(values)), values, scales, "levels")
    zero = np.flatnonzero(values.view(f"u{values.dtype.itemsize}") == 0)
    if not len(zero) or len(values) == 1:
        return
    # The zero is the last of the table: `scatter` fills with -1.
    at = int(zero[0])
    table = np.concatenate([np.delete(values, at), values[at : at + 1]])
    there = np.flatnonzero(codes != at)
    kept = codes[there]
    kept = kept - (kept > at)
    places = encode_positions(there, len(codes))
    yield _Streams(places, encode_symbols(kept, len(values) - 1), table, scales, "sparse levels")


def find_scales(content: Array, axis: int) -> tuple[Array, Array] | None:
    """Find whole numbers and a scale for each index of an axis whose float32 product is the content.

    Args:
        content: float32 weights.
        axis: The scales' axis.

    Returns:
        Levels int8, |level| <= 127, in the content's shape, and scales float32 that broadcast to it; None
        where any row is on no such grid. `levels * scales` in float32 equals the content, but for the sign of zeros.
    """
    rows = np.moveaxis(content, axis, 0).reshape(content.shape[axis], -1)
    peaks = np.abs(rows).max(1)
    # A sample of each row decides quickly; the whole row then confirms.
    sample = rows[:, :: max(1, rows.shape[1] // 64)]
    scales = np.ones(len(rows), np.float32)
    open_rows = peaks > 0
    for top in range(1, LARGEST_LEVEL + 1):
        # peak is level * scale rounded once, and rounded again here: two steps to either side.
        middle = (peaks / np.float32(top)).astype(np.float32).view(np.int32)
        for step in (0, -1, 1, -2, 2):
            scale = (middle + step).view(np.float32)
            rest = np.flatnonzero(open_rows)
            if not len(rest):
                break
            fits = rest[_on_grid(sample[rest], scale[rest])]
            fits = fits[_on_grid(rows[fits], scale[fits])]
            scales[fits] = scale[fits]
            open_rows[fits] = False
    if open_rows.any():
        return None
    levels = np.rint(rows / scales[:, None])
    shape = [1] * content.ndim
    shape[axis] = -1
    moved = np.moveaxis(content, axis, 0)
    whole = np.moveaxis(levels.reshape(moved.shape), 0, axis).astype(np.int8)
    spread = scales.reshape(shape)
    return (whole, spread) if np.array_equal(whole.astype(np.float32) * spread, content) else None


def _on_grid(rows: Array, scales: Array) -> Array:
    with np.errstate(all="ignore"):
        levels = np.rint(rows / scales[:, None]).astype(np.float32)
        fits: Array = (levels * scales[:, None] == rows) & (np.abs(levels) <= LARGEST_LEVEL)
        return np.asarray(fits.all(1))


def _entropy_bytes(content: Array, streams: _Streams) -> float:
    """Return the entropy of the elements as independent symbols, with the table and scales."""
    flat = content.reshape(-1).view(f"u{content.dtype.itemsize}")
    if streams.scales is not None:
        flat = np.rint(content / streams.scales).reshape(-1).astype(np.int64)
    sides = streams.table.nbytes + (0 if streams.scales is None else streams.scales.nbytes)
    if streams.kind == "sparse":
        # Values that stand in the table as they are; only the places have an entropy.
        flat = (flat != 0).astype(np.uint8)
    shares = np.unique(flat, return_counts=True)[1] / flat.size
    return float(-(shares * np.log2(shares)).sum() * flat.size / 8 + sides)


class _Writer:
    """Writes streams into a graph, all calls before its first node."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._used: set[str] = set()
        self._nodes: list[ir.Node] = []
        self._taken = value_names(model.graph)
        self._number = 0

    def write(self, value: ir.Value, content: Array, streams: _Streams) -> None:
        """Replace what the graph holds by what computes it; the name stays."""
        shape = list(content.shape)
        if streams.sink is not None and not streams.sink.startswith("scatter"):
            # The zero that other types need at the end of the table stays away.
            read = [self._hold(streams.table[:-1])]
            if streams.symbols is not None:
                read.append(self._symbols(streams.symbols))
            tensor = self._at_places(streams, read, shape)
        else:
            codes = self._codes(streams, content.size)
            tensor = self._call("lookup", [self._hold(streams.table), codes], s=shape)
        if streams.scales is not None:
            tensor = self._call("scaled", [tensor, self._hold(streams.scales)])
        value.replace_all_uses_with(tensor)
        producer = value.producer()
        if producer is None:
            self._model.graph.initializers.pop(value.name or "")
        else:
            self._model.graph.remove(producer, safe=True)
        tensor.name = value.name

    def finish(self) -> None:
        """Insert the calls and the decoders."""
        if not self._nodes:
            return
        first = next(iter(self._model.graph), None)
        if first is None:
            self._model.graph.extend(self._nodes)
        else:
            self._model.graph.insert_before(first, self._nodes)
        for node in self._nodes:
            # The graph has given names, which the file needn't hold.
            node.name = None
        add_functions(self._model, sorted(self._used))

    def _codes(self, streams: _Streams, size: int) -> ir.Value:
        if streams.places is None:
            assert streams.symbols is not None
            return self._symbols(streams.symbols)
        codes = (
            self._call("order", [], n=streams.places.count)
            if streams.symbols is None
            else self._symbols(streams.symbols)
        )
        return self._at_places(streams, [codes], [size])

    def _symbols(self, symbols: Symbols) -> ir.Value:
        common = self._digits(symbols.common)
        if symbols.rare is None:
            return common
        rare = self._symbols(symbols.rare)
        return self._call("escape", [common, rare], l=symbols.common.base - 1)

    def _at_places(self, streams: _Streams, read: list[ir.Value], shape: list[int]) -> ir.Value:
        places, sink = streams.places, streams.sink
        assert places is not None
        assert sink is not None
        bits = self._digits(places.quotients)
        if places.remainders is None:
            return self._call(sink, [bits, *read], s=shape)
        remainders = self._digits(places.remainders)
        return self._call(sink, [bits, remainders, *read], d=places.divisor, s=shape)

    def _digits(self, digits: Digits) -> ir.Value:
        words = self._hold(digits.words[:, None])
        powers = [digits.base ** (i + 1) for i in range(digits.per_word)]
        return self._call("base", [words], p=powers, n=[digits.count])

    def _call(self, function: str, inputs: list[ir.Value], **numbers: Any) -> ir.Value:
        self._used.add(function)
        node = ir.Node(
            DOMAIN,
            function,
            inputs,
            ir.convenience.convert_attributes(numbers),
            outputs=[ir.Value(name=self._name())],
        )
        self._nodes.append(node)
        return node.outputs[0]

    def _hold(self, content: Array) -> ir.Value:
        value = hold(self._model.graph, self._name(), content)
        # The tensor says it: the file needn't hold it twice.
        value.shape = value.type = None
        return value

    def _name(self) -> str:
        # Short: a small model's names are a good part of its file.
        while True:
            self._number += 1
            name = str(self._number)
            if name not in self._taken:
                self._taken.add(name)
                return name
