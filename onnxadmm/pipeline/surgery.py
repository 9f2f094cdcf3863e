"""From the channels that shall stay to what is really cut: those, what became useless, empty kernel rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.channels import Labelling, dead_labels
from onnxadmm.compact import (
    Proof,
    cut_channels,
    empty_positions,
    expand_channels,
    fold_idle,
    mask_channels,
    prove,
)
from onnxadmm.graph import Probe
from onnxadmm.pipeline.analysis import Analysis
from onnxadmm.pipeline.journal import Journal

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Surgery:
    """A decision about a graph, in every detail.

    Attributes:
        whole: The graph that is cut, constants folded.
        labelling: Its labels.
        probe: Its shapes.
        dead: Every label that goes: channels and kernel positions.
        kept: Class name -> mask of the channels that stay, for classes that lose some.
        folding: How far folding alone moved the outputs, None where nothing was folded.
    """

    whole: ir.Model
    labelling: Labelling
    probe: Probe
    dead: set[int]
    kept: dict[str, Array]
    folding: Proof | None

    def cut(self) -> ir.Model:
        """Return the graph without what goes."""
        return cut_channels(self.whole, self.labelling, self.probe, self.dead)

    def reference(self, cut: ir.Model) -> ir.Model:
        """Return the whole graph with the cut one's weights and zeros elsewhere, to prove it against."""
        return expand_channels(self.whole, self.labelling, self.dead, cut)


def plan_surgery(
    analysis: Analysis,
    trained: ir.Model,
    kept: Mapping[str, Array],
    steps: Mapping[str, tuple[int, int]],
    *,
    feeds: Feeds,
    journal: Journal,
) -> Surgery:
    """Decide all that goes, and prove that folding constants changed nothing.

    Args:
        analysis: Of the original, whose labels hold for the trained graph too.
        trained: The graph with its final weights.
        kept: Class name -> mask of the channels that shall stay.
        steps: From `channel_steps`.
        feeds: Inputs to compare on.
        journal: Told what went beside what was asked for.

    Raises:
        VerificationError: Folding changed an output: a bug.
    """
    asked = dead_labels(analysis.classes, dict(kept))
    folded = fold_idle(
        trained, analysis.labelling, analysis.probe, analysis.classes, asked, steps=steps
    )
    dead, proof = asked | folded.idle, None
    masks = dict(kept)
    if folded.idle:
        proof = prove(
            mask_channels(trained, analysis.labelling, asked),
            mask_channels(folded.model, folded.labelling, dead),
            feeds,
        )
        for c in analysis.classes:
            going = np.isin(c.labels, list(folded.idle))
            if going.any():
                masks[c.name] = masks.get(c.name, np.ones(c.size, bool)) & ~going
        journal.progress.note(
            f"{len(folded.idle)} channels more go: they are constant, or nothing reads them"
        )
    dead |= empty_positions(folded.model, folded.labelling, folded.probe, dead)
    return Surgery(folded.model, folded.labelling, folded.probe, dead, masks, proof)
