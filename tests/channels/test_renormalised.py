"""Channels under a statistic: whatever goes, the statistic is that of what is left."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import STATISTICS, Builder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cutting import classes_of, feeds

from onnxadmm.channels import dead_labels
from onnxadmm.compact import TOLERANCE, cut_channels, mask_channels, prove


@pytest.mark.parametrize("kind", STATISTICS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_channels_under_a_statistic_go(kind, data):
    b = Builder(data.draw(st.integers(0, 99)), 3, 4)
    b.conv(6)
    b.statistic(kind)
    b.conv(5)
    b.head("pool")
    model = b.model()
    seen, labels, classes = classes_of(model)
    first = classes["conv3"]
    assert not first.fixed
    alive = data.draw(st.sets(st.integers(0, 5), min_size=1, max_size=5))
    dead = dead_labels(list(classes.values()), {first.name: np.isin(np.arange(6), list(alive))})
    cut = cut_channels(model, labels, seen, dead)
    proof = prove(mask_channels(model, labels, dead), cut, feeds(model))
    assert proof.max_error <= TOLERANCE
    assert not proof.untested
    assert not proof.rounding
    assert bool(first.renormalised) == (kind not in ("inverse", "instance"))
