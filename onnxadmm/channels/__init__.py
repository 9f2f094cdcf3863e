"""Labels over a whole graph, classes of coupled channels, and how many of each stay."""

from __future__ import annotations

from onnxadmm.channels.classes import ChannelClass, Slice, classify, dead_labels
from onnxadmm.channels.costs import channel_macs
from onnxadmm.channels.labelling import Labelling, label
from onnxadmm.channels.selection import kept_count, kept_steps, matches, patterns, select

__all__ = [
    "ChannelClass",
    "Labelling",
    "Slice",
    "channel_macs",
    "classify",
    "dead_labels",
    "kept_count",
    "kept_steps",
    "label",
    "matches",
    "patterns",
    "select",
]
