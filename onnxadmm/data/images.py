"""Which inputs are images, and where their height and width lie."""

from __future__ import annotations

from onnxadmm.data.dataset import Dataset
from onnxadmm.data.preparing import is_float
from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec import Augment

CHANNELS = range(1, 5)
"""Of an image: grey, grey with alpha, colours, colours with alpha."""
_IMAGE_AXES = 3


def image_inputs(augment: Augment, data: Dataset) -> dict[str, tuple[int, int]]:
    """Return the inputs that augmentation moves, with the axes [N, ...] of their height and width.

    Raises:
        SpecError: No input is an image, one that is named isn't, or labels lie at places of the image.
    """
    if data.labels is not None and data.labels[:1].size > 1:
        raise SpecError(
            f"data.augment: the labels are {list(data.labels.shape[1:])} a sample, and would not move with their "
            "image; drop augment, or let the original teach without labels (objective.loss: distill)"
        )
    found = {name: _axes(augment, data, name) for name in augment.inputs or data.inputs}
    images = {name: axes for name, axes in found.items() if axes is not None}
    if not images:
        raise SpecError(
            "data.augment: no input of the model is an image, [N, C, H, W] or [N, H, W, C] of floats with 1 to 4 "
            "channels; name it in augment.inputs with its layout, or drop augment"
        )
    return images


def _axes(augment: Augment, data: Dataset, name: str) -> tuple[int, int] | None:
    """Return the axes of an input's height and width, or None where it is no image and need not be one."""
    if name not in data.inputs:
        raise SpecError(
            f"data.augment.inputs: {one_line(repr(name), 60)} is no input of the model; it has "
            f"{one_line(', '.join(data.inputs), 100)}"
        )
    stored, preparation = data.inputs[name], data.preparations.get(name)
    sample = stored.shape[1:] if preparation is None else preparation.sample
    kind = stored.dtype if preparation is None else preparation.dtype
    layout: str | None = augment.layout
    if len(sample) != _IMAGE_AXES or not is_float(kind):
        layout = None
    elif layout == "auto":
        fitting = [
            k for k, count in (("NCHW", sample[0]), ("NHWC", sample[2])) if count in CHANNELS
        ]
        layout = fitting[0] if fitting else None
    if layout is not None:
        return (2, 3) if layout == "NCHW" else (1, 2)
    if augment.inputs is None:
        return None
    raise SpecError(
        f"data.augment.inputs: {one_line(repr(name), 60)} takes samples {list(sample)} of {kind}, which are no images "
        "of 1 to 4 channels; name another, or say augment.layout"
    )
