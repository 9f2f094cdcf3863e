"""What a spec means where it leaves something out, and which combinations have no meaning."""

from __future__ import annotations

import pytest

from onnxadmm.errors import SpecError
from onnxadmm.quantize import BINARY, TERNARY, level_table, power_levels, uniform_levels
from onnxadmm.spec import parse_spec

DATA = {"train": {"inputs": {"x": "x.npy"}}}


@pytest.mark.parametrize(
    ("prune", "schedule", "steps"),
    [
        ({"structure": "unstructured", "amount": 0.9}, {}, 2),
        ({"structure": "unstructured", "amount": 0.89}, {}, 1),
        ({"structure": "channel", "amount": 0.7}, {"epochs": 8}, 2),
        ({"structure": "channel", "amount": 0.69}, {"epochs": 8}, 1),
        ({"structure": "channel", "amount": 0.9}, {"epochs": 7}, 1),
        ({"structure": "filter", "amount": 0.75}, {"epochs": {"steps": 500}}, 2),
        ({"structure": "channel", "amount": 0.9}, {"steps": 1}, 1),
        ({"structure": "channel", "amount": 0.1}, {"steps": 3}, 3),
    ],
)
def test_high_rates_come_in_two_steps_where_there_is_time(prune, schedule, steps):
    spec = parse_spec({"version": 1, "data": DATA, "prune": [prune], "schedule": schedule})
    assert spec.resolved_schedule.steps == steps


@pytest.mark.parametrize(
    ("entry", "levels", "int8", "epochs"),
    [
        ({}, uniform_levels(8), True, 0),
        ({"weights": {"bits": 8}, "activations": "none"}, uniform_levels(8), False, 0),
        ({"weights": {"bits": 4}}, uniform_levels(4), False, 7),
        ({"weights": {"bits": 4}, "activations": {"bits": 8}}, uniform_levels(4), True, 7),
        ({"weights": {"levels": "binary"}}, BINARY, False, 7),
        ({"weights": {"levels": "ternary"}, "activations": {}}, TERNARY, True, 7),
        ({"weights": {"levels": "powers_of_two"}}, power_levels(4), False, 7),
        ({"weights": {"levels": "powers_of_two", "bits": 6}}, power_levels(6), False, 7),
    ],
)
def test_what_a_quantize_entry_means(entry, levels, int8, epochs):
    document = {"version": 1, "data": DATA, "quantize": [entry], "schedule": {"epochs": 7}}
    spec = parse_spec(document)
    assert level_table(spec.quantize[0].weights) == levels
    assert spec.int8 == int8
    assert spec.level_epochs == epochs
    assert parse_spec({**document, "schedule": {"quantize": 3}}).level_epochs == 3
    del document["data"]
    if int8:
        with pytest.raises(SpecError, match="needs data to calibrate"):
            parse_spec(document)
    else:
        assert parse_spec(document).level_epochs == 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"weights": {"levels": "binary", "bits": 2}}, "does not go with levels: binary; drop it"),
        ({"weights": {"levels": "powers_of_two", "bits": 7}}, "use 2 to 6"),
        ({"weights": {"levels": "powers_of_two", "bits": 5}, "activations": {}}, "use 4 bits"),
        ({"weights": {"bits": 9}}, "less than or equal to 8"),
        ({"weights": {"bits": True}}, "valid integer"),
    ],
)
def test_levels_without_a_meaning_are_refused(entry, said):
    with pytest.raises(SpecError, match=said):
        parse_spec({"version": 1, "data": DATA, "quantize": [entry]})
