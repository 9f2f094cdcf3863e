"""Control of ρ, the penalty's weight.

Large ρ at the start freezes the weights where they are; small ρ at the end leaves W far from Z, and what
the final projection then takes away was never trained for. So ρ grows at each Z/U update, and grows faster
while the primal residual lags behind the dual one (residual balancing: Boyd et al. 2011, section 3.4.1).
The scaled dual must be rescaled at each change, U ← U · ρ_old/ρ_new; the solver does that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxadmm.spec import Rho

AUTO = Rho(initial=1e-3, growth=1.3, maximum=3.0)
"""The bounds of `rho: auto`; how fast it grows follows from the number of updates."""

AIM = 0.3
"""`auto` grows evenly to this over `APPROACH` of its changes, and beyond only where the gap stays.

A higher ρ holds what is inside the set where it was at the last update, instead of letting it learn to make up for
what goes. A trial on LeNet-5 at 246 times fewer weights, a quarter of the data, one seed each: 98.5 % where ρ grew
evenly to 0.1 or 0.3, 98.4 % where `auto` took it to 3.

It doesn't hold everywhere: `models/lenet5/demo.yaml`, coupled channels, reached 99.26 % with it and 99.33 % with an even
growth to 3 (one seed), which that spec names.
"""

APPROACH = 0.75
GAP = 0.1
"""A relative primal residual above this is a gap that `auto` closes with what is left of its updates."""

IMBALANCE = 10.0
"""Residual balancing acts when one residual is this many times the other (Boyd et al., eq. 3.13)."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """The rule by which ρ moves from one update to the next.

    Attributes:
        initial: ρ of the first W-step.
        growth: Factor of a change.
        maximum: ρ never grows beyond it.
        policy: As in the spec (`Rho.policy`), or `auto`.
        stretch: staged: updates between two changes. auto: changes until `AIM`.
        finish: auto: factor of a change beyond `AIM`.
    """

    initial: float
    growth: float
    maximum: float
    policy: str = "accelerated"
    stretch: int = 1
    finish: float = 1.0

    def following(self, rho: float, primal: float, dual: float, update: int = 1) -> float:
        """Return ρ after an update.

        Args:
            rho: ρ as it was.
            primal: ||W - Z|| / ||W||, dimensionless.
            dual: ||Z - Z_before|| / ||W||, dimensionless. Not multiplied by ρ: both residuals are then on
                the scale of the weights, whatever the loss's scale is.
            update: Number of the update, from 1.
        """
        lags, leads = primal > IMBALANCE * dual, dual > IMBALANCE * primal
        if self.policy == "constant":
            factor = 1.0
        elif self.policy == "auto" and update > self.stretch:
            factor = self.finish if primal > GAP else 1.0
        elif self.policy == "staged":
            factor = self.growth if update % self.stretch == 0 else 1.0
        elif self.policy == "balanced":
            factor = self.growth if lags else 1 / self.growth if leads else 1.0
        elif self.policy == "accelerated" and lags:
            factor = self.growth * self.growth
        else:
            factor = self.growth
        return min(rho * factor, max(self.maximum, rho))


def make_penalty(rho: Rho | str, updates: int) -> Penalty:
    """Return the rule for a run of so many Z/U updates.

    `auto` spreads its growth over the updates there are, so that a short run and a long one both end with W
    near Z.
    """
    if isinstance(rho, Rho):
        stretch = max(1, -(-updates // rho.stages))
        return Penalty(rho.initial, rho.growth, rho.maximum, rho.policy, stretch)
    changes = max(updates - 1, 1)  # the one after the last update moves no weight
    approach = math.ceil(APPROACH * changes)
    return Penalty(
        AUTO.initial,
        (AIM / AUTO.initial) ** (1 / approach),
        AUTO.maximum,
        "auto",
        stretch=approach,
        finish=(AUTO.maximum / AIM) ** (1 / max(changes - approach, 1)),
    )
