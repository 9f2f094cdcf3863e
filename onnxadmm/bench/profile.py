"""Where the time of a run goes: ONNX Runtime's own profile, read by operator and by layer.

Profiling makes runs slower, so the times are for comparing nodes with each other; how long the model takes is
measured without it. ONNX Runtime counts whole microseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from onnxadmm.bench.providers import short_name
from onnxadmm.bench.regions import Node, Region, regions

NO_KERNEL = "the provider has no kernel for this operator with these types"
NOT_THESE = "the provider's kernel doesn't take these attributes or shapes"
PREFERRED = "ONNX Runtime prefers the CPU for small work on shapes"
UNSAID = "ONNX Runtime doesn't say why"
SHOWN_NAMES = 5
MOST_PARTS = 6

_TIMED = "_kernel_time"
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
_REASONS = (
    (re.compile(r"kernel not found in registries for Op type: (\S+) node name: (.*)"), NO_KERNEL),
    (re.compile(r"kernel not supported\. Fallback .* Op type: (\S+) node name: (.*)"), NOT_THESE),
    (re.compile(r"()Force fallback to CPU execution for node: (.*?)(?: because.*)?$"), PREFERRED),
)


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """All nodes of one operator on one provider; `ms` in a run."""

    operator: str
    provider: str
    nodes: int
    ms: float


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer of the model, with what was fused into it; `ms` in a run.

    Attributes:
        layer: The name of its first node with weights, or of its last node.
        nodes: The names of the model's nodes that it stands for; empty for what ONNX Runtime put in.
        operator: What computes it: operators of the graph that runs, joined by ` + `.
        provider: Where; several are joined.
        ms: Time in a run.
    """

    layer: str
    nodes: tuple[str, ...]
    operator: str
    provider: str
    ms: float


@dataclass(frozen=True, slots=True)
class Fusion:
    """Nodes that became one: `Conv + Relu` into `Conv`, so many times."""

    parts: str
    into: str
    count: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """Nodes that run elsewhere than on the provider that was asked for; `ms` in a run."""

    operator: str
    provider: str
    nodes: int
    names: tuple[str, ...]
    reason: str
    ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a run goes.

    Attributes:
        runs: So many runs are in it.
        run_ms: The time of all nodes in a run.
        operators: Slowest first.
        layers: In the order that they run in.
        fusions: The most frequent first; empty where ONNX Runtime doesn't write down the graph that it runs.
        fallbacks: Slowest first.
        copies: Nodes that copy between the provider's memory and the CPU's.
        copies_ms: Their time in a run.
    """

    runs: int
    run_ms: float
    operators: tuple[OperatorTime, ...]
    layers: tuple[LayerTime, ...]
    fusions: tuple[Fusion, ...]
    fallbacks: tuple[Fallback, ...]
    copies: int
    copies_ms: float

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for a pipe."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_plain` wrote."""
        kinds = {
            "operators": OperatorTime,
            "layers": LayerTime,
            "fusions": Fusion,
            "fallbacks": Fallback,
        }
        lists = {
            key: tuple(
                kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
                for entry in values[key]
            )
            for key, kind in kinds.items()
        }
        return cls(**{**values, **lists})


@dataclass(slots=True)
class _Timed:
    """A node of the graph that runs, with the time of each of its runs in µs."""

    name: str
    operator: str
    provider: str
    us: list[int] = field(default_factory=list)

    def run_ms(self, runs: int) -> float:
        """Return its time in a run, in ms: the mean of the middle half, since some runs were interrupted."""
        times = sorted(self.us)
        cut = len(times) // 4
        middle = times[cut : len(times) - cut]
        return sum(middle) / len(middle) * len(times) / runs / 1e3


def read_profile(
    events: Sequence[Mapping[str, Any]],
    runs: int,
    provider: str,
    *,
    log: Iterable[str] = (),
    source: Sequence[Node] = (),
    optimized: Sequence[Node] = (),
) -> Profile:
    """Read a profile.

    Args:
        events: What ONNX Runtime wrote (Chrome's trace events).
        runs: How many of the last runs to read; those before them warmed up.
        provider: The one that was asked for, by its short name.
        log: Lines of the session's log, which say why nodes are not on the provider.
        source: The model's nodes in topological order.
        optimized: Those of the graph that runs; without them a node is a layer by itself.
    """
    timed = _nodes(events, runs)
    total = {n.name: n.run_ms(runs) for n in timed}
    kept = [n for n in optimized if n.name in total]
    listed = {n.name for n in kept}
    found = regions(source, list(optimized)) if kept else []
    where = {n.name: n.provider for n in timed}
    layers = [layer for r in found if (layer := _layer(r, total, where)) is not None]
    # Without the graph that runs, and for nodes that are only in the profile.
    layers += [
        LayerTime(n.name, (), n.operator, n.provider, total[n.name])
        for n in timed
        if n.name not in listed
    ]
    copies = [n for n in timed if n.operator in _COPIES]
    return Profile(
        runs=runs,
        run_ms=sum(total.values()),
        operators=_operators(timed, total),
        layers=tuple(layers),
        fusions=_fusions(found),
        fallbacks=_fallbacks(timed, total, provider, log),
        copies=len(copies),
        copies_ms=sum(total[n.name] for n in copies),
    )


def _nodes(events: Sequence[Mapping[str, Any]], runs: int) -> list[_Timed]:
    """Return the nodes of the last runs, in the order they ran; those inside another node are part of it."""
    begins = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    since = begins[-runs] if len(begins) >= runs else 0
    found: dict[str, _Timed] = {}
    busy: dict[Any, int] = {}
    own = [
        e
        for e in events
        if e.get("cat") == "Node" and str(e.get("name")).endswith(_TIMED) and e["ts"] >= since
    ]
    # A node with a subgraph is written when it ends, after those within it.
    for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
        until = busy.get(event.get("tid"), -1)
        if event["ts"] < until and event["ts"] + event["dur"] <= until:
            continue
        busy[event.get("tid")] = event["ts"] + event["dur"]
        facts = event.get("args", {})
        name = event["name"].removesuffix(_TIMED)
        node = found.setdefault(
            name,
            _Timed(name, str(facts.get("op_name", "")), short_name(str(facts.get("provider", "")))),
        )
        node.us.append(int(event["dur"]))
    return list(found.values())


def _layer(
    region: Region, total: Mapping[str, float], where: Mapping[str, str]
) -> LayerTime | None:
    timed = [n for n in region.optimized if n.name in total]
    if not timed:
        return None
    return LayerTime(
        region.layer,
        tuple(n.name for n in region.source if n.operator != "Constant"),
        " + ".join(n.operator for n in timed),
        ", ".join(dict.fromkeys(where[n.name] for n in timed)),
        sum(total[n.name] for n in timed),
    )


def _operators(timed: Sequence[_Timed], total: Mapping[str, float]) -> tuple[OperatorTime, ...]:
    found: dict[tuple[str, str], list[float]] = {}
    for node in timed:
        found.setdefault((node.operator, node.provider), []).append(total[node.name])
    listed = [OperatorTime(*key, nodes=len(ms), ms=sum(ms)) for key, ms in found.items()]
    return tuple(sorted(listed, key=lambda o: -o.ms))


def _fusions(found: Sequence[Region]) -> tuple[Fusion, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for region in found:
        if len(region.parts) > max(1, len(region.into)):
            counts[_chain(region.parts), _chain(region.into)] += 1
    return tuple(Fusion(*key, count=n) for key, n in counts.most_common())


def _chain(parts: Sequence[str]) -> str:
    """`3 × DequantizeLinear + Conv + Relu`: neighbours that are alike are counted."""
    said: list[str] = []
    for operator, count in _runs_of(parts):
        said.append(operator if count == 1 else f"{count} × {operator}")
    more = len(said) - MOST_PARTS
    return " + ".join(said[:MOST_PARTS]) + (f" and {more} more" if more > 0 else "")


def _runs_of(parts: Sequence[str]) -> Iterator[tuple[str, int]]:
    start = 0
    for i in range(1, len(parts) + 1):
        if i == len(parts) or parts[i] != parts[start]:
            yield parts[start], i - start
            start = i


def _fallbacks(
    timed: Sequence[_Timed], total: Mapping[str, float], provider: str, log: Iterable[str]
) -> tuple[Fallback, ...]:
    """Return what runs elsewhere, by operator and reason; nothing where the CPU was asked for."""
    if provider == "cpu":
        return ()
    by_name, by_operator = _reasons(log)
    groups: dict[tuple[str, str, str], list[_Timed]] = {}
    for node in timed:
        # A GPU's other provider is the GPU too.
        if node.provider == "cpu" and node.operator not in _COPIES:
            reason = by_name.get(node.name) or by_operator.get(node.operator) or UNSAID
            groups.setdefault((node.operator, node.provider, reason), []).append(node)
    found = [
        Fallback(
            operator,
            where,
            len(nodes),
            tuple(n.name for n in nodes[:SHOWN_NAMES]),
            reason,
            sum(total[n.name] for n in nodes),
        )
        for (operator, where, reason), nodes in groups.items()
    ]
    return tuple(sorted(found, key=lambda f: -f.ms))


def _reasons(log: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return why nodes are not on the provider: by node name, and by operator."""
    by_name: dict[str, str] = {}
    by_operator: dict[str, str] = {}
    for line in log:
        for pattern, reason in _REASONS:
            said = pattern.search(line)
            if said:
                by_name.setdefault(said[2].strip(), reason)
                if said[1]:
                    by_operator.setdefault(said[1], reason)
    return by_name, by_operator
