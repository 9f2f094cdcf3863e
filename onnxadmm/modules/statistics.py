"""BatchNormalization that learns: the batch's statistics in training, running ones that follow them elsewhere."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn


class RunningNorm(nn.Module):
    """Batch normalisation in either mode; the running statistics are the caller's tensors, changed in place."""

    def __init__(self, eps: float, momentum: float) -> None:
        """Hold the numbers.

        Args:
            eps: Added to the variance.
            momentum: The new batch's share of the running statistics.
        """
        super().__init__()
        self._eps, self._momentum = eps, momentum

    def forward(self, x: Tensor, mean: Tensor, variance: Tensor, scale: Any, bias: Any) -> Tensor:
        """Normalise x [N, C, ...] by channel; one value a channel has no variance: running ones serve it."""
        training = self.training and x.numel() > x.shape[1]
        return F.batch_norm(
            x,
            mean,
            variance,
            weight=scale,
            bias=bias,
            training=training,
            momentum=self._momentum,
            eps=self._eps,
        )


def detach_statistics(module: fx.GraphModule) -> None:
    """Let no gradient reach statistics, in place: exporters store equal tensors once, a bias and a mean alike."""
    parameters = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not F.batch_norm:
            continue
        for held in node.args[1:]:
            if held.op == "get_attr" and held.target in parameters:
                with module.graph.inserting_before(node):
                    node.replace_input_with(held, module.graph.call_method("detach", (held,)))
                # The same tensor may be its bias as well, which learns.
                for name in ("weight", "bias"):
                    if node.kwargs[name] is not None and node.kwargs[name].target == "detach":
                        node.update_kwarg(name, held)


def let_statistics_run(module: fx.GraphModule) -> list[str]:
    """Let every batch normalisation of a module learn, in place; return the paths of its statistics.

    Only such a one changes whose statistics the module itself holds.
    """
    buffers = dict(module.named_buffers())
    paths: list[str] = []
    for number, node in enumerate(list(module.graph.nodes)):
        if node.op != "call_function" or node.target is not F.batch_norm:
            continue
        x, mean, variance = node.args
        held = [n.target for n in (mean, variance) if n.op == "get_attr" and n.target in buffers]
        if len(held) < 2:  # noqa: PLR2004  (mean and variance)
            continue
        options = node.kwargs
        norm = RunningNorm(options["eps"], options.get("momentum", 0.1))
        name = f"running_norm_{number}"
        module.add_submodule(name, norm)
        with module.graph.inserting_before(node):
            new = module.graph.call_module(
                name, (x, mean, variance, options["weight"], options["bias"])
            )
        # Whoever looks a value's node up by name still finds it.
        node.replace_all_uses_with(new)
        old = node.name
        module.graph.erase_node(node)
        new.name = old
        paths += held
    module.recompile()
    return list(dict.fromkeys(paths))
