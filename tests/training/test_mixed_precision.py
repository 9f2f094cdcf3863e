"""Losses that are scaled for 16-bit floats: what is clipped and added isn't, overflow is no divergence, and it resumes."""

from __future__ import annotations

import pytest
import torch
from runs import IDENTITY, outcome, trainer
from stopping import StopAfter

from onnxadmm.errors import DivergedError, Interrupted
from onnxadmm.training import CheckpointStore


@pytest.fixture
def scaled(monkeypatch):
    """Return a function that gives a trainer the scaler that Accelerate gives it on a GPU."""

    def scale(made, start):
        accelerator = made.accelerator
        monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=3)
        return made

    return scale


@pytest.mark.parametrize("clip", [{"clip_norm": 0.05}, {"clip_value": 0.01}, {}])
def test_a_scaled_loss_trains_like_one_that_is_not(clip, scaled):
    net, made = trainer("admm", schedule=clip)
    expected = outcome(net, made.run())
    net, made = trainer("admm", schedule=clip)
    # Powers of two change no bit of a gradient.
    assert outcome(net, scaled(made, 2.0**16).run()) == expected
    assert made.accelerator.scaler.get_scale() > 2.0**16


def test_steps_that_overflow_are_passed_over_and_the_scale_falls(scaled):
    net, made = trainer("admm")
    before = {n: w.detach().clone() for n, w in net.imported.binding.items()}
    # 16-bit floats overflow far earlier than the 32-bit ones here.
    next(iter(net.imported.binding.values())).register_hook(lambda g: g * 2.0**20)
    result = scaled(made, 2.0**127).run()
    assert made.position.retreats == 0
    assert made.accelerator.scaler.get_scale() < 2.0**127
    assert all(bool(torch.isfinite(w).all()) for w in net.imported.binding.values())
    assert any(not torch.equal(w, before[n]) for n, w in net.imported.binding.items())
    assert len(result.history) == 3


def test_gradients_that_are_not_finite_at_any_scale_diverge(scaled):
    net, made = trainer("retrain", schedule={"retrain": 40})
    next(iter(net.imported.binding.values())).register_hook(lambda g: g * torch.nan)
    with pytest.raises(DivergedError, match="the gradient of weight"):
        scaled(made, 4.0).run()


@pytest.mark.parametrize("steps", [1, 4, 5, 9])
def test_the_scale_is_resumed(steps, scaled, tmp_path):
    net, made = trainer("admm")
    expected = outcome(net, scaled(made, 2.0**125).run())
    scale = made.accelerator.scaler.state_dict()
    with pytest.raises(Interrupted):
        scaled(
            trainer("admm", CheckpointStore(tmp_path, IDENTITY), stop=StopAfter(steps))[1], 2.0**125
        ).run()
    net, made = trainer("admm", CheckpointStore(tmp_path, IDENTITY))
    assert outcome(net, scaled(made, 2.0**16).run()) == expected
    assert made.accelerator.scaler.state_dict() == scale
