"""Whether a module's gradient is that of what it computes: backward against a finite difference, in float64."""

from __future__ import annotations

import torch


def check_gradient(module, x, step=1e-6):
    """Compare along one random direction in the space of all inputs and parameters: an error anywhere shows.

    Args:
        module: Takes x and returns tensors; it becomes one of float64.
        x: Floats.
        step: Either way, in float64.
    """
    module, x = module.double(), x.double().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    there = dict(module.named_parameters())
    found = module(x)
    learning = [k for k, y in enumerate(found) if y.dtype == x.dtype and y.requires_grad]
    if not learning:
        return
    outputs = [found[k] for k in learning]
    pulls, ways, way = (
        [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
        for tensors in (outputs, there.values(), [x])
    )
    slopes = torch.autograd.grad(outputs, [*there.values(), x], pulls, allow_unused=True)
    claimed = sum(
        (g * d).sum() for g, d in zip(slopes, [*ways, *way], strict=True) if g is not None
    )

    @torch.no_grad()
    def pulled(distance):
        moved = {n: p + distance * d for (n, p), d in zip(there.items(), ways, strict=True)}
        found = torch.func.functional_call(module, moved, (x + distance * way[0],))
        return sum((found[k] * w).sum() for k, w in zip(learning, pulls, strict=True))

    measured = (pulled(step) - pulled(-step)) / (2 * step)
    torch.testing.assert_close(claimed, measured, rtol=1e-5, atol=1e-6)
