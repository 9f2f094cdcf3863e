"""What Torch-Pruning keeps of an architecture at a nominal half of the channels, from the torch network.

Its own example's settings: by magnitude, in one step, classifiers of 1000 classes left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from architectures import DETECTION, architecture

CLASSES = 1000


def kept(name: str) -> float:
    """Return the share of parameters that stays; what doesn't run any more raises."""
    import torch_pruning

    torch.set_num_threads(1)
    recipe = architecture(name)
    network = recipe.build()
    before = torch_pruning.utils.count_params(network)
    tensors = tuple(recipe.inputs.values())
    example: Any = tensors[0] if len(tensors) == 1 else tensors
    if name in DETECTION:
        example = [[tensors[0]]]
    for p in network.parameters():
        p.requires_grad_(requires_grad=True)
    last = [m for m in network.modules() if getattr(m, "out_features", 0) == CLASSES]
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        example_inputs=example,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        iterative_steps=1,
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    pruner.step()
    share = torch_pruning.utils.count_params(network) / before
    with torch.no_grad():
        network(*([tensors[0]],) if name in DETECTION else tensors)
    return float(share)
