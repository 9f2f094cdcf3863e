"""The probe says what ONNX Runtime's own times say."""

from __future__ import annotations

import pytest

from onnxadmm.errors import ResourceError
from onnxadmm.quantize import probing


@pytest.fixture
def clock(monkeypatch):
    """Let runs take the time that is set: of uint8, of int8."""
    times, now, turn = [1.0, 1.0], [0.0], [0]

    def run(session, names, feed):
        now[0] += times[turn[0] % 2]
        turn[0] += 1

    monkeypatch.setattr(probing, "run", run)
    monkeypatch.setattr(probing, "_clock", lambda *_: lambda: now[0])
    probing.signed_is_faster.cache_clear()
    yield times
    probing.signed_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("unsigned", "signed", "expected"), [(1.0, 0.5, True), (1.0, 0.9, False), (0.4, 1.0, False)]
)
def test_int8_is_chosen_where_it_is_clearly_faster(clock, unsigned, signed, expected):
    clock[:] = [unsigned, signed]
    assert probing.signed_is_faster("cpu", 1) is expected


def test_a_provider_that_cannot_run_it_says_nothing(clock, monkeypatch):
    def refuse(*args, **kwargs):
        raise ResourceError("no such provider")

    monkeypatch.setattr(probing, "open_session", refuse)
    assert probing.signed_is_faster("cpu", 1) is None


def test_both_forms_run_and_the_answer_stays():
    probing.signed_is_faster.cache_clear()
    first = probing.signed_is_faster("cpu", 1)
    assert first in (True, False)
    assert probing.signed_is_faster("cpu", 1) is first
