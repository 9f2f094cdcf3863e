"""Contract cases of products of integers and of what ONNX Runtime computes on quantized tensors."""

from __future__ import annotations

import numpy as np
from cases_elementwise import f

X = (2, 4, 6, 6)
BYTES = ("uint8", 0)
SCALE, ZERO = np.float32(0.1), np.uint8(3)
RESULT = [np.float32(0.4), np.uint8(120)]


def whole(*shape, kind=np.int8):
    """Return small integers of both signs, or from 0 on."""
    found = (9 * f(*shape)).round().clip(-99, 99)
    return (abs(found) if kind == np.uint8 else found).astype(kind)


def packed(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


COLUMNS = np.array([0, -2, 3, 1, 0], np.int8)
SCALES = abs(f(5)) / 9 + np.float32(0.01)

CASES = {
    "MatMulInteger": [
        ((2, 3, 4), [whole(4, 5)], {}, 1, BYTES),
        ((3, 4), [whole(4, 5), np.uint8(2), COLUMNS], {}, 1, BYTES),
        ((3, 4), [whole(4, 5), np.array([1, 0, 2], np.uint8), np.int8(0)], {}, 1, BYTES),
    ],
    "ConvInteger": [
        (X, [whole(5, 4, 3, 3), np.uint8(2)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}, 1, BYTES),
        (X, [whole(6, 2, 3, 3)], {"group": 2, "auto_pad": "SAME_UPPER"}, 1, BYTES),
    ],
    "QLinearMatMul": [
        (
            (2, 3, 4),
            [SCALE, ZERO, whole(4, 5), np.float32(0.02), np.int8(1), *RESULT],
            {},
            1,
            BYTES,
        ),
        ((3, 4), [SCALE, ZERO, whole(4, 5), SCALES, COLUMNS * 0, *RESULT], {}, 1, BYTES),
    ],
    "QLinearConv": [
        (
            X,
            [
                SCALE,
                ZERO,
                whole(5, 4, 3, 3),
                SCALES,
                COLUMNS * 0,
                *RESULT,
                whole(5).astype(np.int32),
            ],
            {"pads": [1, 0, 2, 1]},
            1,
            BYTES,
        ),
        (
            X,
            [SCALE, ZERO, whole(4, 1, 3, 3), np.float32(0.02), np.int8(0), *RESULT],
            {"group": 4, "dilations": [2, 1]},
            1,
            BYTES,
        ),
    ],
    **{
        f"com.microsoft.QLinear{op}": [
            (
                X,
                [SCALE, ZERO, whole(4, 1, 1, kind=np.uint8), SCALE, np.uint8(5), *RESULT],
                {},
                1,
                BYTES,
            )
        ]
        for op in ("Add", "Mul")
    },
    "com.microsoft.QLinearSigmoid": [
        (X, [SCALE, ZERO, np.float32(1 / 256), np.uint8(0)], {}, 1, BYTES)
    ],
    "com.microsoft.QLinearLeakyRelu": [(X, [SCALE, ZERO, *RESULT], {"alpha": 0.2}, 1, BYTES)],
    "com.microsoft.QLinearGlobalAveragePool": [
        (X, [SCALE, ZERO, *RESULT], {"channels_last": 0}, 1, BYTES),
        (X, [SCALE, ZERO, *RESULT], {"channels_last": 1}, 1, BYTES),
    ],
    "com.microsoft.QGemm": [
        (
            (3, 4),
            [SCALE, ZERO, whole(5, 4), SCALES, COLUMNS * 0, whole(5).astype(np.int32), *RESULT],
            {"transB": 1, "alpha": 0.7},
            1,
            BYTES,
        )
    ],
    "com.microsoft.QLinearConcat": [
        (
            X,
            [*RESULT, SCALE, ZERO, whole(2, 3, 6, 6, kind=np.uint8), np.float32(0.05), np.uint8(9)],
            {"axis": 1},
            1,
            ("uint8", 2),
        )
    ],
    "com.microsoft.QLinearAveragePool": [
        (
            X,
            [SCALE, ZERO, *RESULT],
            {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
            1,
            BYTES,
        ),
        (X, [SCALE, ZERO, *RESULT], {"kernel_shape": [2, 2], "channels_last": 1}, 1, BYTES),
    ],
    "com.microsoft.QLinearSoftmax": [
        ((2, 4, 6), [SCALE, ZERO, np.float32(1 / 256), np.uint8(0)], {"opset": 13}, 1, BYTES),
        (
            (2, 4, 6),
            [SCALE, ZERO, np.float32(1 / 256), np.uint8(0)],
            {"axis": 1, "opset": 12},
            1,
            BYTES,
        ),
    ],
    "com.microsoft.MatMulIntegerToFloat": [
        ((2, 3, 4), [whole(4, 5), SCALE, SCALES, ZERO, COLUMNS * 0, f(5)], {}, 1, BYTES)
    ],
    "com.microsoft.DynamicQuantizeMatMul": [
        ((2, 3, 4), [whole(4, 5), np.float32(0.02), np.int8(2), f(5)], {}, 1),
        ((3, 4), [whole(4, 5), SCALES, None], {}, 1),
    ],
    "com.microsoft.MatMulNBits": [
        ((2, 3, 32), [packed(5, 2, 8), f(10)], {"K": 32, "N": 5, "bits": 4, "block_size": 16}, 1),
        (
            (3, 40),
            [packed(5, 3, 8), f(15), packed(10)],
            {"K": 40, "N": 5, "bits": 4, "block_size": 16},
            1,
        ),
        ((3, 32), [packed(5, 2, 16), f(10)], {"K": 32, "N": 5, "bits": 8, "block_size": 16}, 1),
    ],
}
