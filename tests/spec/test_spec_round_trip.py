"""A spec that was written out reads back equal, and the published schema is the model's."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from spec_samples import SMALL, WHOLE

from onnxadmm.errors import SpecError
from onnxadmm.spec import Objective, Prune, Spec, dump_spec, parse_spec, spec_schema
from onnxadmm.spec import __file__ as package

# Names that some YAML version reads as another type, and whatever else is printable.
NAMES = st.one_of(
    st.sampled_from(
        ["1e-3", "1e3", "0o17", "0x1f", "12", "1_000", "1:30", "on", "null", "~", "true", "=", "<<"]
    ),
    st.sampled_from(
        ["2001-01-01", "- a", "a: b", "a #b", "'", '"', "*a", "&a", "!a", "%a", "@", "`"]
    ),
    st.text(min_size=1, max_size=40).filter(str.isprintable),
)


@pytest.mark.parametrize("text", [SMALL, WHOLE])
def test_what_is_dumped_reads_back_equal(text):
    spec = parse_spec(text)
    assert parse_spec(dump_spec(spec)) == spec
    assert dump_spec(parse_spec(dump_spec(spec))) == dump_spec(spec)


def test_a_dump_says_every_default():
    said = yaml.safe_load(dump_spec(parse_spec(SMALL)))
    assert said["schedule"]["optimizer"]["name"] == "Adam"
    assert said["benchmark"]["rounds"] == 100


@settings(max_examples=150, deadline=None)
@given(
    layers=st.one_of(NAMES, st.lists(NAMES, min_size=1, max_size=4).map(tuple)),
    words=st.tuples(NAMES, NAMES, NAMES),
    amount=st.floats(0, 1, exclude_max=True),
    lr=st.floats(0, 100, exclude_min=True),
)
def test_any_name_and_number_survives_the_round_trip(layers, words, amount, lr):
    output, name, path = words
    spec = Spec.model_validate(
        {
            "version": 1,
            "data": {"train": {"inputs": {name: path}}},
            "objective": {"output": output},
            "prune": ({"layers": layers, "structure": "channel", "amount": amount},),
            "schedule": {"optimizer": {"lr": lr}},
        }
    )
    assert parse_spec(dump_spec(spec)) == spec


def test_a_spec_is_frozen():
    spec = parse_spec(SMALL)
    with pytest.raises(ValidationError):
        spec.seed = 3
    with pytest.raises(ValidationError):
        spec.schedule.epochs = 3


@pytest.mark.parametrize(
    ("objective", "metric", "labels"),
    [
        (Objective(), "accuracy", "class"),
        (Objective(loss="bce"), "accuracy", "float"),
        (Objective(loss="mse"), "mse", "float"),
        (Objective(loss="distill"), "agreement", "none"),
        (Objective(loss="distill", metric="accuracy"), "accuracy", "class"),
        (Objective(loss="mse", metric="agreement"), "agreement", "float"),
        (Objective(loss="own.py:focal"), "agreement", "any"),
        (Objective(loss="distill", metric="own.py:f1"), "f1", "any"),
        (Objective(loss="cross_entropy", metric="own.py:f1"), "f1", "class"),
    ],
)
def test_the_metric_follows_the_loss_unless_it_is_named(objective, metric, labels):
    assert objective.resolved_metric == metric
    assert objective.labels == labels


def test_the_name_of_a_loss_is_an_objective():
    assert parse_spec(SMALL + "objective: distill\n").objective == Objective(loss="distill")
    assert parse_spec(SMALL + 'objective: "own.py:focal"\n').objective.code == {
        "loss": "own.py:focal"
    }
    with pytest.raises(SpecError, match=r"objective\.loss: .*did you mean 'distill'"):
        parse_spec(SMALL + "objective: distil\n")


def test_unit_may_be_left_out():
    assert Prune(structure="unstructured", amount=0.5, unit="parameters").unit == "parameters"
    assert Prune(structure="unstructured", amount=0.5).unit is None


def published_schema():
    return json.loads(Path(package).with_name("spec.schema.json").read_text("utf-8"))


def test_published_spec_schema_is_the_generated_one():
    assert published_schema() == spec_schema(), (
        "write json.dumps(spec_schema(), indent=2) and a newline to spec.schema.json"
    )


@pytest.mark.parametrize("text", [SMALL, WHOLE])
def test_specs_validate_against_the_published_schema(text):
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for said in (text, dump_spec(parse_spec(text))):
        document = json.loads(
            json.dumps(parse_spec(said).model_dump(mode="json", exclude_none=True))
        )
        validator.validate(document)
        document["schedule"]["surprise"] = 1
        assert not validator.is_valid(document)


def test_every_section_of_the_schema_refuses_unknown_keys():
    schema = spec_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        assert section["description"]
