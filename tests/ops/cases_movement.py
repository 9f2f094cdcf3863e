"""Contract cases: what picks, places, stretches, pads and resamples. The form is that of cases_elementwise.py."""

from __future__ import annotations

import numpy as np
from cases_elementwise import TRUTH, WHOLE, X, f, i
from onnx import TensorProto, numpy_helper

FAR = np.iinfo(np.int64).max
NEAR = np.iinfo(np.int32).min


def s(*content):
    return np.array(content, np.float32)


def tensor(content):
    return numpy_helper.from_array(np.array(content))


_UP, _ODD, _DOWN = s(1, 1, 2, 2), s(1, 1, 1.7, 2.3), s(1, 1, 0.5, 0.6)
_SCATTERED = ((2, 4, 3), [i(0, -1, 1).reshape(1, 1, 3), f(1, 1, 3)])

CASES = {
    "CastLike": [((2, 4, 6, 6), [np.ones(1, np.float64)], {}, 1)],
    "BitCast": [((2, 4, 6, 6), [], {"to": 6}, 1)],
    "Slice": [
        (X, [], {"starts": [1], "ends": [3], "axes": [1]}, 1),
        (X, [], {"starts": [0, 1], "ends": [2, FAR]}, 1),
        (X, [i(1), i(-1), i(1)], {}, 1),
        (X, [i(-1), i(NEAR), i(1), i(-1)], {}, 1),
        (X, [i(0, 4), i(FAR, 0), i(1, 3), i(2, -2)], {}, 1),
        (X, [i(0, 0), i(1, 3)], {}, 1),
        (X, [i(2, dtype=np.int32), i(9, dtype=np.int32), i(-2, dtype=np.int32)], {}, 1),
    ],
    "Gather": [
        (X, [i(3, 0, -2)], {"axis": 1}, 1),
        (X, [np.int64(1)], {"axis": 1}, 1),
        (X, [np.int64(-1)], {"axis": -1}, 1),
        (X, [i(0, 2, 1, 1).reshape(2, 2)], {"axis": 2}, 1),
        ((3, 4), [f(9, 5)], {}, 1, ("int64", 1)),
    ],
    "GatherElements": [
        ((2, 4, 3), [i(0, -1, 1).reshape(1, 1, 3)], {"axis": 1}, 1),
        ((2, 4), [f(8, 4)], {"axis": 0}, 1, ("int64", 1)),
    ],
    "GatherND": [
        ((2, 4, 3), [i(0, 1, 1, -1).reshape(2, 2)], {}, 1),
        ((2, 4, 3), [i(1, 0).reshape(2, 1)], {"batch_dims": 1}, 1),
        ((2, 4, 3), [i(0, 3).reshape(1, 1, 1, 2)], {}, 1),
    ],
    "Scatter": [(*_SCATTERED, {"axis": 1}, 1)],
    "ScatterElements": [
        (*_SCATTERED, {"axis": 1}, 1),
        *((*_SCATTERED, {"axis": 1, "reduction": r}, 1) for r in ("add", "mul", "max", "min")),
    ],
    "ScatterND": [
        ((2, 4, 3), [i(0, 1, 1, 3).reshape(2, 2), f(2, 3)], {}, 1),
        ((2, 4, 3), [i(1).reshape(1, 1), f(1, 4, 3)], {}, 1),
        ((2, 4, 3), [i(1, 2, 0, 0, -1, 1).reshape(2, 3), f(2)], {"reduction": "add"}, 1),
        ((2, 4, 3), [i(1).reshape(1, 1), f(1, 4, 3)], {"reduction": "max"}, 1),
    ],
    "NonZero": [((2, 4), [], {}, 1, TRUTH), ((2, 4, 3), [], {}, 1, WHOLE)],
    "Compress": [
        (X, [np.array([True, False, True])], {"axis": 1}, 1),
        ((2, 4), [np.array([True, False, False, True, True])], {}, 1),
        (X, [np.array([False, True])], {"axis": -1}, 1),
    ],
    "OneHot": [
        ((2, 4), [np.int64(6), s(0, 1)], {}, 1, WHOLE),
        ((2, 4), [np.int64(5), s(-1, 2)], {"axis": 1}, 1, WHOLE),
        ((2, 4), [np.int64(5), i(0, 1)], {"axis": 0}, 1, ("int64", 0)),
    ],
    "TopK": [
        (X, [], {"k": 2, "axis": 1}, 2),
        (X, [i(3)], {}, 2),
        (X, [i(3)], {"largest": 0, "axis": 1}, 2),
        ((2, 4, 9), [i(5)], {}, 2, WHOLE),
    ],
    "Expand": [
        (X, [i(1, 4, 6, 6)], {}, 1),
        ((2, 4, 1), [i(3, 1, 1, 5)], {}, 1),
        ((2, 4), [i(1)], {}, 1),
        ((2, 4, 1), [i(3, 2, 4, 2)], {}, 1, TRUTH),
    ],
    "Tile": [((2, 4, 3), [i(1, 2, 1)], {}, 1), ((2, 4), [i(3, 1)], {}, 1, WHOLE)],
    "ConstantOfShape": [
        ((3,), [], {"value": tensor([2.5])}, 1, WHOLE),
        ((2,), [], {"value": tensor(np.array([7]))}, 1, WHOLE),
        ((2,), [], {}, 1, WHOLE),
    ],
    "Range": [
        ((), [np.int64(9), np.int64(2)], {}, 1, WHOLE),
        ((), [np.float32(9), np.float32(0.7)], {}, 1),
    ],
    "EyeLike": [((3, 4), [], {}, 1), ((4, 4), [], {"k": 1, "dtype": TensorProto.INT64}, 1)],
    "Trilu": [
        (X, [], {}, 1),
        (X, [np.int64(-1)], {"upper": 0}, 1),
        ((2, 4, 5), [np.int64(2)], {}, 1),
    ],
    "Size": [(X, [], {}, 1)],
    "DepthToSpace": [
        ((2, 8, 3, 5), [], {"blocksize": 2}, 1),
        ((2, 8, 3, 5), [], {"blocksize": 2, "mode": "CRD"}, 1),
    ],
    "SpaceToDepth": [((2, 4, 4, 6), [], {"blocksize": 2}, 1)],
    "ReverseSequence": [
        ((5, 4, 3), [i(1, 2, 5, 3)], {}, 1),
        ((3, 4, 2), [i(1, 4, 2)], {"batch_axis": 0, "time_axis": 1}, 1),
    ],
    "Resize": [
        (X, [_UP], {}, 1),
        (X, [_ODD], {"mode": "linear"}, 1),
        (X, [None, _UP], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 1),
        (X, [None, _ODD], {"mode": "cubic"}, 1),
        (X, [None, _DOWN], {"coordinate_transformation_mode": "asymmetric"}, 1),
        (X, [None, _ODD], {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, 1),
        (X, [None, None, i(2, 4, 9, 4)], {"mode": "linear"}, 1),
        (X, [None, None, i(7, 9)], {"mode": "linear", "axes": [2, 3]}, 1),
        (X, [None, None, i(2, 4, 7, 9)], {"mode": "cubic"}, 1),
        (X, [None, _DOWN], {"mode": "linear", "antialias": 1}, 1),
        # ONNX Runtime up to 13 wants a region even where it isn't read.
        (X, [s(0, 0, 0, 0, 1, 1, 1, 1), _UP], {"mode": "linear"}, 1),
        ((2, 4, 9), [s(0, 0, 0, 1, 1, 1), s(1, 1, 2)], {"mode": "linear"}, 1),
    ],
    "Upsample": [
        (X, [], {"scales": [1.0, 1.0, 2.0, 3.0]}, 1),
        (X, [], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}, 1),
        (X, [_UP], {"mode": "linear"}, 1),
        (X, [_UP], {}, 1),
    ],
    "Pad": [
        *(
            (X, [], {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": m}, 1)
            for m in ("constant", "reflect", "edge")
        ),
        *(
            (X, [i(0, 1, 1, 2, 0, 2, 3, 1)], {"mode": m}, 1)
            for m in ("constant", "reflect", "edge", "wrap")
        ),
        (X, [i(0, 1, 0, 0, 0, 2, 0, 0), np.float32(1.5)], {}, 1),
        (X, [], {"pads": [0, 2, 0, 0, 0, 1, 0, 0], "value": -0.5}, 1),
        (X, [i(0, 0, -1, 2, 0, 0, 1, -2)], {}, 1),
        (X, [i(1, 2), None, i(1, -1)], {"mode": "edge"}, 1),
        (X, [i(1, 2), np.float32(2), i(-1)], {}, 1),
    ],
}
