"""How many channels of each class stay."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given
from hypothesis import strategies as st
from test_cutting import classes_of

from onnxadmm.channels import ChannelClass, Slice, is_bounded, kept_count, select
from onnxadmm.errors import SpecError
from onnxadmm.spec import Prune


def rule(amount, **more):
    return Prune(structure="channel", amount=amount, **more)


@given(
    size=st.integers(1, 3000),
    amount=st.floats(0, 0.999),
    step=st.none() | st.integers(1, 64),
    least=st.integers(1, 100),
)
def test_kept_counts_are_aligned_and_never_too_few(size, amount, step, least):
    kept = kept_count(size, rule(amount, round_to=step, min_channels=least))
    used = step or (8 if size >= 32 else 1)
    assert min(least, size) <= kept <= size
    # What isn't a multiple is all there is, or the minimum asked for.
    assert kept % used == 0 or kept in (size, least)
    if kept % used == 0 and used < kept < size:
        assert abs(kept - size * (1 - amount)) <= used / 2 + 1e-6 or kept == least


@pytest.mark.parametrize(("size", "kept"), [(31, 16), (32, 16), (40, 24), (33, 16), (64, 32)])
def test_half_of_32_channels_and_more_is_a_multiple_of_8(size, kept):
    assert kept_count(size, rule(0.5)) == kept


@pytest.fixture
def network():
    b = Builder(0, 3, 6)
    b.conv(40)
    b.conv(36, w=b.weight(36, 40, 3, 3, name="second.weight"))
    b.branch()
    b.head("pool")
    _, _, classes = classes_of(b.model())
    return list(classes.values())


def test_the_last_entry_that_matches_a_class_holds_with_all_of_its_keys(network):
    first, second = [c for c in network if c.size in (40, 36)][:2]
    kept = select(
        network,
        [
            rule(0.5),
            rule(0.5, layers=first.layers[0], round_to=1),
            rule(0.65, layers="second.*", min_channels=13, round_to=1),
        ],
        {second.layers[0]: ["second.weight"]},
    )
    assert kept[first.name] == 20
    assert kept[second.name] == 13
    others = [c for c in network if not c.fixed and c not in (first, second)]
    assert {kept[c.name] for c in others} == {kept_count(c.size, rule(0.5)) for c in others}
    assert select(network, [rule(0.5), rule(0.0, layers=first.name)], {}).keys() == {
        c.name for c in network if not c.fixed
    } - {first.name}


def test_a_second_class_of_one_layer_has_a_name_to_choose_it_by():
    b = Builder(1, 3, 6)
    b.conv(9)
    b.split()
    b.head("pool")
    _, _, classes = classes_of(b.model())
    numbered = [n for n in classes if n.endswith("#2")]
    assert numbered
    kept = select(list(classes.values()), [rule(0.5, layers="*[#]2", min_channels=1)], {})
    assert list(kept) == [n for n in numbered if not classes[n].fixed]


def test_a_glob_that_matches_nothing_names_what_is_near(network):
    with pytest.raises(SpecError, match="did you mean"):
        select(network, [rule(0.5, layers=network[0].name + "x")], {})


@pytest.mark.parametrize(
    ("amount", "more", "said"),
    [
        (0.9, {}, r"prune entry 2: .* the default round_to of 8 keeps 8; at most 0\.777777 can go"),
        (0.95, {"round_to": 6}, r"round_to 6 keeps 6; at most 0\.833333 can go"),
        (0.9, {"round_to": 1, "min_channels": 9}, r"min_channels 9 keeps 9; at most 0\.75 can go"),
        (0.99, {"round_to": 1}, r"leaves 0\.36 of the 36 .*; at most 0\.944444 can go"),
    ],
)
def test_an_amount_that_a_class_cannot_lose_is_refused_with_its_bound(network, amount, more, said):
    weights = {c.layers[0]: ["second.weight"] for c in network if c.size == 36}
    single = Prune(structure="unstructured", amount=0.5)
    with pytest.raises(SpecError, match=said):
        select(network, [single, rule(amount, layers="second.*", **more)], weights)


def test_a_floor_holds_for_the_classes_that_it_is_meant_for(network):
    smallest = min(c.size for c in network if not c.fixed)
    floor = rule(0.5, round_to=1, min_channels=smallest - 1)
    kept = select(network, [floor], {})
    assert {kept[c.name] for c in network if not c.fixed and c.size == smallest} == {smallest - 1}
    assert is_bounded(smallest, floor)
    # Where no class can lose what is asked, the entry is refused.
    with pytest.raises(SpecError, match="at most"):
        select(network, [rule(0.99, round_to=1, min_channels=smallest - 1)], {})


@given(size=st.integers(2, 200), amount=st.floats(0, 0.999), step=st.none() | st.integers(1, 40))
def test_what_is_accepted_is_met_to_half_a_step(size, amount, step):
    positions = np.arange(size)
    c = ChannelClass("c", size, ("c",), (Slice("w", 0, positions),), 1, None, positions)
    wanted = rule(amount, round_to=step)
    try:
        kept = select([c], [wanted], {}).get("c", size)
    except SpecError as e:
        bound = float(str(e).split("at most ")[1].split()[0])
        assert amount > bound
        assert select([c], [rule(bound, round_to=step)], {}).get("c", size) < size
        return
    least = min(size, max(step or (8 if size >= 32 else 1), wanted.min_channels))
    if least < size:
        assert abs(kept - size * (1 - amount)) <= (step or (8 if size >= 32 else 1)) / 2 + 1e-6
