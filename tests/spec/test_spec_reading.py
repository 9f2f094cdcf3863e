"""What a spec may say, what it may not, and that each refusal names the place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from spec_samples import SMALL, WHOLE

from onnxadmm.errors import SpecError
from onnxadmm.spec import Objective, Rho, parse_spec, read_spec
from onnxadmm.spec.reading import MAX_BYTES


def refusal(text, overrides=()):
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides)
    said = str(caught.value)
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) <= 300
    return said


def test_the_smallest_spec_has_every_default():
    spec = parse_spec(SMALL)
    assert spec.data is None
    assert spec.prune[0].layers == "*"
    assert spec.schedule.epochs == 10
    assert spec.schedule.rho == "auto"
    assert spec.benchmark.batch_sizes == (1,)
    assert spec.seed == 0


def test_a_whole_spec_is_read_value_by_value():
    spec = parse_spec(WHOLE)
    assert spec.data.evaluate.inputs == {"image": "test.npz#x"}
    assert spec.data.preprocess[1].normalize.std == (0.3081,)
    assert spec.prune[1].layers == ("fc*", "/head/Gemm")
    assert spec.schedule.optimizer.lr == 1e-3
    assert spec.schedule.rho == Rho(initial=0.001, growth=1.2, maximum=5.0)
    assert spec.quantize[0].activations.signed is False
    assert spec.gates.max_drop == {"accuracy": 0.001}
    assert spec.gates.min_speedup == {"cpu": 2.0}


def test_json_is_read_too():
    spec = parse_spec(WHOLE)
    assert parse_spec(json.dumps(spec.model_dump(mode="json", exclude_none=True))) == spec


def test_a_mapping_is_read_and_left_alone():
    given = {"version": 1, "prune": ({"structure": "channel", "amount": 0.5},)}
    spec = parse_spec(given, ["prune.0.amount=0.25", "seed=3"])
    assert (spec.prune[0].amount, spec.seed) == (0.25, 3)
    assert given == {"version": 1, "prune": ({"structure": "channel", "amount": 0.5},)}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("+.5", 0.5), ("2.", 2.0), ("3", 3.0), ("1e2", 100.0)],
)
def test_numbers_are_numbers(text, value):
    spec = parse_spec(f"{SMALL}schedule: {{optimizer: {{lr: {text}}}}}")
    assert spec.schedule.optimizer.lr == value


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "y", "n", "1_000", "1:30", "2001-01-01", "=", "0b1", "a: b"]
)
def test_what_only_old_yaml_converts_stays_text(word):
    quoted = f'"{word}"' if ": " in word else word
    assert parse_spec(f"{SMALL}objective: {{output: {quoted}}}").objective.output == word


def test_whole_numbers_can_be_octal_and_hexadecimal():
    assert parse_spec(f"{SMALL}seed: 0x1F").seed == 31
    assert parse_spec(f"{SMALL}seed: 0o17").seed == 15
    assert parse_spec(f"{SMALL}seed: 017").seed == 17


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sede: 1", "'seed'"),
        ("schedule: {epoch: 1}", "'epochs'"),
        ("schedule: {rho: {initail: 1.0}}", "'initial'"),
        ("schedule: {optimizer: {weigth_decay: 1.0}}", "'weight_decay'"),
        ("gates: {max_dorp: {accuracy: 0.1}}", "'max_drop'"),
        ("gates: {max_drop: {acuracy: 0.1}}", "'accuracy'"),
        ("gates: {min_speedup: {cudа: 2.0}}", "'cuda'"),
        ("data: {train: {inptus: {x: a}}}", "'inputs'"),
        ("objective: {loss: cross_entopy}", "'cross_entropy'"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(key, near):
    said = refusal(SMALL + key)
    assert near in said
    assert "did you mean" in said


def test_a_key_like_no_other_is_refused_with_those_there_are():
    assert "known are policy, initial, growth, maximum, stages" in refusal(
        SMALL + "schedule: {rho: {qqq: 1}}"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed:", "seed is null"),
        ("seed: ~", "seed is null"),
        ("schedule: {epochs: null}", "schedule.epochs is null"),
        ("benchmark: {batch_sizes: [1, null]}", "benchmark.batch_sizes.1 is null"),
        ("schedule: {tolerance: .nan}", "schedule.tolerance is nan"),
        ("schedule: {tolerance: -.inf}", "schedule.tolerance is -inf"),
        ("schedule: {tolerance: 1e999}", "schedule.tolerance is inf"),
        ("seed: '1'", "seed: input should be a valid integer, got '1'"),
        ("schedule: {tolerance: '0.1'}", "schedule.tolerance: input should be a valid number"),
        ("seed: true", "seed: input should be a valid integer, got True"),
        ("schedule: {tolerance: true}", "schedule.tolerance"),
        ("seed: 1.0", "seed: input should be a valid integer"),
        ("seed: 1.5", "seed"),
        ("seed: -1", "seed"),
        ("seed: 4294967296", "seed"),
        ("seed: 0xffffffffffffffffffffffff", "seed is 0xfff"),
        (f"seed: {'9' * 5000}", "too large"),
        ("seed: [1]", "seed"),
        ("seed: {a: 1}", "seed"),
        ("schedule: []", "schedule"),
        ("schedule: [[epochs, 1]]", "schedule"),
        ("schedule: 3", "schedule"),
        ("benchmark: {batch_sizes: {a: 1}}", "benchmark.batch_sizes"),
        ("benchmark: {batch_sizes: 1}", "benchmark.batch_sizes"),
        ("benchmark: {batch_sizes: []}", "benchmark.batch_sizes"),
        ("benchmark: {batch_sizes: [1, 1]}", "benchmark.batch_sizes: holds a value twice"),
        ("benchmark: {providers: [tpu]}", "benchmark.providers.0"),
        ("objective: {output: ''}", "objective.output"),
        ("objective: {output: 7}", "objective.output"),
        ('objective: {output: "a\\eb"}', "objective.output holds control characters"),
        ('objective: {output: "a\\nb"}', "objective.output holds control characters"),
        ('objective: {output: "\\ud800"}', "objective.output holds control characters"),
        ('gates: {max_drop: {"a\\e[31m": 0.1}}', "gates.max_drop.a"),
        ('"\\ud800": 1', "control characters"),
        ("schedule: {rho: fast}", "schedule.rho"),
        ("schedule: {rho: {growth: 0.5}}", "schedule.rho.growth"),
        ("data: {train: {inputs: {}}}", "data.train.inputs"),
        ("data: {train: {}}", "key data.train.inputs is missing"),
        ("data: {train: {inputs: {x: a}}, preprocess: [{}]}", "exactly one of scale, normalize"),
        (
            "data: {train: {inputs: {x: a}}, preprocess: [{normalize: {mean: [0], std: [1, 2]}}]}",
            "mean has 1 values and std has 2",
        ),
        ("gates: {max_drop: {bogus: 1}}", "gates.max_drop names the unknown metric 'bogus'"),
        (
            "data: {train: {inputs: {x: a}}, preprocess: [{normalize: {mean: [-1e31], std: [1]}}]}",
            "mean",
        ),
        ("objective: {metric: mse}", "labels of loss: cross_entropy, which are classes"),
        ("objective: {loss: distill, metric: mse}", "metric: mse can't be measured"),
        ("objective: {loss: mse, metric: accuracy}", "labels of loss: mse, which are targets"),
        ("quantize: [{}]", "quantize needs data"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(line, said):
    assert said in refusal(SMALL + line)


@pytest.mark.parametrize("version", ["0", "true", "1.0", "'1'", "[1]", "null", "-1"])
def test_only_version_1_is_read(version):
    assert "version" in refusal(SMALL.replace("1", version, 1))


def test_a_newer_version_says_so():
    assert "version 2 is newer" in refusal(SMALL.replace("1", "2", 1))


def test_the_version_is_not_optional():
    assert "key version is missing" in refusal("prune: [{structure: channel, amount: 0.5}]")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{structure: channel}", "prune.0.amount is missing"),
        ("{amount: 0.5}", "prune.0.structure is missing"),
        ("{structure: channel, amount: 1.0}", "prune.0.amount"),
        ("{structure: channel, amount: -0.1}", "prune.0.amount"),
        ("{structure: channel, amount: 0.5, unit: parameters}", "prune.0: unit: parameters"),
        ("{structure: channel, amount: 0.5, layers: []}", "prune.0.layers: tuple should have"),
        ("{structure: channel, amount: 0.5, layers: 3}", "prune.0.layers"),
        ("{structure: channel, amount: 0.5, layers: [3]}", "prune.0.layers.0"),
        ("{structure: channel, amount: 0.5, unit: macs}", "prune.0: unit: macs"),
        ("{structure: filter, amount: 0.5, scope: global}", "prune.0: scope: global"),
        ("{structure: channel, amount: 0.5, scope: all}", "prune.0.scope"),
        ("{structure: channel, amount: 0.5, min_channels: 0}", "prune.0.min_channels"),
    ],
)
def test_a_wrong_prune_entry_is_refused_by_its_key(entry, said):
    assert said in refusal(f"version: 1\nprune: [{entry}]")


def test_nothing_to_do_is_refused():
    assert "nothing to do" in refusal("version: 1")
    assert "nothing to do" in refusal("version: 1\nprune: []\n")


def test_the_same_layers_twice_are_refused():
    entry = "{structure: channel, amount: 0.5, layers: [a, b]}"
    assert "twice" in refusal(f"version: 1\nprune: [{entry}, {entry}]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("3", "a int, not a mapping"),
        ("[]", "a list, not a mapping"),
        ("- version: 1", "a list, not a mapping"),
        (SMALL + "seed: 1\nseed: 2\n", "line 4: duplicate key 'seed'"),
        (SMALL + "schedule: {epochs: 1, epochs: 2}", "duplicate key 'epochs'"),
        (SMALL + "objective: &o {loss: mse}\nseed: *o", "aliases"),
        (SMALL + "schedule: &s {epochs: 1}\nbenchmark: {<<: *s}", "aliases"),
        (SMALL + "<<: {seed: 1}", "unknown key <<"),
        (SMALL + "1: 2", "a key must be a plain word, got '1'"),
        (SMALL + "true: 2", "a key must be a plain word"),
        (SMALL + "null: 2", "a key must be a plain word"),
        (SMALL + "? [a]\n: 1", "a key must be a plain word"),
        (SMALL + "---\nseed: 1\n", "another document"),
        (SMALL + "seed: [", "not valid YAML"),
        (SMALL + "\tseed: 1", "not valid YAML"),
        (SMALL + "seed: \x00", "not valid YAML"),
        (SMALL + "seed: \x1b", "not valid YAML"),
        ("[" * 5000, "deeper"),
        ("{a: " * 5000, "deeper"),
        (SMALL + "a: " + "[1," * 30 + "]" * 30, "deeper"),
        (SMALL + "a: [" + "1," * 30_000 + "]", "YAML nodes"),
    ],
)
def test_what_is_no_plain_yaml_mapping_is_refused(text, said):
    assert said in refusal(text)


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!bool maybe",
        "!!float ''",
        "!!int x",
        "!!timestamp x",
        "!!binary aGk=",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!map x",
        "!!str 1",
        "!own 1",
        "! 1",
    ],
)
def test_tags_are_refused_by_line(tagged):
    assert "line 3: YAML tags" in refusal(f"{SMALL}seed: {tagged}")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"x", "seed is a bytes"),
        ({1}, "seed is a set"),
        (1j, "seed is a complex"),
        ({1: 2}, "key seed.1 is no text"),
        (object(), "seed is a object"),
    ],
)
def test_a_mapping_holds_plain_values_only(value, said):
    mapping = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}], "seed": value}
    assert said in refusal(mapping)


def test_a_number_too_long_to_print_is_refused():
    mapping = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    assert "seed is 0x" in refusal({**mapping, "seed": 10**10_000})
    assert "too large" in refusal({**mapping, "version": 10**10_000})


def test_a_mapping_that_holds_itself_is_refused():
    loop = {"version": 1}
    loop["data"] = loop
    assert "nested too deep" in refusal(loop)


@pytest.mark.parametrize(
    ("overrides", "look", "value"),
    [
        (["seed=5"], lambda s: s.seed, 5),
        (["seed=5", "seed=6"], lambda s: s.seed, 6),
        (["prune.0.amount=0.25"], lambda s: s.prune[0].amount, 0.25),
        (["prune.1.layers=[a, b]"], lambda s: s.prune[1].layers, ("a", "b")),
        (["schedule.optimizer.lr=1e-5"], lambda s: s.schedule.optimizer.lr, 1e-5),
        (["schedule.rho=auto"], lambda s: s.schedule.rho, "auto"),
        (["objective={loss: mse}"], lambda s: s.objective, Objective(loss="mse")),
        (["objective.output=a=b"], lambda s: s.objective.output, "a=b"),
        (
            ["data.train.inputs.image=other.npy"],
            lambda s: s.data.train.inputs["image"],
            "other.npy",
        ),
        (["benchmark.batch_sizes.1=8"], lambda s: s.benchmark.batch_sizes, (1, 8)),
    ],
)
def test_overrides_set_one_key(overrides, look, value):
    assert look(parse_spec(WHOLE, overrides)) == value
    assert look(parse_spec(WHOLE)) != value


def test_an_override_makes_the_sections_on_its_way():
    assert parse_spec(SMALL, ["schedule.optimizer.lr=0.5"]).schedule.optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected key=value"),
        ("=1", "expected key=value"),
        ("", "expected key=value"),
        ("prune.1.amount=0.5", "'1' is not an index of a list of 1"),
        ("prune.-1.amount=0.5", "'-1' is not an index"),
        ("prune.²=0.5", "'²' is not an index"),
        (f"prune.{'9' * 5000}=0.5", "is not an index"),
        ("prune.0.amount.x=1", "prune.0.amount holds a value, not a section"),
        ("sceduhle.epochs=1", "unknown key sceduhle"),
        ("schedule.epocsh=1", "'epochs'"),
        ("seed=null", "seed is null"),
        ("seed=", "seed"),
        ("seed=[", "--set seed"),
        ("seed=!!python/name:os.system", "tags"),
        ("seed=1\n---\n2", "another document"),
        ("prune=[]", "nothing to do"),
    ],
)
def test_a_wrong_override_is_refused(override, said):
    assert said in refusal(SMALL, [override])


def test_read_spec_reads_utf8_with_and_without_a_mark(tmp_path):
    path = tmp_path / "spec.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(SMALL + "objective: {output: größe}\n", encoding)
        assert read_spec(path).objective.output == "größe"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("objective: {output: größe}".encode("latin-1"), "byte 22 is not UTF-8"),
        (SMALL.encode("utf-16"), "not UTF-8"),
        (SMALL.encode() + b"#" * MAX_BYTES, "larger than 1048576 bytes"),
        (b"\x00" * 100, "not valid YAML"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"mine\.yaml") as caught:
        read_spec(path)
    assert said in str(caught.value)


def test_a_file_of_exactly_the_largest_size_is_read(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_bytes((SMALL + "#").encode().ljust(MAX_BYTES, b"x"))
    assert read_spec(path) == parse_spec(SMALL)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name, said in [
        ("fifo", "not a regular file"),
        (".", "not a regular file"),
        ("loop", "symbolic links"),
        ("missing", "No such file"),
        ("a\0b", "null byte"),
    ]:
        with pytest.raises(SpecError, match=said):
            read_spec(f"{tmp_path}/{name}")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_key_of_thousands_of_levels_is_refused():
    with pytest.raises(SpecError, match="names 3001 levels, at most 20"):
        parse_spec("version: 1", ["a." * 3000 + "b=1"])
