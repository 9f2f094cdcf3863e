"""Resize in every mode that is built, with every kind of coordinates, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_contract import X, behind_a_layer, model_of

from onnxadmm.bench import open_session
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import Probe, compare_outputs, model_bytes
from onnxadmm.modules import import_model

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)
MODES = [
    *({"mode": "nearest", "nearest_mode": r} for r in ("round_prefer_floor", "round_prefer_ceil")),
    *({"mode": "nearest", "nearest_mode": r} for r in ("floor", "ceil")),
    {"mode": "linear"},
    {"mode": "cubic"},
    {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
]
TARGETS = [(2.0, 2.0), (1.7, 2.3), (0.5, 0.6), (3.0, 1.0), (12, 9), (4, 1), (1, 7)]
SHAPES = Probe({"x": X, "y0": X}, {}, {}, {})


def error_of(attributes, target, region=None):
    by_scale, chosen = isinstance(target[0], float), "axes" in attributes
    front = [] if chosen else [1, 1] if by_scale else [*X[:2]]
    full = np.array([*front, *target], np.float32 if by_scale else np.int64)
    roi = None if region is None else np.float32([0, 0, *region[:2], 1, 1, *region[2:]])
    model = model_of("Resize", 19, (X, [roi, *([] if by_scale else [None]), full], attributes, 1))
    x = np.random.default_rng(0).standard_normal(X).astype(np.float32)
    expected = open_session(model_bytes(model)).run(None, {"x": x})
    got = import_model(model, SHAPES).module(torch.from_numpy(x))
    return compare_outputs(expected, [g.numpy() for g in got])


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", MODES, ids=lambda m: "-".join(map(str, m.values())))
def test_every_mode_and_kind_of_coordinates(mode, coordinates):
    attributes = {**mode, "coordinate_transformation_mode": coordinates}
    errors = {target: error_of(attributes, target) for target in TARGETS}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_kernels_that_stretch_as_the_axis_shrinks(mode, exclude):
    attributes = {"mode": mode, "antialias": 1, "exclude_outside": exclude}
    errors = {target: error_of(attributes, target) for target in (*TARGETS, (5, 4), (0.35, 0.9))}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_sizes_that_keep_the_picture_s_aspect(mode, policy):
    attributes = {"mode": mode, "keep_aspect_ratio_policy": policy, "axes": [2, 3]}
    for target in ((12, 9), (4, 1), (7, 5)):
        assert error_of(attributes, target) < 1e-5, target


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("region", [(0, 0, 1, 1), (0.2, 0.1, 0.7, 0.9), (-0.3, 0.5, 0.8, 1.4)])
def test_a_region_is_cropped_and_what_lies_outside_filled(mode, region):
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 3.0,
    }
    for target in ((12, 9), (4, 1), (2.0, 1.5)):
        assert error_of(attributes, target, region) < 1e-5, target


def test_what_is_not_built_is_refused_behind_what_is_trained():
    model = model_of("Resize", 19, (X, [None, None, np.array([*X[:2], 4, 4])], {"mode": "it"}, 1))
    with pytest.raises(UnsupportedError, match="mode 'it'"):
        import_model(behind_a_layer(model, SHAPES), SHAPES)
