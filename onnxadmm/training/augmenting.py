"""Images moved at random before each training step: mirrored, shifted, turned, zoomed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from onnxadmm.spec import Augment

_FLIPS = {
    None: (False, False),
    "horizontal": (False, True),
    "vertical": (True, False),
    "both": (True, True),
}
_DRAWS = 6
"""Random numbers an image: a mirror and a shift along each axis, an angle, a size."""
_STREAM = 1
"""Sets these random numbers apart from those that order the samples."""


class Augmentation:
    """Moves a batch's images. How a sample moves follows from the seed, the epoch and the sample alone.

    So a resumed run moves it as the one before would have, and so do several processes.
    """

    def __init__(
        self, augment: Augment, images: Mapping[str, tuple[int, int]], samples: int, seed: int
    ) -> None:
        """Prepare.

        Args:
            augment: How far images move.
            images: Input -> axes of its height and width.
            samples: Samples of the training set.
            seed: The run's.
        """
        self._augment, self._images = augment, dict(images)
        self._samples, self._seed = samples, seed
        self._epoch: int | None = None
        self._draws = np.empty((0, _DRAWS), np.float32)

    def begin(self, epoch: int) -> None:
        """Draw for an epoch, by its number in the run."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        random = np.random.default_rng([self._seed, epoch, _STREAM])
        self._draws = random.random((self._samples, _DRAWS), np.float32)

    def __call__(
        self, names: Sequence[str], batch: Sequence[Tensor], index: np.ndarray[Any, Any]
    ) -> list[Tensor]:
        """Return a batch with its images moved; all images of a sample move alike.

        Args:
            names: The inputs, in order.
            batch: Their values, [B, ...] each.
            index: Which samples of the training set they are, [B].
        """
        draws = torch.from_numpy(self._draws[index])
        return [
            self._moved(values, self._images[name], draws.to(values))
            if name in self._images
            else values
            for name, values in zip(names, batch, strict=True)
        ]

    def _moved(self, values: Tensor, axes: tuple[int, int], draws: Tensor) -> Tensor:
        """Return [B, ...] images moved as [B, _DRAWS] numbers in 0..1 say."""
        wanted = _FLIPS[self._augment.flip]
        for axis, flips, draw in zip(axes, wanted, draws.T[:2], strict=True):
            if flips:
                chosen = (draw < 0.5).view(-1, 1, 1, 1)  # noqa: PLR2004  (half of them)
                values = torch.where(chosen, values.flip(axis), values)
        if not (self._augment.shift or self._augment.rotate or self._augment.zoom):
            return values
        last = axes == (1, 2)
        images = values.movedim(3, 1) if last else values
        grid = affine_grid(
            self._maps(images, draws[:, 2:]), list(images.shape), align_corners=False
        )
        moved = grid_sample(images, grid, padding_mode="border", align_corners=False)
        return moved.movedim(1, 3) if last else moved

    def _maps(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return [B, 2, 3]: where in the image, in -1..1 by width and height, each place takes its value from."""
        height, width = images.shape[2:]
        spread = 2 * draws - 1
        sizes = torch.tensor([height, width]).to(draws)
        # Whole pixels: a shift alone blurs nothing.
        down, right = ((spread[:, :2] * self._augment.shift * sizes).round() * 2 / sizes).T
        angle = spread[:, 2] * math.radians(self._augment.rotate)
        size = 1 + spread[:, 3] * self._augment.zoom
        cos, sin = angle.cos() / size, angle.sin() / size
        # A turn is one in pixels, whatever the shape of the image.
        rows = [
            torch.stack([cos, -sin * height / width, -right], 1),
            torch.stack([sin * width / height, cos, -down], 1),
        ]
        return torch.stack(rows, 1)
