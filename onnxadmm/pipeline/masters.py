"""Models whose weights are float16, bfloat16 or double: worked on in float32, returned in their own types."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.compact import surviving
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import OTHER_FLOATS, Probe, complete_outputs, constant_of, narrow, probe, widen
from onnxadmm.pipeline.analysis import Analysis, analyse
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.request import Request, Samples
from onnxadmm.pipeline.surgery import Surgery


class Masters:
    """The form of a request's model that is pruned, trained, cut and proven.

    For a model of float32 weights that is the model itself.
    """

    def __init__(self, request: Request, journal: Journal) -> None:
        """Widen the model where it asks for it.

        Raises:
            UnsupportedError: It shall be quantized, and no weight is float32.
            ModelError: ONNX Runtime can't run the model in its own types: the result couldn't be used.
        """
        self._original = request.model
        held = {ops.element_type(v) for v in ops.weights(request.model).values()}
        kinds = {kind.name.lower() for kind in held if kind is not None and kind in OTHER_FLOATS}
        if kinds and request.spec.quantize and ir.DataType.FLOAT not in held:
            raise UnsupportedError(
                f"quantize: the model's weights are {', '.join(sorted(kinds))}, and only layers with float32 weights "
                "become int8; export the model in float32, or leave quantize out"
            )
        self._widened = bool(kinds)
        self.request = request
        if self._widened:
            probe(request.model)
            self.request = replace(request, model=widen(request.model))
            journal.progress.note(
                f"weights in {', '.join(sorted(kinds))}: trained and proven in float32, written in their own type"
            )

    def analyse(self) -> Analysis:
        """Probe and label this form, and give outputs without a shape their rank, in both forms.

        Raises:
            UnsupportedError: It holds no weights.
        """
        found = analyse(self.request.model, self.request.spec)
        for graph in (self._original, self.request.model):
            complete_outputs(graph, found.probe.shapes)
        return found

    def feeds(self, seen: Probe, samples: Samples | None) -> tuple[Samples | None, Inputs]:
        """Return the data as this form takes it, and what it is fed with outside training."""
        if self._widened and samples is not None:
            samples = samples.in_float32()
        request = self.request
        return samples, Inputs(
            request.model, seen.shapes, samples, request.spec.seed, zeros=seen.zeros
        )

    def restore(self, cut: ir.Model, surgery: Surgery) -> ir.Model:
        """Return the cut graph in the original's types; what training left alone keeps its bits.

        Raises:
            DivergedError: A weight has left the range of its type.
        """
        if not self._widened:
            return cut
        before = {
            v.name or "": content
            for v in ops.held_tensors(self._original)
            if (content := constant_of(v)) is not None
        }
        before |= surviving(self._original, surgery.labelling, surgery.dead)
        return narrow(cut, self._original, before)
