"""What a caller hands in, resolved: a model, a spec, the folder that the spec's paths are relative to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxadmm.compact.unpacking import holds_packed, unpack_tensors
from onnxadmm.data import Dataset, InputInfo, image_inputs, load_split
from onnxadmm.errors import SpecError, UnsupportedError, one_line
from onnxadmm.graph import (
    OTHER_FLOATS,
    Calls,
    Probe,
    inline_functions,
    is_wrapped,
    load_model,
    model_digest,
    model_size,
    output_layout,
    real_inputs,
    remember_wrapping,
    shared_uniform,
    untie_uniform,
    unwrap_outputs,
    wrapping_of,
)
from onnxadmm.ops.filled import filled_weights, materialise_weights
from onnxadmm.pipeline.choosing import choose_weights
from onnxadmm.pipeline.code import Function, load_functions
from onnxadmm.spec import Spec, Split, parse_spec, read_spec

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model
SpecLike = str | os.PathLike[str] | Mapping[str, Any] | Spec


@dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
        model: The graph.
        name: The model's file name, or a stand-in for a graph in memory.
        spec: The spec.
        folder: Where the spec's relative paths start.
        digest: SHA-256 of the serialised model.
        stored_bytes: Size of the model as it came, where loading changed it.
        functions: The objective's functions of the user's own, by key.
        calls: The model's own functions, which are written out in the graph.
    """

    model: ir.Model
    name: str
    spec: Spec
    folder: Path
    digest: str
    stored_bytes: int | None = None
    functions: Mapping[str, Function] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)


def resolve(
    model: ModelLike,
    spec: SpecLike,
    overrides: Iterable[str] = (),
    *,
    allow_code: bool | None = None,
) -> Request:
    """Load and check a model and a spec.

    Args:
        model: A file, or a graph in memory.
        spec: A file, a mapping of plain values, or a parsed spec; relative paths in the last two start
            at the current folder.
        overrides: `key=value` pairs, as `--set` gives them.
        allow_code: Whether functions that the spec names may run; None leaves them out of the request.

    Raises:
        SpecError: The spec is wrong.
        InputError: The model is.
    """
    folder = Path()
    if isinstance(spec, Spec):
        parsed = (
            spec
            if not list(overrides)
            else parse_spec(spec.model_dump(exclude_none=True), overrides)
        )
    elif isinstance(spec, Mapping):
        parsed = parse_spec(spec, overrides)
    else:
        parsed, folder = read_spec(Path(spec), overrides), Path(spec).parent
    functions: dict[str, Function] = {}
    if allow_code is not None:
        functions = load_functions(parsed, folder, allow=allow_code)
    graph, name, stored_bytes, calls = open_model(model)
    choose_weights(graph, parsed.train)
    digest = model_digest(graph)
    return Request(graph, name, parsed, folder, digest, stored_bytes, functions, calls)


def open_model(model: ModelLike) -> tuple[ir.Model, str, int | None, Calls]:
    """Load a model from wherever it is; return it with a name for messages.

    Packed tensors come back as the weights that they hold, shared vectors of one number are untied, and weights
    that a ConstantOfShape makes are held; the third value is then what the model took before. Functions are written out, and the last value can turn
    them into calls again.
    """
    if isinstance(model, ir.Model):
        graph, name = model.clone(), model.graph.name or "model"
    elif isinstance(model, onnx.ModelProto):
        proto = (
            onnx.ModelProto.FromString(model.SerializeToString()) if is_wrapped(model) else model
        )
        wrapping = unwrap_outputs(proto)
        graph, name = ir.from_proto(proto), model.graph.name or "model"
        remember_wrapping(graph, wrapping)
    else:
        graph, name = load_model(model), one_line(Path(model).name, 120)
    stored_bytes = None
    if holds_packed(graph) or shared_uniform(graph) or filled_weights(graph):
        stored_bytes = model_size(graph)
    unpack_tensors(graph)
    untie_uniform(graph)
    calls = inline_functions(graph)
    materialise_weights(graph)
    return graph, name, stored_bytes, calls


def input_infos(model: ir.Model, probe: Probe) -> list[InputInfo]:
    """Return what data the model takes, input by input."""
    infos: list[InputInfo] = []
    for value in real_inputs(model):
        name = value.name or ""
        if name not in probe.shapes:
            raise UnsupportedError(
                f"input {one_line(name, 60)!r} is no tensor; data can't be fed to it"
            )
        shape = value.shape
        dims = tuple(
            d if isinstance(d, int) and d > 0 else str(d)
            for d in (shape if shape is not None else ())
        )
        # The probe may be of the float32 form.
        other = value.dtype is not None and value.dtype in OTHER_FLOATS
        dtype = value.dtype.numpy() if other and value.dtype else np.dtype(probe.dtypes[name])
        infos.append(InputInfo(name, dtype, dims))
    return infos


def output_index(spec: Spec, model: ir.Model) -> int:
    """Return which of the graph's outputs the objective reads.

    By default the first of floats: a classifier of scikit-learn gives the chosen class first. An output that is
    made of one tensor stands for it.
    """
    names = [v.name for v in model.graph.outputs]
    wanted = spec.objective.output
    if wanted is None:
        kinds = [v.dtype for v in model.graph.outputs]
        return next((i for i, k in enumerate(kinds) if k is None or k.is_floating_point()), 0)
    wrapping = wrapping_of(model)
    sources = () if wrapping is None else wrapping.sources.get(wanted, ())
    if len(sources) == 1:
        (wanted,) = sources
    if wanted not in names:
        known = ", ".join(str(n) for n in names)
        raise SpecError(
            f"objective.output: the model has no output {wanted!r}; it has {one_line(known)}"
        )
    return names.index(wanted)


@dataclass(frozen=True)
class Samples:
    """The spec's data, checked whole.

    Attributes:
        train: Samples to train on.
        evaluate: Those held out.
        images: The inputs that `data.augment` moves, with the axes of their height and width.
    """

    train: Dataset
    evaluate: Dataset | None
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def in_float32(self) -> Samples:
        """Return the same samples for the model's float32 form."""
        evaluate = None if self.evaluate is None else self.evaluate.in_float32()
        return replace(self, train=self.train.in_float32(), evaluate=evaluate)


def load_samples(request: Request, probe: Probe) -> Samples | None:
    """Read and check the spec's data, or return None where it has none.

    Raises:
        DataError: A file or array doesn't fit the model; names file, array and the first bad sample.
        SpecError: `data.augment` has no image to move.
    """
    data, objective = request.spec.data, request.spec.objective
    if data is None:
        return None
    infos = input_infos(request.model, probe)
    output = request.model.graph.outputs[output_index(request.spec, request.model)]
    shape, kind = probe.shapes.get(output.name or "", ()), objective.labels
    layout = output_layout(request.model, output_index(request.spec, request.model))
    classes, places = layout.lengths(shape) if kind == "class" else (None, 0)

    def load(split: Split) -> Dataset:
        return load_split(
            split,
            data,
            folder=request.folder,
            inputs=infos,
            classes=classes,
            label_kind=kind,
            places=places,
        )

    train = load(data.train)
    images = image_inputs(data.augment, train) if data.augment is not None else {}
    return Samples(train, load(data.evaluate) if data.evaluate is not None else None, images)
