"""Control of ρ, the penalty's weight.

Large ρ at the start freezes the weights where they are; small ρ at the end leaves W far from Z, and what
the final projection then takes away was never trained for. So ρ grows at each Z/U update, and grows faster
while the primal residual lags behind the dual one (residual balancing: Boyd et al. 2011, section 3.4.1).
The scaled dual must be rescaled at each change, U ← U · ρ_old/ρ_new; the solver does that.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxadmm.spec import Rho

AUTO = Rho(initial=1e-3, growth=1.3, maximum=3.0)
"""The bounds of `rho: auto`; how fast it grows follows from the number of updates, and from the gap."""

CLOSED = 0.02
"""A relative primal residual of this is a closed gap: the final projection takes next to nothing away."""

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
        stretch: staged: updates between two changes.
    """

    initial: float
    growth: float
    maximum: float
    policy: str = "accelerated"
    stretch: int = 1

    def following(self, rho: float, primal: float, dual: float, update: int = 1) -> float:
        """Return a constraint's ρ after an update.

        Args:
            rho: ρ as it was.
            primal: Of this constraint, ||W - Z|| / ||W||, dimensionless.
            dual: ||Z - Z_before|| / ||W||, dimensionless. Not multiplied by ρ: both residuals are then on
                the scale of the weights, whatever the loss's scale is.
            update: Number of the update, from 1.
        """
        lags, leads = primal > IMBALANCE * dual, dual > IMBALANCE * primal
        if self.policy == "constant":
            factor = 1.0
        elif self.policy == "auto":
            factor = self.growth if primal > CLOSED else 1.0
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
    near Z; a constraint whose gap is closed keeps its ρ.
    """
    if isinstance(rho, Rho):
        stretch = max(1, -(-updates // rho.stages))
        return Penalty(rho.initial, rho.growth, rho.maximum, rho.policy, stretch)
    changes = max(updates - 1, 1)  # the one after the last update moves no weight
    growth = (AUTO.maximum / AUTO.initial) ** (1 / changes)
    return Penalty(AUTO.initial, growth, AUTO.maximum, "auto")
