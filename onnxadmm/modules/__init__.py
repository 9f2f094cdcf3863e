"""The trainable torch module of a graph, its parameters bound to the graph's weights."""

from __future__ import annotations

from onnxadmm.modules.comparing import Comparison, Parity, compare_with_runtime
from onnxadmm.modules.importing import Imported, Survey, import_model, survey_model
from onnxadmm.modules.pieces import for_any_batch
from onnxadmm.modules.writing import write_back

__all__ = [
    "Comparison",
    "Imported",
    "Parity",
    "Survey",
    "compare_with_runtime",
    "for_any_batch",
    "import_model",
    "survey_model",
    "write_back",
]
