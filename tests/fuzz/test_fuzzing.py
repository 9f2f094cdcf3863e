"""The short, repeatable form of `fuzz.py`: the same inputs every time, and all that was ever found."""

from __future__ import annotations

from pathlib import Path

import fuzz_targets
import pytest
from fuzz_inputs import SEEDS, models, specs
from hypothesis import HealthCheck, given, settings

CASES = Path(__file__).parent / "cases"
# The folder is the same for every example on purpose: each writes the whole file anew.
SHORT = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(64))
    return tmp_path


def kept(kind):
    return [pytest.param(p.read_bytes(), id=p.name) for p in sorted((CASES / kind).iterdir())]


@settings(SHORT, max_examples=400)
@given(models())
def test_any_model_file_loads_or_is_refused_in_one_line(folder, content):
    fuzz_targets.load(content, folder)


@settings(SHORT, max_examples=400)
@given(specs())
def test_any_spec_file_is_read_or_refused_in_one_line(folder, content):
    fuzz_targets.read(content, folder)


@pytest.mark.parametrize("content", SEEDS)
def test_the_sound_models_are_taken(folder, content):
    assert fuzz_targets.load(content, folder)
    assert fuzz_targets.look(content, folder)


@pytest.mark.parametrize("content", kept("model"))
def test_what_was_found_in_models_stays_fixed(folder, content):
    fuzz_targets.load(content, folder)
    fuzz_targets.look(content, folder)


@pytest.mark.parametrize("content", kept("spec"))
def test_what_was_found_in_specs_stays_fixed(folder, content):
    fuzz_targets.read(content, folder)


def test_the_watch_sees_a_file_outside(folder):
    outside = folder.parent / "outside"
    outside.write_bytes(b"x")
    broken = pytest.raises(fuzz_targets.BrokenPromise, match="outside")
    with broken, fuzz_targets.WATCH.over(folder):
        outside.read_bytes()
