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


def error_of(attributes, target):
    by_scale = isinstance(target[0], float)
    full = np.array([1, 1, *target], np.float32) if by_scale else np.array([*X[:2], *target])
    model = model_of("Resize", 19, (X, [None, *([] if by_scale else [None]), full], attributes, 1))
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


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "linear", "antialias": 1},
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
        {"mode": "linear", "keep_aspect_ratio_policy": "not_larger"},
    ],
)
def test_what_is_not_built_is_left_to_onnx_runtime_but_behind_what_is_trained(attributes):
    roi = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    model = model_of("Resize", 19, (X, [roi, None, np.array([*X[:2], 4, 4])], attributes, 1))
    assert len(import_model(model, SHAPES).frozen) == 1
    with pytest.raises(UnsupportedError, match=list(attributes)[-1]):
        import_model(behind_a_layer(model, SHAPES), SHAPES)
