"""Outputs and gradients against another importer's, wherever that one computes what ONNX Runtime computes."""

from __future__ import annotations

import onnx
import onnx2torch
import onnx_ir as ir
import pytest
import torch
from test_contract import CASES, ROUNDED, cases, data_for, exists, opset_for

from onnxadmm.bench import open_session
from onnxadmm.graph import compare_outputs, model_bytes
from onnxadmm.modules import import_model

OPSET = 13
FEWEST = 60
"""Operators that it is right about, at least: so that this doesn't end up comparing nothing."""


@pytest.mark.filterwarnings("ignore")
def test_onnx2torch_agrees_where_it_is_right():
    compared = set()
    for op in sorted(CASES):
        if "." in op or not exists(op, OPSET) or op in ROUNDED:
            continue
        # As the contract suite has it: its probes serve here too.
        opset = opset_for(op, onnx.defs.get_schema(op, OPSET, "").since_version)
        for model, seen in cases(op, opset)[:2]:
            x = data_for(model, op)
            theirs = converted(model)
            if x.dtype.kind != "f" or theirs is None:
                continue
            session = open_session(model_bytes(model))
            names = [o.name for o in session.get_outputs()]
            expected = session.run(names, {"x": x})
            their_outputs, their_slope = outputs_and_slope(theirs, x)
            if their_outputs is None or compare_outputs(expected, their_outputs) > 1e-5:
                continue
            outputs, slope = outputs_and_slope(import_model(model, seen).module, x)
            assert compare_outputs(their_outputs, outputs) < 1e-5, op
            if slope is not None and their_slope is not None:
                torch.testing.assert_close(slope, their_slope, rtol=1e-4, atol=1e-5)
                compared.add(op)
    assert len(compared) >= FEWEST, sorted(compared)


def converted(model):
    """Return the module that onnx2torch makes, or None where it refuses."""
    try:
        return onnx2torch.convert(ir.to_proto(model)).eval()
    except Exception:  # noqa: BLE001  (converters raise what they like)
        return None


def outputs_and_slope(module, x):
    """Return the outputs and the gradient of x under fixed pulls at them; None where there is none."""
    given = torch.from_numpy(x.copy()).requires_grad_()
    try:
        found = module(given)
    except Exception:  # noqa: BLE001  (what it converted may still fail)
        return None, None
    outputs = found if isinstance(found, tuple | list) else (found,)
    pulled = sum(
        (o * torch.linspace(-1, 1, o.numel()).reshape(o.shape)).sum()
        for o in outputs
        if o.requires_grad
    )
    slope = (
        torch.autograd.grad(pulled, given, allow_unused=True)[0]
        if torch.is_tensor(pulled)
        else None
    )
    return [o.detach().numpy() for o in outputs], slope
