"""If, Loop and Scan: subgraphs as torch modules, chosen and repeated by Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from onnxadmm.modules.deadline import require_time


class Branches(nn.Module):
    """If: one of two subgraphs. Takes the condition and what the subgraphs read from around them."""

    def __init__(self, then: nn.Module, otherwise: nn.Module) -> None:
        """Hold both branches."""
        super().__init__()
        self.then, self.otherwise = then, otherwise

    def forward(self, condition: Any, *captured: Any) -> Any:
        """Run the branch that the condition chooses."""
        return self.then(*captured) if bool(condition) else self.otherwise(*captured)


class Repetition(nn.Module):
    """Loop: a subgraph that hands values on to its next run, and what each run yields stacked."""

    def __init__(self, body: nn.Module, carried: int, rows: Sequence[tuple[Any, Any]]) -> None:
        """Hold the body.

        Args:
            body: Takes the number of the run, the condition, the carried values and what it reads from around
                it; returns the next condition, the carried values and what it yields.
            carried: How many values are carried.
            rows: Shape and type of what is yielded in a run, for a loop that never runs.
        """
        super().__init__()
        self.body, self._carried, self._rows = body, carried, list(rows)

    def forward(self, limit: Any, condition: Any, *values: Any) -> tuple[Any, ...]:
        """Run the body until the limit or the condition ends it."""
        state, captured = list(values[: self._carried]), values[self._carried :]
        device = next((v.device for v in values if isinstance(v, torch.Tensor)), None)
        going = torch.tensor(True) if condition is None else condition
        yielded: list[list[Any]] = [[] for _ in self._rows]
        run = 0
        while bool(going) and (limit is None or run < int(limit)):
            require_time()
            number = torch.tensor(run, dtype=torch.int64, device=device)
            going, *found = self.body(number, going, *state, *captured)
            state = found[: self._carried]
            for rows, row in zip(yielded, found[self._carried :], strict=True):
                rows.append(row)
            run += 1
        stacked = [
            torch.stack(rows) if rows else torch.empty((0, *shape), dtype=kind, device=device)
            for rows, (shape, kind) in zip(yielded, self._rows, strict=True)
        ]
        return (*state, *stacked)


class Sweep(nn.Module):
    """Scan: a subgraph run over the slices of sequences, with values handed on."""

    def __init__(
        self,
        body: nn.Module,
        states: int,
        reads: Sequence[tuple[int, bool]],
        writes: Sequence[tuple[int, bool]],
    ) -> None:
        """Hold the body.

        Args:
            body: Takes the states, a slice of each sequence and what it reads from around it; returns the
                states and a slice of each result.
            states: How many values are handed on.
            reads: Axis and whether it is read from its end, of each sequence.
            writes: The same of each result.
        """
        super().__init__()
        self.body, self._states = body, states
        self._reads, self._writes = list(reads), list(writes)

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Run the body over all slices."""
        state = list(values[: self._states])
        last = self._states + len(self._reads)
        sequences, captured = values[self._states : last], values[last:]
        slices = [
            list(s.unbind(axis))[::-1] if backwards else s.unbind(axis)
            for s, (axis, backwards) in zip(sequences, self._reads, strict=True)
        ]
        results: list[list[Any]] = [[] for _ in self._writes]
        for row in zip(*slices, strict=True):
            require_time()
            found = self.body(*state, *row, *captured)
            state = list(found[: self._states])
            for result, piece in zip(results, found[self._states :], strict=True):
                result.append(piece)
        stacked = [
            torch.stack(pieces[::-1] if backwards else pieces, axis)
            for pieces, (axis, backwards) in zip(results, self._writes, strict=True)
        ]
        return (*state, *stacked)


def evaluate(graph: Any, root: nn.Module, known: dict[Any, Any], wanted: Any) -> Any:
    """Return what a node of a torch graph under construction computes on sample inputs.

    Args:
        graph: The graph; its nodes stand in the order of their dependence.
        root: Holds what its nodes refer to.
        known: Node -> value; those of placeholders must be there. Receives what is computed.
        wanted: The node.
    """
    needed, waiting = {wanted}, [wanted]
    while waiting:
        node = waiting.pop()
        fresh = [n for n in node.all_input_nodes if n not in needed and n not in known]
        needed.update(fresh)
        waiting += fresh
    with torch.no_grad():
        for node in graph.nodes:
            if node in needed and node not in known:
                args = torch.fx.map_arg(node.args, known.__getitem__)
                kwargs = torch.fx.map_arg(node.kwargs, known.__getitem__)
                known[node] = _run(node, root, args, kwargs)
    return known[wanted]


def _run(node: Any, root: nn.Module, args: Any, kwargs: Any) -> Any:
    if node.op == "get_attr":
        owner: Any = root
        for part in node.target.split("."):
            owner = getattr(owner, part)
        return owner
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    if node.op == "call_module":
        return root.get_submodule(node.target)(*args, **kwargs)
    return node.target(*args, **kwargs)
