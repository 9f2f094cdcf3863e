"""Cases of layers, normalisations, recurrent layers, attention, quantization and fused operators."""

from __future__ import annotations

import math

import numpy as np

X = (2, 4, 6, 6)
SEQUENCE = (3, 2, 4)


def f(*shape, positive=False):
    content = np.random.default_rng(int(np.prod(shape))).standard_normal(shape)
    return (np.abs(content) + 0.5 if positive else content).astype(np.float32)


def recurrent(gates, directions=1, hidden=3, inputs=4):
    """W, R and B of a recurrent layer."""
    rows = gates * hidden
    return [
        f(directions, rows, inputs) / 2,
        f(directions, rows, hidden) / 2,
        f(directions, 2 * rows) / 2,
    ]


def states(directions, hidden=3, count=1):
    """No sequence lengths, then initial states for the two samples of `SEQUENCE`."""
    return [None, *[f(directions, 2, hidden) / (k + 1) for k in range(count)]]


POSITIONS = np.tile(np.arange(3, dtype=np.int64), (2, 1))
ANGLES = np.arange(12, dtype=np.float32).reshape(6, 2) / 3
CAUSAL = np.tril(np.ones((3, 3), bool))

CASES = {
    "ConvTranspose": [
        (X, [f(4, 5, 3, 3), f(5)], {}, 1),
        (X, [f(4, 3, 3, 3), f(6)], {"group": 2, "strides": [2, 1], "dilations": [1, 2]}, 1),
        (X, [f(4, 1, 3, 3), f(4)], {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
        (X, [f(4, 2, 2, 2), f(8)], {"group": 4}, 1),
        (X, [f(4, 1, 2, 2), f(2)], {"group": 2}, 1),
        (
            X,
            [f(4, 5, 3, 3), f(5)],
            {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]},
            1,
        ),
        (
            X,
            [f(4, 5, 3, 3), f(5)],
            {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
            1,
        ),
        (X, [f(4, 5, 2, 2), f(5)], {"strides": [3, 3], "output_padding": [2, 1]}, 1),
        (X, [f(4, 5, 3, 3)], {"strides": [2, 2], "output_shape": [12, 13]}, 1),
        (
            X,
            [f(4, 5, 4, 3), f(5)],
            {"strides": [2, 2], "output_shape": [11, 12], "auto_pad": "SAME_UPPER"},
            1,
        ),
        (X, [f(4, 5, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 1),
        (X, [f(4, 5, 4, 3)], {"strides": [1, 2], "auto_pad": "SAME_LOWER"}, 1),
        (X, [f(4, 5, 2, 2)], {"strides": [3, 3], "auto_pad": "SAME_LOWER"}, 1),
        (X, [f(4, 5, 2, 2)], {"auto_pad": "VALID", "kernel_shape": [2, 2]}, 1),
        ((2, 4, 7), [f(4, 3, 3), f(3)], {"strides": [2]}, 1),
        ((1, 2, 3, 4, 3), [f(2, 3, 2, 2, 2), f(3)], {"strides": [2, 1, 2]}, 1),
    ],
    "LayerNormalization": [
        ((2, 4, 6), [f(6), f(6)], {"epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(4, 6)], {"axis": 1}, 1),
        (X, [f(6, 6), f(6)], {"axis": -2}, 1),
    ],
    "RMSNormalization": [((2, 4, 6), [f(6)], {"epsilon": 1e-3}, 1), (X, [f(6, 6)], {"axis": 2}, 1)],
    "GroupNormalization": [
        (X, [f(4), f(4)], {"num_groups": 2, "epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(4), f(4)], {"num_groups": 4}, 1),
    ],
    "InstanceNormalization": [
        (X, [f(4), f(4)], {"epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(4), f(4)], {}, 1),
    ],
    "LRN": [
        (X, [], {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 2.0}, 1),
        (X, [], {"size": 5, "alpha": 0.5}, 1),
    ],
    "LpNormalization": [(X, [], {"axis": 1}, 1), ((3, 5), [], {"p": 1}, 1)],
    "MeanVarianceNormalization": [(X, [], {}, 1), ((3, 4, 5), [], {"axes": [1, -1]}, 1)],
    "LSTM": [
        (SEQUENCE, [*recurrent(4), *states(1, count=2)], {"hidden_size": 3}, 3),
        (SEQUENCE, recurrent(4)[:2], {"hidden_size": 3, "direction": "reverse"}, 1),
        (
            SEQUENCE,
            [*recurrent(4, 2), *states(2, count=2)],
            {"hidden_size": 3, "direction": "bidirectional"},
            3,
        ),
        (
            SEQUENCE,
            recurrent(4),
            {"hidden_size": 3, "activations": ["Sigmoid", "Tanh", "Tanh"], "input_forget": 0},
            2,
        ),
        (
            SEQUENCE,
            [*recurrent(4), None, None, None, f(1, 9)],
            {"hidden_size": 3},
            3,
        ),
        (SEQUENCE, recurrent(4), {"hidden_size": 3, "activations": ["Relu", "Tanh", "Tanh"]}, 1),
        (
            SEQUENCE,
            [*recurrent(4, 2), np.array([2, 3], np.int32), None, None, f(2, 9)],
            {"hidden_size": 3, "direction": "bidirectional", "clip": 0.8},
            3,
        ),
        (
            SEQUENCE,
            recurrent(4),
            {
                "hidden_size": 3,
                "activations": ["HardSigmoid", "Softsign", "ScaledTanh"],
                "activation_alpha": [0.3, 0.7],
                "activation_beta": [0.4, 1.5],
            },
            3,
        ),
        (SEQUENCE, [*recurrent(4), np.array([2, 3], np.int32)], {"hidden_size": 3}, 3),
    ],
    "GRU": [
        (SEQUENCE, [*recurrent(3), *states(1)], {"hidden_size": 3}, 2),
        (SEQUENCE, recurrent(3)[:2], {"hidden_size": 3, "direction": "reverse"}, 1),
        (
            SEQUENCE,
            [*recurrent(3, 2), *states(2)],
            {"hidden_size": 3, "direction": "bidirectional", "linear_before_reset": 1},
            2,
        ),
        (SEQUENCE, recurrent(3, 2), {"hidden_size": 3, "direction": "bidirectional"}, 2),
        (SEQUENCE, recurrent(3), {"hidden_size": 3, "activations": ["Tanh", "Tanh"]}, 1),
        (
            SEQUENCE,
            recurrent(3),
            {"hidden_size": 3, "activations": ["Sigmoid", "Softplus"], "linear_before_reset": 1},
            2,
        ),
        (
            SEQUENCE,
            [*recurrent(3, 2), np.array([3, 1], np.int32), *states(2)[1:]],
            {"hidden_size": 3, "direction": "bidirectional", "linear_before_reset": 1},
            2,
        ),
    ],
    "RNN": [
        (SEQUENCE, [*recurrent(1), *states(1)], {"hidden_size": 3}, 2),
        (SEQUENCE, recurrent(1), {"hidden_size": 3, "activations": ["Relu"]}, 2),
        (SEQUENCE, recurrent(1)[:2], {"hidden_size": 3, "direction": "reverse"}, 1),
        (
            SEQUENCE,
            [*recurrent(1, 2), *states(2)],
            {"hidden_size": 3, "direction": "bidirectional"},
            2,
        ),
        (SEQUENCE, recurrent(1), {"hidden_size": 3, "activations": ["Sigmoid"]}, 1),
        *(
            (SEQUENCE, recurrent(1), {"hidden_size": 3, "activations": [a], **numbers}, 1)
            for a, numbers in (
                ("Affine", {"activation_alpha": [0.7], "activation_beta": [0.2]}),
                ("LeakyRelu", {}),
                ("Elu", {"activation_alpha": [0.6]}),
                ("ThresholdedRelu", {}),
                ("HardSigmoid", {}),
            )
        ),
    ],
    "GridSample": [
        (X, [f(2, 3, 5, 2)], {}, 1),
        (X, [f(2, 3, 5, 2)], {"mode": "bicubic", "padding_mode": "reflection"}, 1),
        (X, [f(2, 3, 5, 2)], {"mode": "cubic", "padding_mode": "border"}, 1),
        (X, [f(2, 3, 5, 2)], {"mode": "nearest", "align_corners": 1}, 1),
        ((1, 2, 3, 4, 5), [f(1, 2, 3, 2, 3)], {"mode": "linear", "padding_mode": "border"}, 1),
    ],
    "Attention": [
        ((2, 2, 3, 4), [f(2, 2, 5, 4), f(2, 2, 5, 6)], {"scale": 0.3}, 1),
        (
            (2, 3, 8),
            [f(2, 3, 4), f(2, 3, 6)],
            {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1},
            1,
        ),
        ((2, 2, 3, 4), [f(2, 2, 3, 4), f(2, 2, 3, 4), CAUSAL], {}, 1),
        ((2, 2, 3, 4), [f(2, 2, 3, 4), f(2, 2, 3, 4), f(3, 3)], {"is_causal": 1}, 1),
        ((2, 2, 3, 4), [f(2, 2, 3, 4), f(2, 2, 3, 4)], {"softcap": 2.0}, 1),
        ((2, 2, 3, 4), [f(2, 2, 3, 4), f(2, 2, 3, 4), CAUSAL], {"softcap": 2.0}, 1),
        (
            (2, 4, 3, 4),
            [f(2, 2, 3, 4), f(2, 2, 3, 5), f(3, 7), f(2, 2, 4, 4), f(2, 2, 4, 5)],
            {"is_causal": 1, "qk_matmul_output_mode": 3},
            4,
        ),
        (
            (2, 2, 3, 4),
            [f(2, 2, 6, 4), f(2, 2, 6, 4), f(3, 6), None, None, np.array([5, 6])],
            {},
            1,
        ),
    ],
    "RotaryEmbedding": [
        ((2, 2, 3, 4), [ANGLES, ANGLES, POSITIONS], {}, 1),
        ((2, 3, 8), [ANGLES, ANGLES, POSITIONS], {"num_heads": 2, "interleaved": 1}, 1),
        ((2, 2, 3, 6), [f(2, 3, 2), f(2, 3, 2)], {"rotary_embedding_dim": 4}, 1),
    ],
    "QuantizeLinear": [
        (X, [np.float32(0.02)], {}, 1),
        (X, [np.float32(0.02), np.uint8(120)], {}, 1),
        (X, [f(4, positive=True) / 9, np.array([0, -7, 9, 3], np.int8)], {"axis": 1}, 1),
        (X, [f(4, positive=True) / 999], {"axis": -3, "output_dtype": 5}, 1),
        (X, [f(2, 2, 6, 6, positive=True)], {"axis": 1, "block_size": 2}, 1),
    ],
    "DequantizeLinear": [
        (X, [np.float32(0.02), np.uint8(3)], {}, 1, ("uint8", 0)),
        (X, [f(4), np.array([0, -7, 9, 3], np.int8)], {"axis": 1}, 1, ("int8", 0)),
        (X, [np.float32(0.02)], {}, 1, ("int32", 0)),
        (X, [f(6)], {"axis": -1}, 1, ("int8", 0)),
        (X, [f(2, 2, 6, 6)], {"axis": 1, "block_size": 2}, 1, ("int8", 0)),
    ],
    "DynamicQuantizeLinear": [(X, [], {}, 3), ((3, 5), [], {}, 1)],
    "com.microsoft.EmbedLayerNormalization": [
        (
            "(int32[2,3] x) => (float[2,3,4] y, int32[2] m) "
            f"<float[9,4] w = {{{', '.join(f'{math.sin(n):.3f}' for n in range(36))}}}, "
            "float[4] g = {0.5, 2, -1, 1}> { "
            'y, m = com.microsoft.EmbedLayerNormalization <epsilon = 0.001> (x, "", w, w, "", g, g) }'
        )
    ],
    "com.microsoft.Gelu": [(X, [], {}, 1)],
    "com.microsoft.QuickGelu": [(X, [], {}, 1), (X, [], {"alpha": 1.3}, 1)],
    "com.microsoft.BiasGelu": [((2, 4, 6), [f(6)], {}, 1)],
    "com.microsoft.FastGelu": [((2, 4, 6), [f(6)], {}, 1), (X, [], {}, 1)],
    "com.microsoft.FusedConv": [
        (X, [f(5, 4, 3, 3), f(5)], {"activation": "Relu"}, 1),
        (X, [f(4, 4, 3, 3), f(4), f(2, 4, 4, 4)], {"activation": "Relu"}, 1),
        (X, [f(4, 1, 3, 3)], {"group": 4, "activation": "Tanh", "pads": [1, 0, 1, 2]}, 1),
        (
            X,
            [f(5, 4, 3, 3)],
            {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
            1,
        ),
        (X, [f(5, 4, 3, 3)], {"activation": "LeakyRelu", "activation_params": [0.3]}, 1),
        (X, [f(5, 4, 3, 3)], {"activation": "Clip", "activation_params": [-0.3, 0.5]}, 1),
    ],
    "com.microsoft.FusedGemm": [
        ((3, 4), [f(5, 4), f(5)], {"transB": 1, "activation": "Relu"}, 1),
        ((3, 4), [f(4, 5)], {"alpha": 0.5, "activation": "LeakyRelu", "activation_alpha": 0.3}, 1),
    ],
    "com.microsoft.FusedMatMul": [
        ((3, 4), [f(4, 5)], {"alpha": 0.5}, 1),
        ((2, 3, 4), [f(5, 4)], {"transB": 1, "transBatchB": 0}, 1),
        ((4, 3), [f(4, 5)], {"transA": 1}, 1),
    ],
    "com.microsoft.Attention": [
        ((2, 3, 6), [f(6, 24), f(24)], {"num_heads": 2}, 1),
        ((2, 3, 6), [f(6, 20), f(20)], {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]}, 1),
        ((2, 3, 6), [f(6, 24), f(24)], {"num_heads": 2, "unidirectional": 1, "scale": 0.3}, 1),
        ((2, 3, 8), [f(8, 24), f(24), np.int32([[1, 1, 0], [1, 1, 1]])], {"num_heads": 4}, 1),
        ((2, 3, 8), [f(8, 24), f(24), np.int32([2, 3])], {"num_heads": 2, "unidirectional": 1}, 1),
    ],
    "com.microsoft.MultiHeadAttention": [
        ((2, 3, 8), [f(2, 5, 8), f(2, 5, 12)], {"num_heads": 2}, 1),
        ((2, 3, 8), [f(2, 3, 8), f(2, 3, 8), f(24)], {"num_heads": 2, "scale": 0.3}, 1),
        ((2, 3, 8), [f(2, 3, 8), f(2, 3, 8), None, np.int32([2, 3])], {"num_heads": 4}, 1),
    ],
    "com.microsoft.RotaryEmbedding": [
        ((2, 2, 3, 4), [POSITIONS, ANGLES, ANGLES], {}, 1),
        ((2, 3, 8), [POSITIONS, ANGLES, ANGLES], {}, 1),
        ((2, 3, 8), [POSITIONS, ANGLES, ANGLES], {"interleaved": 1}, 1),
    ],
    "com.microsoft.SkipLayerNormalization": [
        ((2, 4, 6), [f(2, 4, 6), f(6), f(6), f(6)], {"epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(4, 6), f(6)], {}, ["y0", "", "", "y3"]),
    ],
    "com.microsoft.SkipSimplifiedLayerNormalization": [
        ((2, 4, 6), [f(2, 4, 6), f(6), f(6)], {"epsilon": 1e-3}, 1),
        ((2, 4, 6), [f(2, 4, 6), f(6)], {}, ["y0", "", "", "y3"]),
    ],
    "com.microsoft.GroupQueryAttention": [
        (
            (2, 3, 64),
            [f(2, 3, 32), f(2, 3, 32), None, None, np.int32([2, 2]), np.int32(3)],
            {"num_heads": 4, "kv_num_heads": 2, "local_window_size": 2},
            3,
        ),
        (
            (2, 1, 64),
            [
                *(f(2, 1, 32), f(2, 1, 32), f(2, 2, 4, 16), f(2, 2, 4, 16)),
                *(np.int32([4, 2]), np.int32(5), f(9, 8), f(9, 8)),
            ],
            {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "scale": 0.3},
            3,
        ),
        (
            (1, 3, 128),
            [None, None, None, None, np.int32([2]), np.int32(3), f(9, 8), f(9, 8)],
            {
                "num_heads": 4,
                "kv_num_heads": 2,
                "do_rotary": 1,
                "rotary_interleaved": 1,
                "softcap": 0.7,
            },
            3,
        ),
    ],
}
