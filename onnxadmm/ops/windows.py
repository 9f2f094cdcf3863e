"""What sliding windows share: convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, text
from onnxadmm.ops._base import CutScope, Shapes, describe


class Window(NamedTuple):
    """A window over the spatial axes, as the standard's attributes describe it.

    `before` and `after` are the pads of each spatial axis, in elements. With SAME pads (`same` names which) they
    are those of one size of the input; `at` gives those of another.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    ceil: bool = False
    same: str = ""

    def at(self, spatial: Sequence[int]) -> Window:
        """Return the window over an input of this spatial shape, its pads settled.

        With SAME pads ceil(size / stride) windows fit; what is odd goes to the end with SAME_UPPER, else to the front.
        """
        if not self.same:
            return self
        before, after = [], []
        for size, reach, stride in zip(spatial, self.spread, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if self.same == "SAME_UPPER" else large)
            after.append(large if self.same == "SAME_UPPER" else small)
        return self._replace(before=tuple(before), after=tuple(after), same="")

    @property
    def spread(self) -> tuple[int, ...]:
        """How many elements of each axis a window reaches over."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether torch can pad by itself: the same on both sides."""
        return self.before == self.after

    def torch_pads(self) -> list[int]:
        """Return the pads in the order of `torch.nn.functional.pad`: last axis first."""
        pairs = zip(reversed(self.before), reversed(self.after), strict=True)
        return [p for pair in pairs for p in pair]


def read_window(node: ir.Node, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
    """Read the attributes of a Conv or a pooling.

    Args:
        node: The node.
        kernel: The kernel's shape, from the attribute or the weight.
        spatial: A concrete spatial shape of the input; SAME pads depend on it.

    Raises:
        UnsupportedError: A kernel, stride or dilation below 1, or an unknown auto_pad.
    """
    ones = [1] * len(kernel)
    strides = tuple(integers(node, "strides", ones))
    dilations = tuple(integers(node, "dilations", ones))
    if min((*kernel, *strides, *dilations), default=1) < 1:
        raise UnsupportedError(
            f"{describe(node)}: kernel {kernel}, strides {strides} and dilations {dilations} must be "
            "at least 1; the model is damaged"
        )
    auto = text(node, "auto_pad", "NOTSET")
    n = len(kernel)
    ceil = bool(integer(node, "ceil_mode", 0))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        zeros = (0,) * n
        open_window = Window(kernel, strides, dilations, zeros, zeros, ceil, auto)
        return open_window.at(spatial)._replace(same=auto)
    if auto not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"{describe(node)}: auto_pad {auto!r} is not in the standard")
    pads = integers(node, "pads", [0] * 2 * n) if auto == "NOTSET" else [0] * 2 * n
    return Window(kernel, strides, dilations, tuple(pads[:n]), tuple(pads[n:]), ceil)


def pad_same(x: Any, window: Window, fill: float = 0.0) -> Any:
    """Pad [N, C, D1..Dn] as SAME asks for at the size that is there."""
    import torch.nn.functional as F  # noqa: N812

    return F.pad(x, window.at(x.shape[2:]).torch_pads(), value=fill)


def kernel_window(node: ir.Node, shapes: Shapes) -> Window:
    """Read the window of a layer with a kernel [O, I, k1..kn] as its second input."""
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    return read_window(node, shapes[weight.name or ""][2:], shapes[x.name or ""][2:])


def resize_kernel(node: ir.Node, scope: CutScope) -> None:
    """Mend pads, dilations and kernel_shape of a layer whose kernel lost positions.

    Position j of an axis reads the input at i · stride + j · dilation - pad. What goes in front is taken
    from the pad before, what goes behind from the pad after; a gap becomes part of the dilation.
    """
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    kernel = scope.shape(weight)[2:]
    if not any(scope.is_cut(weight, 2 + i) for i in range(len(kernel))):
        return
    window = read_window(node, kernel, scope.shape(x)[2:])
    before, after = list(window.before), list(window.after)
    dilations, left = list(window.dilations), list(kernel)
    for i, size in enumerate(kernel):
        stays = np.flatnonzero(scope.alive(weight, 2 + i))
        step, left[i] = dilations[i], len(stays)
        before[i] -= int(stays[0]) * step
        after[i] -= (size - 1 - int(stays[-1])) * step
        if len(stays) > 1:
            dilations[i] = step * int(stays[1] - stays[0])
    mended = {"pads": [*before, *after], "dilations": dilations}
    if "kernel_shape" in node.attributes:
        mended["kernel_shape"] = left
    for name, numbers in mended.items():
        node.attributes[name] = ir.AttrInt64s(name, numbers)
    node.attributes.pop("auto_pad", None)
