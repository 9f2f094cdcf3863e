"""Contract cases of losses, sequences, spectra, regions and places. A case of several nodes is a graph as ONNX text."""

from __future__ import annotations

import numpy as np
from cases_elementwise import WHOLE, X, f, i

LABELS = i(1, 0, 3, 2, 1, 1, 2, 0, 0, 3, 2, 1).reshape(2, 6)
WEIGHTS = np.float32([0.5, 2, 1, 0.25])
BOXES = np.float32([[0, 0, 3, 3], [1.2, 0.4, 5.6, 4.1], [-1, 2, 3, 9]])
REGIONS = [BOXES, i(0, 1, 0)]
ROUND = {"output_height": 2, "output_width": 3, "spatial_scale": 0.7, "sampling_ratio": 2}
# Offsets move the samples of a kernel of 3 x 3 over a picture of 6 x 6 without pads.
OFFSETS, MASK = f(2, 18, 4, 4), abs(f(2, 9, 4, 4))
TRIPLE = "(float[2,4,6] x) => (float[a,b,c] y)"

CASES = {
    **{
        op: [
            ((2, 4, 6), [LABELS], {}, 1),
            ((2, 4, 6), [LABELS, WEIGHTS], {"reduction": "sum"}, 1),
            ((2, 4, 6), [LABELS, WEIGHTS], {"reduction": "none", "ignore_index": 1}, 1),
            ((2, 4), [i(3, 0)], {"ignore_index": 0}, 1),
        ]
        for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
    },
    "SequenceEmpty": [
        f"{TRIPLE} {{ s = SequenceEmpty () t = SequenceInsert (s, x) y = ConcatFromSequence <axis = 1> (t) }}"
    ],
    "SequenceConstruct": [
        f"{TRIPLE} {{ s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 1> (s) }}"
    ],
    "ConcatFromSequence": [
        (
            "(float[2,4] x) => (float[a,b,c] y) { s = SequenceConstruct (x, x, x) "
            "y = ConcatFromSequence <axis = -1, new_axis = 1> (s) }"
        )
    ],
    "SequenceInsert": [
        (
            f"{TRIPLE} {{ n = Neg (x) s = SequenceConstruct (x, x) k = Constant <value = int64 {{-1}}> () "
            "t = SequenceInsert (s, n, k) y = ConcatFromSequence <axis = 2> (t) }"
        )
    ],
    "SequenceErase": [
        (
            f"{TRIPLE} {{ n = Neg (x) s = SequenceConstruct (x, n, x) k = Constant <value = int64 {{-2}}> () "
            "t = SequenceErase (s, k) u = SequenceErase (t) y = ConcatFromSequence <axis = 2> (u) }"
        )
    ],
    "SequenceAt": [
        (
            f"{TRIPLE} {{ n = Neg (x) s = SequenceConstruct (x, n) k = Constant <value = int64 {{-1}}> () "
            "y = SequenceAt (s, k) }"
        )
    ],
    "SequenceLength": [
        "(float[2,4] x) => (int64 y) { s = SequenceConstruct (x, x) y = SequenceLength (s) }"
    ],
    "SplitToSequence": [
        f"{TRIPLE} {{ s = SplitToSequence <axis = 1, keepdims = 0> (x) y = ConcatFromSequence <axis = 2, new_axis = 1> (s) }}",
        (
            f"{TRIPLE} {{ n = Constant <value = int64 {{4}}> () s = SplitToSequence <axis = 2> (x, n) "
            "k = Constant <value = int64 {1}> () y = SequenceAt (s, k) }"
        ),
        (
            f"{TRIPLE} {{ n = Constant <value = int64[2] {{1, 3}}> () s = SplitToSequence <axis = 1> (x, n) "
            "k = Constant <value = int64 {1}> () y = SequenceAt (s, k) }"
        ),
    ],
    "Optional": [f"{TRIPLE} {{ o = Optional (x) y = OptionalGetElement (o) }}"],
    "OptionalGetElement": [f"{TRIPLE} {{ o = Optional (x) y = OptionalGetElement (o) }}"],
    "OptionalHasElement": [
        "(float[2,4] x) => (bool y) { o = Optional (x) y = OptionalHasElement (o) }"
    ],
    "DFT": [
        ((2, 5, 1), [], {}, 1),
        ((2, 6, 4, 2), [np.int64(8)], {"axis": 2, "inverse": 1}, 1),
        ((2, 6, 4, 2), [None, np.int64(1)], {"inverse": 1}, 1),
        ((2, 5, 4, 1), [np.int64(4), np.int64(-3)], {"onesided": 1}, 1),
        ((2, 5, 4, 1), [], {"onesided": 1, "axis": 2}, 1),
    ],
    "STFT": [
        ((2, 16, 1), [np.int64(3), np.float32([0.2, 0.5, 1, 1, 0.5, 0.2])], {}, 1),
        ((2, 16, 1), [np.int64(4), None, np.int64(8)], {"onesided": 0}, 1),
    ],
    **{
        op: [
            f"(int64 x) => (float[n] y) {{ y = {op} (x) }}",
            f"(int64 x) => (double[n] y) {{ y = {op} <periodic = 0, output_datatype = 11> (x) }}",
        ]
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow")
    },
    "RoiAlign": [
        (X, REGIONS, ROUND, 1),
        (X, REGIONS, {**ROUND, "coordinate_transformation_mode": "output_half_pixel"}, 1),
        (
            X,
            REGIONS,
            {**ROUND, "sampling_ratio": 0, "coordinate_transformation_mode": "half_pixel"},
            1,
        ),
        (X, REGIONS, {**ROUND, "mode": "max"}, 1),
    ],
    "MaxRoiPool": [
        (
            X,
            [np.float32([[0, 0, 0, 3, 3], [1, 1.2, 0.4, 5.6, 4.1], [0, 1, 2, 3, 9]])],
            {"pooled_shape": [2, 3], "spatial_scale": 0.7},
            1,
        )
    ],
    "DeformConv": [
        (X, [f(5, 4, 3, 3), OFFSETS, f(5), MASK], {}, 1),
        (X, [f(6, 2, 3, 3), OFFSETS], {"group": 2}, 1),
        (X, [f(5, 4, 3, 3), f(2, 36, 5, 5)], {"offset_group": 2, "pads": [1, 0, 0, 1]}, 1),
        (X, [f(5, 4, 3, 3), f(2, 18, 2, 2)], {"dilations": [2, 2]}, 1),
    ],
    "AffineGrid": [
        ((2, 2, 3), [i(2, 4, 5, 6)], {}, 1),
        ((2, 3, 4), [i(2, 4, 3, 2, 5)], {"align_corners": 1}, 1),
    ],
    "CenterCropPad": [
        (X, [i(2, 4, 3, 9)], {}, 1),
        (X, [i(5, 8)], {"axes": [-1, -2]}, 1),
    ],
    "MaxUnpool": [
        (
            (1, 2, 2, 2),
            [i(0, 3, 10, 13, 16, 19, 24, 29).reshape(1, 2, 2, 2)],
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            1,
        ),
        (
            (1, 1, 2, 2),
            [i(0, 3, 10, 13).reshape(1, 1, 2, 2), i(1, 1, 5, 4)],
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            1,
        ),
    ],
    "Col2Im": [
        ((2, 8, 20), [i(5, 6), i(2, 2)], {}, 1),
        ((2, 8, 9), [i(5, 5), i(2, 2)], {"strides": [2, 2], "pads": [1, 0, 0, 1]}, 1),
        ((2, 6, 3), [i(8), i(3)], {"strides": [2]}, 1),
        ((2, 12, 4), [i(4, 7), i(2, 3)], {"dilations": [2, 2], "strides": [1, 2]}, 1),
    ],
    "TensorScatter": [
        ((2, 4, 6, 3), [f(2, 4, 2, 3), i(1, 4)], {}, 1),
        ((2, 6, 3), [f(2, 3, 3), i(5, 2)], {"mode": "circular"}, 1),
        ((2, 6, 3), [f(2, 3, 3)], {"axis": 1}, 1),
    ],
    "Unique": [
        ((9,), [], {}, 4, WHOLE),
        ((2, 9), [], {"sorted": 0}, 4, WHOLE),
        ((9, 2), [], {"axis": 0, "sorted": 0}, 4, WHOLE),
        ((2, 9), [], {"axis": 1}, 4, WHOLE),
    ],
    "Det": [((2, 3, 3), [], {}, 1), ((4, 4), [], {}, 1)],
    "CumProd": [
        (X, [np.int64(2)], {}, 1),
        (X, [np.int64(-1)], {"exclusive": 1}, 1),
        (X, [np.int64(3)], {"exclusive": 1, "reverse": 1}, 1),
    ],
    "LpPool": [
        (X, [], {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 1]}, 1),
        (X, [], {"kernel_shape": [3, 3], "p": 1, "auto_pad": "SAME_UPPER"}, 1),
        ((2, 4, 9), [], {"kernel_shape": [3], "p": 3}, 1),
    ],
    "GlobalLpPool": [(X, [], {}, 1), (X, [], {"p": 3}, 1)],
    "SimplifiedLayerNormalization": [
        ((2, 4, 6), [f(6)], {"epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(4, 6)], {"axis": 1}, 2),
    ],
}
