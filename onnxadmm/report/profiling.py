"""Profiles of several models side by side, in words and rows: where the time goes, what fused, what fell back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt

if TYPE_CHECKING:
    from onnxadmm.report.document import ModelFacts
    from onnxadmm.report.profiles import FallbackFacts, LayerFacts, ProfileFacts

Models = Mapping[str, "ModelFacts"]
"""Name -> facts, the original first."""

OPEN_ROWS = 12
MAX_ROWS = 400
MAX_FUSIONS = 8
# Less than this share of a run isn't worth a sentence.
WORTH_SAYING = 0.01


@dataclass(frozen=True)
class TimeCell:
    """The time of a row in one model; empty where it has none."""

    ms: str = ""
    share: str = ""
    percent: float = 0.0


@dataclass(frozen=True)
class TimeRow:
    """An operator or a layer, with its time in each model."""

    label: str
    detail: str
    cells: tuple[TimeCell, ...]
    weight: float
    """Its largest share of a run in any model."""


@dataclass(frozen=True)
class ProfileView:
    """What is shown of one provider.

    Attributes:
        provider: Its name as people write it.
        batch_size: The profiled batch size.
        models: The models that were profiled.
        totals: The time of all nodes in each.
        operators: Slowest first.
        layers: In the order that they run in.
        fusions: Model -> what became of what, one line each.
        fallbacks: One line each.
    """

    provider: str
    batch_size: int
    models: tuple[str, ...]
    totals: tuple[str, ...]
    operators: tuple[TimeRow, ...]
    layers: tuple[TimeRow, ...]
    fusions: tuple[tuple[str, tuple[str, ...]], ...]
    fallbacks: tuple[str, ...]


@dataclass
class _Group:
    """A row while it is being filled: time by model."""

    label: str
    detail: str
    ms: dict[str, float] = field(default_factory=dict)


def views(models: Models) -> list[ProfileView]:
    """Return the profiles of each provider, side by side."""
    found = []
    for provider in sorted({p for m in models.values() for p in m.latency}):
        profiles = _profiles(models, provider)
        if not profiles:
            continue
        operators = sorted(_rows(_by_operator(profiles), profiles), key=lambda r: -r.weight)
        found.append(
            ProfileView(
                provider=fmt.provider(provider),
                batch_size=next(iter(profiles.values())).batch_size,
                models=tuple(profiles),
                totals=tuple(fmt.milliseconds(p.run_ms) for p in profiles.values()),
                operators=tuple(operators[:MAX_ROWS]),
                layers=tuple(_rows(_by_layer(profiles), profiles)[:MAX_ROWS]),
                fusions=tuple((name, _fused(p)) for name, p in profiles.items() if p.fusions),
                fallbacks=tuple(offloaded(models, provider)),
            )
        )
    return found


def slowest(rows: Sequence[TimeRow], count: int = OPEN_ROWS) -> list[TimeRow]:
    """Return the rows that take most of a run in any model, in the order given."""
    chosen = sorted(range(len(rows)), key=lambda i: -rows[i].weight)[:count]
    return [rows[i] for i in sorted(chosen)]


def offloaded(models: Models, only: str | None = None) -> list[str]:
    """Say which nodes run on the CPU though a GPU was asked for, why, and what that costs."""
    said = []
    for provider in sorted({p for m in models.values() for p in m.latency}):
        if only not in (None, provider):
            continue
        for name, profile in _profiles(models, provider).items():
            if profile.fallbacks or profile.copies:
                said.append(_offloaded(name, fmt.provider(provider), profile))
    return said


def _offloaded(name: str, provider: str, profile: ProfileFacts) -> str:
    total = sum(o.nodes for o in profile.operators)
    away = sum(f.nodes for f in profile.fallbacks)
    ms = sum(f.ms for f in profile.fallbacks)
    text = (
        f"{one_line(name, 60)} on {provider}: {fmt.count(away)} of {fmt.plural(total, 'node')} "
        f"{'runs' if away == 1 else 'run'} on the CPU instead"
    )
    if away:
        text += f", {fmt.share(ms, profile.run_ms)} of a run's time"
        reasons = [_because(f) for f in profile.fallbacks]
        text += (
            f" ({'; '.join(reasons[:4])}{f'; {len(reasons) - 4} more' if len(reasons) > 4 else ''})"  # noqa: PLR2004
        )
    if profile.copies:
        text += (
            f". {fmt.plural(profile.copies, 'copy', 'copies')} between the memories "
            f"{'takes' if profile.copies == 1 else 'take'} {fmt.share(profile.copies_ms, profile.run_ms)}, "
            "and at each the GPU waits for the CPU"
        )
    if away and ms + profile.copies_ms < WORTH_SAYING * profile.run_ms:
        text += ". That is too little to matter here"
    return f"{text}."


def _because(fallback: FallbackFacts) -> str:
    times = f"{fallback.nodes} × " if fallback.nodes > 1 else ""
    return f"{times}{one_line(fallback.operator, 40)}: {one_line(fallback.reason, 120)}"


def _profiles(models: Models, provider: str) -> dict[str, ProfileFacts]:
    found = {}
    for name, model in models.items():
        latency = model.latency.get(provider)
        if latency is not None and latency.profile is not None:
            found[name] = latency.profile
    return found


def _rows(groups: Sequence[_Group], profiles: Mapping[str, ProfileFacts]) -> list[TimeRow]:
    rows = []
    for group in groups:
        cells, weight = [], 0.0
        for name, profile in profiles.items():
            ms = group.ms.get(name)
            if ms is None:
                cells.append(TimeCell())
                continue
            share = ms / profile.run_ms if profile.run_ms else 0.0
            weight = max(weight, share)
            shown = fmt.share(ms, profile.run_ms) if ms else f"0{fmt.SPACE}%"
            cells.append(TimeCell(fmt.milliseconds(ms), shown, 100 * min(1.0, share)))
        rows.append(TimeRow(group.label, group.detail, tuple(cells), weight))
    return rows


def _by_operator(profiles: Mapping[str, ProfileFacts]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    several = len({o.provider for p in profiles.values() for o in p.operators}) > 1
    for name, profile in profiles.items():
        for entry in profile.operators:
            label = one_line(entry.operator, 60)
            if several:
                label += f" on {fmt.provider(entry.provider)}"
            group = groups.setdefault(label, _Group(label, ""))
            group.ms[name] = group.ms.get(name, 0.0) + entry.ms
    return list(groups.values())


def _by_layer(profiles: Mapping[str, ProfileFacts]) -> list[_Group]:
    """Align the layers of all models by the nodes that they stand for.

    Surgery keeps the names of nodes. Where models fuse differently, a layer goes with the one of the first
    model that holds its name or most of its nodes; what only one has gets a row of its own.
    """
    order: list[_Group] = []
    by_node: dict[str, _Group] = {}
    by_layer: dict[str, _Group] = {}
    for name, profile in profiles.items():
        place = 0
        for layer in profile.layers:
            group = by_layer.get(layer.layer) or _nearest(layer, by_node)
            if group is None:
                group = _Group(one_line(layer.layer, 80), "")
                order.insert(place, group)
            place = order.index(group) + 1
            by_layer.setdefault(layer.layer, group)
            for node in layer.nodes:
                by_node.setdefault(node, group)
            group.ms[name] = group.ms.get(name, 0.0) + layer.ms
            if layer.operator not in group.detail.split(" → "):
                group.detail += f"{' → ' if group.detail else ''}{one_line(layer.operator, 60)}"
    return order


def _nearest(layer: LayerFacts, by_node: Mapping[str, _Group]) -> _Group | None:
    found = [by_node[n] for n in layer.nodes if n in by_node]
    return max(found, key=lambda g: sum(f is g for f in found)) if found else None


def _fused(profile: ProfileFacts) -> tuple[str, ...]:
    return tuple(_fusions(profile))


def _fusions(profile: ProfileFacts) -> Iterator[str]:
    for fusion in profile.fusions[:MAX_FUSIONS]:
        times = f", {fmt.count(fusion.count)} times" if fusion.count > 1 else ""
        yield f"{one_line(fusion.parts, 160)} → {one_line(fusion.into, 80)}{times}"
    more = len(profile.fusions) - MAX_FUSIONS
    if more > 0:
        yield f"{fmt.plural(more, 'more kind')}"
