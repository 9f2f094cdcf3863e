"""Fourier transforms, and the windows in front of them.

A complex tensor's last axis holds its real and imaginary parts; where it has one element, the tensor is real.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import BuildScope, Operator, describe, register
from onnxadmm.ops.element_types import torch_type
from onnxadmm.ops.sizes import known


class Spectral(Operator):
    """An operator whose every output is made of a whole axis."""

    # Positions and parts of complex numbers are counted.
    fixes = " is computed over all of these"


@register
class DFT(Spectral):
    """The discrete Fourier transform along one axis, or its inverse."""

    op_type = "DFT"
    versions: ClassVar[tuple[int, ...]] = (20,)
    attributes = frozenset({"inverse", "onesided"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch.fft."""
        return scope.call(
            transform,
            scope.tensor(node.inputs[0]),
            _number(node, 1, scope),
            self._axis(node, scope),
            inverse=bool(integer(node, "inverse", 0)),
            onesided=bool(integer(node, "onesided", 0)),
        )

    def _axis(self, node: ir.Node, scope: BuildScope) -> Any:
        axis = _number(node, 2, scope)
        return -2 if axis is None else axis


@register
class OldDFT(DFT):
    """The transform of opset 17, whose axis is an attribute."""

    versions: ClassVar[tuple[int, ...]] = (17,)
    attributes = DFT.attributes | {"axis"}

    def _axis(self, node: ir.Node, scope: BuildScope) -> Any:
        del scope
        return integer(node, "axis", 1)


def _number(node: ir.Node, port: int, scope: BuildScope) -> Any:
    """Return an input [] or [1] as a number where no run changes it, else as a tensor; None where it is absent."""
    value = node.inputs[port] if port < len(node.inputs) else None
    held = None if value is None else known(value, scope)
    return scope.tensor(value) if held is None else int(held.reshape(()))


def transform(x: Any, length: Any, axis: Any, *, inverse: bool, onesided: bool) -> Any:
    """Transform `x` along an axis.

    Args:
        x: [..., 1] or [..., 2].
        length: The axis is cropped or filled with zeros to it; None is its own. Of the inverse of one side,
            the result's.
        axis: Counted with the last one, which holds real and imaginary parts.
        inverse: Whether to transform back.
        onesided: Whether a spectrum holds only its first half: the other one is its mirror.

    Returns:
        [..., 2]; [..., 1] of the inverse of one side.
    """
    import torch

    axis, length = int(axis) % x.dim(), None if length is None else int(length)
    signal = x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    if inverse and onesided:
        return torch.fft.irfft(signal, n=length, dim=axis).unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, n=length, dim=axis))
    spectrum = torch.fft.fft(signal, n=length, dim=axis)
    if onesided:
        spectrum = spectrum.narrow(axis, 0, spectrum.shape[axis] // 2 + 1)
    return torch.view_as_real(spectrum)


@register
class STFT(Spectral):
    """Fourier transforms of overlapping frames: signal [N, T, 1 or 2] to [N, frames, bins, 2]."""

    op_type = "STFT"
    versions = (17,)
    attributes = frozenset({"onesided"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's unfold and torch.fft.

        Raises:
            UnsupportedError: Neither a window nor the length of a frame.
        """
        window = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
        length = _number(node, 3, scope)
        if window is None and length is None:
            raise UnsupportedError(
                f"{describe(node)}: it has neither a window nor a frame length; export the model again"
            )
        return scope.call(
            frame_spectra,
            scope.tensor(node.inputs[0]),
            _number(node, 1, scope),
            scope.tensor(window),
            length,
            bool(integer(node, "onesided", 1)),
        )


def frame_spectra(x: Any, step: Any, window: Any, length: Any, onesided: bool) -> Any:
    """Return the spectrum of each whole frame.

    Args:
        x: [N, T, 1] or [N, T, 2].
        step: From the start of one frame to that of the next.
        window: [length], or None for ones.
        length: Of a frame; None is the window's.
        onesided: Whether to return the first half of each spectrum.
    """
    size = len(window) if length is None else int(length)
    frames = x.unfold(1, size, int(step)).movedim(-1, 2)
    if window is not None:
        frames = frames * window[:, None]
    return transform(frames, None, 2, inverse=False, onesided=onesided)


class WindowFunction(Spectral):
    """A window [size]: ones in the middle, less towards the ends."""

    versions = (17,)
    attributes = frozenset({"output_datatype", "periodic"})
    function: ClassVar[str]
    terms: ClassVar[tuple[float, ...]] = ()
    """What torch's function takes beside size and period."""

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's window function."""
        kind = torch_type(ir.DataType(integer(node, "output_datatype", ir.DataType.FLOAT)))
        periodic = bool(integer(node, "periodic", 1))
        size = scope.tensor(node.inputs[0])
        return scope.call(_window, self.function, size, periodic, self.terms, kind)


def _window(function: str, size: Any, periodic: bool, terms: tuple[float, ...], kind: Any) -> Any:
    """Return the window on the device of its size."""
    import torch

    made = getattr(torch, function)
    found = made(int(size), periodic, *terms, dtype=torch.float32, device=size.device)
    return found.to(kind)


@register
class HannWindow(WindowFunction):
    """sin²."""

    op_type, function = "HannWindow", "hann_window"


@register
class HammingWindow(WindowFunction):
    """25 / 46 - 21 / 46 · cos."""

    op_type, function, terms = "HammingWindow", "hamming_window", (25 / 46, 21 / 46)


@register
class BlackmanWindow(WindowFunction):
    """0.42 - 0.5 · cos + 0.08 · cos of twice the angle."""

    op_type, function = "BlackmanWindow", "blackman_window"
