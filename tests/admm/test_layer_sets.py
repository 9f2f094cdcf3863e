"""Sets of one weight against brute force over every member's support, in every layout of the weight."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxadmm.admm import LAYER_STRUCTURES, Layout, Unreachable, make_layer_set
from onnxadmm.admm.sets import (
    Blocks,
    Columns,
    Filters,
    InputChannels,
    KernelPatterns,
    NOfM,
    pattern_library,
)
from onnxadmm.spec import Prune

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1e-20, 1e15]).map(np.float32)
# As Conv, ConvTranspose, Gemm with transB and MatMul store [outputs 3, inputs 2, positions 2 or 1].
STORED = {
    "conv": ((3, 2, 2), Layout(0, 1)),
    "transposed": ((2, 3, 2), Layout(1, 0)),
    "gemm": ((3, 2), Layout(0, 1)),
    "matmul": ((2, 3), Layout(1, 0)),
    "recurrent": ((2, 3, 2), Layout(1, 2)),
}
LIBRARY = ((True, False), (False, True))


def place(index, layout):
    """Return (output, input, position) of an element of a stored weight, position counted by hand."""
    rest = [i for axis, i in enumerate(index) if axis not in (layout.outputs, layout.inputs)]
    return index[layout.outputs], index[layout.inputs], rest[0] if rest else 0


def groups_of(kind, shape, layout):
    """Return the group of each element, by the definitions in ALGORITHMS' words, element by element."""
    positions = np.prod(shape) // (shape[layout.outputs] * shape[layout.inputs])
    named = {
        Filters: lambda o, i, p: o,
        InputChannels: lambda o, i, p: i,
        Columns: lambda o, i, p: (i, p),
        Blocks: lambda o, i, p: (o // 2, (i * positions + p) // 3),
        NOfM: lambda o, i, p: (o, (i * positions + p) // 2),
        KernelPatterns: lambda o, i, p: (o, i),
    }[kind]
    return {index: named(*place(index, layout)) for index in np.ndindex(*shape)}


def supports(kind, keep, shape, layout):
    """Yield the support of every maximal member of the set, as a set of indices."""
    groups = groups_of(kind, shape, layout)
    names = sorted(set(groups.values()))
    if kind in (Filters, InputChannels, Columns, Blocks):
        for chosen in itertools.combinations(names, min(keep, len(names))):
            yield {i for i, g in groups.items() if g in chosen}
        return
    inside = {n: [i for i, g in groups.items() if g == n] for n in names}
    if kind is NOfM:
        choices = [
            [set(c) for c in itertools.combinations(inside[n], min(keep, len(inside[n])))]
            for n in names
        ]
    else:
        choices = [
            [{i for i in inside[n] if pattern[place(i, layout)[2]]} for pattern in LIBRARY]
            for n in names
        ]
    # Groups don't overlap: the best member takes the best of each.
    yield choices


def made(kind, keep, shape, layout):
    extra = {Blocks: ((2, 3),), NOfM: (2,)}.get(kind, ())
    if kind is KernelPatterns:
        return kind("w", shape, layout, LIBRARY)
    return kind("w", shape, layout, keep, *extra)


def energy(weight, indices):
    return sum(float(weight[i]) ** 2 for i in indices)


KINDS = [Filters, InputChannels, Columns, Blocks, NOfM, KernelPatterns]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.structure)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_member_is_closer_and_the_projection_is_a_member(kind, data):
    shape, layout = STORED[data.draw(st.sampled_from(sorted(STORED)))]
    if kind is KernelPatterns and len(shape) == 2:
        shape, layout = STORED["conv"]
    weight = data.draw(hnp.arrays(np.float32, shape, elements=VALUES))
    keep = data.draw(st.integers(0, 2))
    constraint = made(kind, keep, shape, layout)
    held = {"w": torch.from_numpy(weight)}
    got = constraint.project(held)["w"]
    mask = constraint.masks(held)["w"].expand(shape).numpy()
    kept = {i for i in np.ndindex(*shape) if mask[i]}
    # Where it keeps, it keeps the weight itself; elsewhere it is zero.
    assert torch.equal(got, torch.where(torch.from_numpy(mask), held["w"], 0.0))
    allowed = list(supports(kind, keep, shape, layout))
    if kind in (NOfM, KernelPatterns):
        for choices in allowed[0]:
            ours = kept & set().union(*choices) if choices else set()
            assert any(ours <= c for c in choices)
            assert energy(weight, ours) >= max(energy(weight, c) for c in choices) * (1 - 1e-12)
    else:
        assert any(kept <= s for s in allowed)
        assert energy(weight, kept) >= max(energy(weight, s) for s in allowed) * (1 - 1e-12)
    assert torch.equal(constraint.project({"w": got})["w"], got)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.structure)
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_of_equal_scores_the_first_stay(kind, value):
    constraint = made(kind, 1, (4, 4, 2), Layout())
    mask = constraint.masks({"w": torch.full((4, 4, 2), value)})["w"].flatten(1)
    expected = {
        Filters: [[True] * 8] + [[False] * 8] * 3,
        InputChannels: [[True, True] + [False] * 6] * 4,
        Columns: [[True] + [False] * 7] * 4,
        Blocks: [[True] * 3 + [False] * 5] * 2 + [[False] * 8] * 2,
        NOfM: [[True, False] * 4] * 4,
        KernelPatterns: [[True, False] * 4] * 4,
    }[kind]
    assert mask.tolist() == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.structure)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(kind, bad):
    weight = torch.ones(3, 2, 2)
    weight[1, 1, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        made(kind, 1, (3, 2, 2), Layout()).project({"w": weight})


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.structure)
def test_tightening_ends_at_the_set_and_starts_wide(kind):
    constraint = made(kind, 1, (8, 4, 2), Layout())
    assert constraint.tightened(1.0) == constraint
    weight = {"w": torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(0))}
    counts = [
        int((constraint.tightened(s).project(weight)["w"] != 0).sum()) for s in (0.0, 0.5, 1.0)
    ]
    assert counts == sorted(counts, reverse=True)
    if kind is not KernelPatterns:
        assert counts[0] == 64


def test_a_library_holds_the_patterns_that_most_kernels_would_choose():
    kernels = torch.zeros(1, 6, 2, 2)
    for channel, (a, b) in enumerate([(0, 1), (2, 3), (2, 3), (1, 2), (1, 2), (2, 3)]):
        kernels[0, channel].view(-1)[[a, b]] = 1.0 + channel
    found = pattern_library(kernels, Layout(), 2, 2)
    assert found == ((False, False, True, True), (False, True, True, False))
    assert pattern_library(torch.ones(2, 2, 2, 2), Layout(), 1, 5) == ((True, False, False, False),)


@pytest.mark.parametrize("structure", LAYER_STRUCTURES)
def test_every_structure_of_a_spec_takes_about_the_share_that_is_asked_for(structure):
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    rule = Prune(structure=structure, amount=0.5)
    made_set = make_layer_set("w", weight, Layout(), rule)
    left = (made_set.project({"w": weight})["w"] != 0).double().mean().item()
    assert left == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("structure", sorted(set(LAYER_STRUCTURES) - {"pattern"}))
def test_a_rate_that_leaves_nothing_is_refused_with_its_bound(structure):
    rule = Prune(structure=structure, amount=0.999)
    with pytest.raises(Unreachable, match=r"at most 0\.[0-9]+ can go"):
        make_layer_set("w", torch.ones(8, 8), Layout(), rule)


def test_a_matrix_has_no_kernel_patterns():
    rule = Prune(structure="pattern", amount=0.5)
    assert make_layer_set("w", torch.ones(4, 4), Layout(), rule) is None
