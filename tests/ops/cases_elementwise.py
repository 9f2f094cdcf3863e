"""Contract cases: comparisons, logic, arithmetic, functions of one tensor, reductions, Einsum.

As in test_contract.py; a fifth element gives the type of x and the input that it is.
"""

from __future__ import annotations

import numpy as np

X = (2, 4, 6, 6)
WHOLE = ("int64", 0)
TRUTH = ("bool", 0)


def f(*shape):
    content = np.random.default_rng(int(np.prod(shape))).standard_normal(shape)
    return content.astype(np.float32)


def i(*content, dtype=np.int64):
    return np.array(content, dtype)


def b(*shape):
    return f(*shape) > 0


_NONE = np.array([], np.int64)
_FLOATS = [(X, [f(4, 1, 1)], {}, 1), (X, [f(*X)], {}, 1)]
_NUMBERS = [*_FLOATS, ((2, 4, 3), [i(3)], {}, 1, ("int32", 0)), ((2, 4, 3), [i(3)], {}, 1, WHOLE)]
_MANY = [(X, [f(*X), f(*X)], {}, 1), (X, [f(4, 1, 1)], {}, 1), (X, [], {}, 1)]
_TRUTHS = [(X, [b(4, 1, 1)], {}, 1, TRUTH)]
_BITS = [((2, 4, 3), [i(3, 5, 6, dtype=np.int32)], {}, 1, ("int32", 0))]
_REDUCED = [
    (X, [], {"axes": [2, 3]}, 1),
    (X, [], {"axes": [-1], "keepdims": 0}, 1),
    (X, [], {"axes": [1]}, 1),
    (X, [], {}, 1),
    (X, [], {"keepdims": 0}, 1),
    (X, [i(2, 3)], {}, 1),
    (X, [i(-1, 1)], {"keepdims": 0}, 1),
    (X, [_NONE], {"noop_with_empty_axes": 1}, 1),
    (X, [_NONE], {}, 1),
]
_PLACES = [
    (X, [], {"axis": 1}, 1),
    (X, [], {"axis": -1, "keepdims": 0}, 1),
    (X, [], {"axis": 2, "select_last_index": 1}, 1),
    ((2, 4, 9), [], {"axis": 2, "select_last_index": 1}, 1, ("int32", 0)),
    ((2, 4, 9), [], {"axis": 2}, 1, ("int32", 0)),
]

CASES = {
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _NUMBERS),
    **dict.fromkeys(("And", "Or", "Xor"), _TRUTHS),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), _BITS),
    "BitwiseNot": [((2, 4, 3), [], {}, 1, ("int32", 0))],
    "Not": [(X, [], {}, 1, TRUTH)],
    "Where": [
        (X, [f(4, 1, 1), f(*X)], {}, 1, TRUTH),
        (X, [b(4, 1, 1), np.float32(0.5)], {}, 1, ("float32", 1)),
        (X, [b(1, 1, 6, 6), f(1, 1, 1, 6)], {}, 1, ("float32", 2)),
        ((2, 4), [b(4), i(1, 2, 3, 4)], {}, 1, ("int64", 2)),
    ],
    **dict.fromkeys(("Min", "Max", "Sum", "Mean"), _MANY),
    "Mod": [
        (X, [np.float32(0.7)], {"fmod": 1}, 1),
        (X, [f(4, 1, 1)], {"fmod": 1}, 1),
        ((2, 4, 3), [i(3, -2, 4)], {}, 1, WHOLE),
        ((2, 4, 3), [i(3, -2, 4)], {"fmod": 1}, 1, WHOLE),
    ],
    "Pow": [
        (X, [np.float32(2.0)], {}, 1),
        (X, [np.float32(-1.0)], {}, 1),
        (X, [np.array([3], np.float32)], {}, 1),
        (X, [np.float32(1.5)], {}, 1, ("float32", 1)),
        (X, [np.full((4, 1, 1), 3, np.float32)], {}, 1),
        ((2, 4, 3), [np.int64(2)], {}, 1, WHOLE),
    ],
    "BitShift": [
        ((2, 4, 3), [i(1, 2, 3, dtype=np.uint8)], {"direction": "LEFT"}, 1, ("uint8", 0)),
        ((2, 4, 3), [i(1, 2, 3, dtype=np.uint8)], {"direction": "RIGHT"}, 1, ("uint8", 0)),
        ((2, 4, 3), [i(1, 2, 3, dtype=np.uint32)], {"direction": "LEFT"}, 1, ("uint32", 0)),
    ],
    "IsInf": [
        (X, [], {}, 1),
        (X, [], {"detect_negative": 0}, 1),
        (X, [], {"detect_positive": 0}, 1),
        (X, [], {"detect_negative": 0, "detect_positive": 0}, 1),
    ],
    **{
        op: [(X, [], {}, 1)]
        for op in (
            *("IsNaN", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Tan", "Asin", "Acos"),
            *("Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Softplus", "Softsign", "Mish"),
        )
    },
    "Swish": [(X, [], {}, 1), (X, [], {"alpha": 1.5}, 1)],
    "Selu": [(X, [], {}, 1), (X, [], {"alpha": 0.7, "gamma": 1.2}, 1)],
    "Celu": [(X, [], {"alpha": 0.6}, 1)],
    "ThresholdedRelu": [(X, [], {}, 1), (X, [], {"alpha": 0.3}, 1)],
    "Shrink": [(X, [], {"lambd": 0.4, "bias": 0.2}, 1)],
    "Hardmax": [(X, [], {"axis": 1}, 1), (X, [], {"axis": 2}, 1), ((3, 5), [], {}, 1)],
    **dict.fromkeys(
        (
            *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"),
            *("ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
        ),
        _REDUCED,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), _PLACES),
    "CumSum": [
        (X, [np.int64(2)], {}, 1),
        (X, [np.int64(-1)], {"exclusive": 1}, 1),
        (X, [np.int64(1)], {"reverse": 1}, 1),
        (X, [np.int64(3)], {"exclusive": 1, "reverse": 1}, 1),
    ],
    "Einsum": [
        (X, [f(5, 4)], {"equation": "nchw,oc->nohw"}, 1),
        ((3, 4), [f(4, 5)], {"equation": "ij, jk"}, 1),
        ((2, 4, 3), [f(4, 3, 2)], {"equation": "bhd,hde->bhe"}, 1),
        ((2, 4, 3), [f(2, 4, 5)], {"equation": "bci,bcj->bij"}, 1),
        (X, [f(6, 5)], {"equation": "...w,wo->...o"}, 1),
        ((2, 4, 4), [], {"equation": "bii->bi"}, 1),
    ],
}
