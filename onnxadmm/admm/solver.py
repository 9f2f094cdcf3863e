"""The state of scaled ADMM: a copy Z and a dual U for every constraint and tensor.

    W-step   a few epochs of SGD or Adam on  f(W) + Σ ρ/2 · ||W - Z + U||²
    Z-step   Z ← Π(W + U)
    U-step   U ← U + W - Z

A weight can stand in several constraints; each keeps its own (Z, U) and the penalties add up (consensus
ADMM), so every projection stays exact. Source: arXiv 1804.03294, section 3; Boyd et al. 2011, section 7.

What is sparse is a union of subspaces, one a pattern of zeros. Where Z isn't zero U is, and the penalty only holds W
near its place of the last update: a proximal term, whose weight the solution doesn't depend on. There it is at most
`HOLD`, so that what stays can learn to make up for what goes however large ρ has become.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint, joint_masks, whole_rows
from onnxadmm.admm.penalty import Penalty
from onnxadmm.admm.projections import row_slices

HOLD = 0.1
"""How hard what stays is held at its place of the last update, at most.

LeNet-5 in short trials, one seed, mean loss of the last epoch. At 71 times fewer weights: 0.114 where ρ, up to 3, held
all of W; 0.108 with this; 0.102 where nothing was held. On the demo's coupled channels: 0.043, 0.040, 0.050. There
holding seems to help finding the channels while ρ is small.
"""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Relative residuals after an update: over all constraints, or of one.

    Attributes:
        primal: ||W - Z|| / ||W||. At the end it is what the final projection takes away.
        dual: ||Z - Z_before|| / ||W||.
    """

    primal: float
    dual: float


class Solver:
    """Z, U and ρ over a set of constraints; each has its own ρ, which its own residuals move.

    Memory: two copies of the constrained weights a constraint, Z and U. An update takes the mask of one constraint
    besides, and what its projection takes.
    """

    def __init__(
        self, constraints: Sequence[Constraint], weights: Mapping[str, Tensor], penalty: Penalty
    ) -> None:
        """Start at Z = Π(W), U = 0.

        Args:
            constraints: The sets; their names are distinct.
            weights: The live parameters by name. They are read at each update, never written.
            penalty: How ρ moves.
        """
        self.constraints = list(constraints)
        self.weights = dict(weights)
        self.penalty = penalty
        self.rhos = [penalty.initial] * len(self.constraints)
        self.updates = 0
        self.z: list[dict[str, Tensor]] = []
        self.u: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for c in self.constraints:
                self.z.append(c.project(self._detached(c)))
                self.u.append({n: torch.zeros_like(self.weights[n]) for n in c.tensors})

    @property
    def rho(self) -> float:
        """The largest ρ of all constraints."""
        return max(self.rhos, default=self.penalty.initial)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add ρ · (W - Z + U), the penalty's gradient, to each constrained weight's gradient.

        Of sparse sets, ρ is at most `HOLD` where Z isn't zero.

        Written out instead of differentiated, in place and a few rows at a time: it takes next to no memory, and
        keeps the loss that is reported the loss of the data.
        """
        for rho, c, z, u in zip(self.rhos, self.constraints, self.z, self.u, strict=True):
            for name, copy in z.items():
                weight = self.weights[name]
                if weight.grad is not None:
                    held = min(rho, HOLD) if c.linear else rho
                    weight.grad.add_(weight, alpha=held)
                    weight.grad.add_(copy, alpha=-held)
                    if rho > held:
                        for part, w, z_part in _pieces(weight.grad, weight, copy):
                            part.add_(torch.where(z_part == 0, w, 0.0), alpha=rho - held)
                    weight.grad.add_(u[name], alpha=rho)

    @torch.no_grad()
    def update(self) -> tuple[Residuals, dict[str, Residuals]]:
        """Do the Z-step and the U-step, move ρ, rescale U.

        Returns:
            The residuals over all constraints, and by constraint name.

        Raises:
            ValueError: A weight isn't finite.
        """
        sums = [0.0, 0.0, 0.0]
        each: dict[str, Residuals] = {}
        for c, z, u in zip(self.constraints, self.z, self.u, strict=True):
            for n in c.tensors:
                u[n].add_(self.weights[n])
            # U holds W + U for as long as it is projected: its sum needs no memory of its own.
            parts = [0.0, 0.0, 0.0]
            for n, rows, new in c.closest(u):
                weight, dual, copy = (
                    whole_rows(t)[rows] for t in (self.weights[n].detach(), u[n], z[n])
                )
                parts[0] += _square(weight - new)
                parts[1] += _square(copy.sub_(new))
                parts[2] += _square(weight)
                dual.sub_(new)
                copy.copy_(new)
            each[c.name] = _relative(parts)
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
        self.updates += 1
        for i, (c, u) in enumerate(zip(self.constraints, self.u, strict=True)):
            before, own = self.rhos[i], each[c.name]
            self.rhos[i] = self.penalty.following(before, own.primal, own.dual, self.updates)
            for tensor in u.values():
                tensor.mul_(before / self.rhos[i])
        return _relative(sums), each

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """Return the masks of the weights' own projection (U left out): what stays after ADMM.

        Of a weight in several constraints only what all of them keep stays.
        """
        return joint_masks(self.constraints, {n: w.detach() for n, w in self.weights.items()})

    def duals(self) -> dict[str, dict[str, Tensor]]:
        """Return U, live: constraint -> weight -> dual."""
        return {c.name: u for c, u in zip(self.constraints, self.u, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """Return Z and U as a flat mapping of tensors, for a checkpoint."""
        flat = {f"z.{i}.{n}": t for i, z in enumerate(self.z) for n, t in z.items()}
        flat.update({f"u.{i}.{n}": t for i, u in enumerate(self.u) for n, t in u.items()})
        return flat

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], rhos: Sequence[float], updates: int) -> None:
        """Take Z, U, ρ and the number of updates from a checkpoint."""
        for kind, there in (("z", self.z), ("u", self.u)):
            for i, tensors in enumerate(there):
                for n, tensor in tensors.items():
                    tensor.copy_(state[f"{kind}.{i}.{n}"])
        self.rhos, self.updates = list(rhos), updates

    def _detached(self, constraint: Constraint) -> dict[str, Tensor]:
        return {n: self.weights[n].detach() for n in constraint.tensors}


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of tensors of one shape, as views."""
    whole = [whole_rows(t) for t in tensors]
    return (tuple(t[rows] for t in whole) for rows in row_slices(whole[0]))


def _square(x: Tensor) -> float:
    """Return ||x||² in float64."""
    return float(x.double().square().sum())


def _relative(parts: Sequence[float]) -> Residuals:
    norm = math.sqrt(parts[2]) or 1.0
    return Residuals(math.sqrt(parts[0]) / norm, math.sqrt(parts[1]) / norm)
