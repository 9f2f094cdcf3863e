"""Which tensors learn, where the spec says so."""

from __future__ import annotations

import difflib

import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import matches
from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec import Train


def choose_weights(model: ir.Model, train: Train) -> None:
    """Mark the tensors that the spec's `train` section names, in place.

    Raises:
        SpecError: A glob that names no tensor, or one that can't learn.
    """
    found = ops.roles(model)
    for key, globs, learns in (("include", train.include, True), ("exclude", train.exclude, False)):
        for glob in globs:
            hit = [n for n, r in found.items() if matches(_names(n, r), (glob,))]
            if not hit:
                near = difflib.get_close_matches(glob, list(found), n=1, cutoff=0.5)
                hint = (
                    f"did you mean {near[0]!r}?" if near else "`onnxadmm inspect --all` lists them"
                )
                raise SpecError(f"train.{key}: {one_line(glob, 60)!r} names no tensor; {hint}")
            for name in hit:
                role = found[name]
                if learns and role.why.startswith("statistics of"):
                    raise SpecError(
                        f"train.include: {one_line(name, 60)!r} holds {role.why}, which follow the data; use "
                        "`train: {statistics: running}`"
                    )
                ops.choose(role.value, learns=learns)


def _names(name: str, role: ops.Role) -> list[str]:
    """Return what a glob may call a tensor by: its own name, and those of the nodes that read it."""
    nodes = role.readers or tuple(node for node, _ in role.value.uses())
    return [name, *(node.name for node in nodes if node.name)]
