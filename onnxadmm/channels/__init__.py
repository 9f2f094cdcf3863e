"""Labels over a whole graph, classes of coupled channels, and how many of each stay."""

from __future__ import annotations

from onnxadmm.channels.classes import ChannelClass, Slice, classify, dead_labels
from onnxadmm.channels.costs import Cost, channel_macs, macs_left, parameters_left, weight_macs
from onnxadmm.channels.labelling import Labelling, label
from onnxadmm.channels.pools import Pool, channels_left, make_pool
from onnxadmm.channels.selection import (
    is_bounded,
    kept_count,
    kept_steps,
    matches,
    patterns,
    ruling,
    select,
)

__all__ = [
    "ChannelClass",
    "Cost",
    "Labelling",
    "Pool",
    "Slice",
    "channel_macs",
    "channels_left",
    "classify",
    "dead_labels",
    "is_bounded",
    "kept_count",
    "kept_steps",
    "label",
    "macs_left",
    "make_pool",
    "matches",
    "parameters_left",
    "patterns",
    "ruling",
    "select",
    "weight_macs",
]
