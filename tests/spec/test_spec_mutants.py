"""Every single mistake in a whole spec: refused in one line that names the key, or a spec all the same."""

from __future__ import annotations

import copy

import pytest
import yaml
from spec_samples import WHOLE

from onnxadmm.errors import SpecError
from onnxadmm.spec import dump_spec, parse_spec

GOOD = parse_spec(WHOLE).model_dump(mode="json", exclude_none=True)

# Mappings whose keys are the user's own words.
FREE = {("data", "train", "inputs"), ("data", "evaluate", "inputs")}
# Arguments of torch's classes: it is torch that is asked, before anything runs.
TORCHS = {("schedule", "optimizer", "options"), ("schedule", "lr_schedule", "options")}


def places(node, path=()):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key), value
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def put(path, value):
    mutant = copy.deepcopy(GOOD)
    at(mutant, path[:-1])[path[-1]] = value
    return mutant


def renamed(path, key):
    mutant = copy.deepcopy(GOOD)
    section = at(mutant, path[:-1])
    items = [(key if k == path[-1] else k, v) for k, v in section.items()]
    section.clear()
    section.update(items)
    return mutant


def dropped(path):
    mutant = copy.deepcopy(GOOD)
    del at(mutant, path[:-1])[path[-1]]
    return mutant


def refused_values(value):
    """Return what can never stand in this value's place."""
    common = [None, float("nan"), float("inf"), -float("inf"), 10**30, "a\x1b[31mb", [[value]]]
    if isinstance(value, bool):
        return [*common, "yes", 2, 0.5, [], {}]
    if isinstance(value, int | float):
        extra = [value + 0.5] if isinstance(value, int) else []
        return [*common, str(value), True, [value], {"v": value}, -abs(value) - 1, "", *extra]
    if isinstance(value, str):
        return [*common, "", 7, 0.5, True, {"v": value}, "x" * 5000]
    if isinstance(value, list):
        return [*common, 3, "text!", {"v": 1}, True]
    return [*common, 3, "text!", True, [[k, v] for k, v in value.items()]]


def accepted_or_refused_values(value):
    """Return what may or may not be meant, but must not break anything."""
    if isinstance(value, int | float):
        return [0, 10**18, 1]
    if isinstance(value, str):
        return [value[::-1], "../../etc/passwd", [value]]
    return [[], value + value[:1], value[::-1]] if isinstance(value, list) else [{}]


def check_refusal(mutant, path):
    with pytest.raises(SpecError) as caught:
        parse_spec(mutant)
    said = str(caught.value)
    assert len(said) <= 300
    assert said.isprintable()
    # What to do about it.
    assert "; " in said
    name = next(k for k in reversed(path) if isinstance(k, str))
    assert name in said, (path, said)


def accepted(mutant):
    """Return the spec and "", or None and the refusal."""
    try:
        return parse_spec(mutant), ""
    except SpecError as e:
        return None, str(e)


@pytest.mark.parametrize(("path", "value"), list(places(GOOD)), ids=lambda p: None)
def test_every_mutant_is_refused_by_name_or_is_a_spec(path, value):
    for wrong in refused_values(value):
        meant = {
            "layers": wrong == "text!",
            "mean": isinstance(wrong, float) and wrong < 0,
            "threads": wrong == [value],
        }
        if path[:-1] in TORCHS:
            spec, said = accepted(put(path, wrong))
            assert spec is not None or (len(said) <= 300 and said.isprintable())
        elif not any(meant.get(key) for key in path):
            check_refusal(put(path, wrong), path)
    for odd in accepted_or_refused_values(value):
        spec, said = accepted(put(path, odd))
        if spec is None:
            assert len(said) <= 300
            continue
        # What was accepted says what was asked for, and not a default.
        if odd != {}:
            assert at(spec.model_dump(mode="json", exclude_none=True), path) == odd
        assert parse_spec(dump_spec(spec)) == spec
    if isinstance(path[-1], str):
        if path[:-1] not in FREE | TORCHS:
            check_refusal(renamed(path, path[-1] + "x"), (*path[:-1], path[-1] + "x"))
            check_refusal({**put(path, value), "bogus": 1}, ("bogus",))
            sibling = put((*path[:-1], "bogus_key"), 1)
            check_refusal(sibling, ("bogus_key",))
        spec, said = accepted(dropped(path))
        assert spec is not None or len(said) <= 300


def test_a_mutant_reads_the_same_as_yaml_text():
    for path, value in list(places(GOOD))[::7]:
        for wrong in refused_values(value)[::3]:
            mutant = put(path, wrong)
            text = yaml.safe_dump(mutant, sort_keys=False)
            assert accepted(text)[0] == accepted(mutant)[0], (path, wrong)
