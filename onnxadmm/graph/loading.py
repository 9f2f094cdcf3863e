"""Loading a model that a stranger may have written: all checks first, then onnx-ir, all in memory."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto

from onnxadmm.errors import ModelError, ResourceError, UnsupportedError, one_line
from onnxadmm.graph import external, structure, tensors
from onnxadmm.graph.child import unpack
from onnxadmm.graph.files import ModelFolder, read_model_file, shown
from onnxadmm.graph.mapping import MAPPED_BYTES, Store, Stored
from onnxadmm.graph.normalise import complete_inputs, name_nodes
from onnxadmm.graph.pieces import serialise
from onnxadmm.graph.sandbox import run_limited
from onnxadmm.graph.wrapping import Wrapping, remember_wrapping, unwrap_outputs

if TYPE_CHECKING:
    import os

# The checker sees names, types and sizes; weights above this many bytes aren't copied for it.
_SKELETON_BYTES = 1024
# Protobuf's numbers for string and bytes; and the bytes that needn't be text.
_TEXTS = {9, 12}
_BINARY = {"raw_data", "string_data", "s"}
# Names are compared, written and shown at every turn; these texts are kept as they are.
_LONG = {"doc_string", "value"}
_NAME_CHARACTERS = 1 << 20
# Its warnings about odd models aren't for the user's terminal.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
_MICROSOFT = "com.microsoft"
Apart = dict[str, external.Held]
_CHECK_TIMEOUT_S = 20.0
_LARGE_BYTES = 1 << 16
_CHECK_MEMORY_BYTES = 2 << 30
# Operators whose second or later inputs are parameters that training changes. An infinity there
# is a diverged training; elsewhere (a mask for Add or Where) it can be meant.
_WEIGHTED = {
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GroupNormalization",
    "GRU",
    "InstanceNormalization",
    "LayerNormalization",
    "LSTM",
    "MatMul",
    "PRelu",
    "RNN",
}


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Load and check an ONNX model. Everything it holds is in memory afterwards, external data too.

    Names, opsets, IR version, metadata, doc strings and symbolic dimensions stay as they are, with
    five exceptions: sparse tensors become dense, training information is dropped, nodes that share a
    name (which ONNX Runtime refuses) get new ones, an input without a shape gets open dimensions, and what makes
    sequences and maps of tensors for outputs waits aside until the model is written (`wrapping`).

    Args:
        path: The model file. External data is read from its folder only.

    Raises:
        ModelError: The file is no valid ONNX model, or reaches out of its folder.
        UnsupportedError: It is valid, but beyond what ONNX Runtime or onnxadmm takes.
        ResourceError: It doesn't fit into memory, or the disk fails.
    """
    file = read_model_file(path)
    name, identity = shown(path), file.identity
    try:
        proto = _parse(file.content)
        # As large as all that is made of it.
        del file
        _check_texts(proto)
        structure.check_structure(proto)
        with ModelFolder(path, identity) as folder:
            held = _absorb(proto, folder)
        # Only now: its tensors were vetted with the others.
        del proto.training_info[:]
        _check_finite(proto, held)
        _check_with_onnx(proto)
        return _to_ir(proto, held, unwrap_outputs(proto))
    except (ModelError, ResourceError) as e:
        raise type(e)(f"model {name}: {e.args[0]}") from None


def _parse(content: bytes) -> ModelProto:
    proto = ModelProto()
    if content[4:8] == b"ORTM":
        raise ModelError("invalid: it is in ORT format, not ONNX; give the original .onnx file")
    try:
        proto.ParseFromString(content)
    except Exception:  # noqa: BLE001  (DecodeError, from a package without types)
        raise ModelError(
            "the file doesn't parse as ONNX: corrupt, truncated or something else; "
            "export or download it again"
        ) from None
    return proto


def _check_texts(proto: ModelProto) -> None:
    """Refuse texts that aren't UTF-8, which protobuf leaves to its readers, and names like whole files."""
    for message in tensors.walk(proto):
        for name, repeated in _text_fields(message.DESCRIPTOR):
            value = getattr(message, name)
            for text in value if repeated else (value,):
                # What isn't UTF-8 in a text field comes as bytes.
                if isinstance(text, bytes) and not _is_utf8(text):
                    kind = message.DESCRIPTOR.name.removesuffix("Proto")
                    raise ModelError(
                        f"invalid text: {name} of a {kind} isn't UTF-8; export the model again"
                    )
                if len(text) > _NAME_CHARACTERS and name not in _LONG:
                    kind = message.DESCRIPTOR.name.removesuffix("Proto")
                    raise UnsupportedError(
                        f"{name} of a {kind} has {len(text)} characters, too large a size for a name (at most "
                        f"{_NAME_CHARACTERS}); name it anew"
                    )


_TEXT_FIELDS: dict[str, list[tuple[str, bool]]] = {}


def _text_fields(descriptor: Any) -> list[tuple[str, bool]]:
    """Return the names of a message's fields that hold text, and whether they hold many."""
    if descriptor.full_name not in _TEXT_FIELDS:
        _TEXT_FIELDS[descriptor.full_name] = [
            (f.name, f.is_repeated)
            for f in descriptor.fields
            if f.type in _TEXTS and f.name not in _BINARY
        ]
    return _TEXT_FIELDS[descriptor.full_name]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _absorb(proto: ModelProto, folder: ModelFolder) -> Apart:
    """Bring external data into memory, check all tensors, make sparse tensors dense."""
    found, sparse = [], []
    for message in tensors.walk(proto):
        if isinstance(message, TensorProto):
            found.append(message)
        elif isinstance(message, SparseTensorProto):
            sparse.append(message)
    if len(sparse) > 1 and sum(map(tensors.dense_bytes, sparse)) > tensors.MAX_DENSE_BYTES * 2:
        raise UnsupportedError(
            "the sparse tensors have together a dense size above the limit; too large"
        )
    held = external.absorb(proto, found, folder)
    if sparse:
        _densify_all(proto)
    return held


def _densify_all(proto: ModelProto) -> None:
    for graph in (m for m in tensors.walk(proto) if isinstance(m, onnx.GraphProto)):
        graph.initializer.extend(tensors.densify(s) for s in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in (m for m in tensors.walk(proto) if isinstance(m, onnx.NodeProto)):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                _make_dense(node, attribute)
            elif attribute.type == AttributeProto.SPARSE_TENSORS:
                raise UnsupportedError("an attribute with sparse tensors; store them dense")


def _make_dense(node: onnx.NodeProto, attribute: AttributeProto) -> None:
    if node.op_type != "Constant" or attribute.name != "sparse_value":
        raise UnsupportedError(
            f"a sparse tensor in an attribute of {one_line(node.op_type, 40)}; store it dense"
        )
    attribute.t.CopyFrom(tensors.densify(attribute.sparse_tensor))
    attribute.ClearField("sparse_tensor")
    attribute.type = AttributeProto.TENSOR
    attribute.name = "value"


def _check_finite(proto: ModelProto, apart: Apart) -> None:
    """Refuse NaN in any tensor with more than one element, and infinity in weights.

    Large weights of the main graph move from the protobuf to `apart`: it copies their bytes at every look.
    """
    store = Store()
    for scope in tensors.walk(proto):
        if not isinstance(scope, onnx.GraphProto | onnx.FunctionProto):
            continue
        held = [(t, t.name) for t in getattr(scope, "initializer", ())]
        movable = {t.name for t, _ in held} if scope is proto.graph else set()
        held += [
            (attribute.t, node.output[0])
            for node in scope.node
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.type == AttributeProto.TENSOR
        ]
        weights = {
            name
            for node in scope.node
            if node.op_type in _WEIGHTED and node.domain in {"", "ai.onnx"}
            for name in node.input
        }
        for tensor, name in held:
            if tensor.data_type in _FLOATS:
                there = apart.get(name) if tensor.data_location else None
                content = (
                    onnx.numpy_helper.to_array(tensor)
                    if there is None
                    else there.array()
                    if isinstance(there, Stored)
                    else there
                )
                _refuse_non_finite(content, name, name in weights)
                large = content.nbytes >= _LARGE_BYTES and tensor.HasField("raw_data")
                if large and name in movable and tensor.data_type == TensorProto.FLOAT:
                    apart[name] = (
                        content
                        if content.nbytes < MAPPED_BYTES
                        else store.add(ir.DataType.FLOAT, content.shape, content)
                    )
                    tensor.ClearField("raw_data")


_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def _refuse_non_finite(array: np.ndarray[Any, Any], name: str, is_weight: bool) -> None:
    # A sum is finite only when every element is, and needs no second array; it may overflow though.
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    finite = np.isfinite(array)
    if finite.all():
        return
    odd = array.size - int(finite.sum())
    has_nan = bool(np.isnan(array).any())
    if is_weight or (has_nan and array.size > 1):
        what = "NaN" if has_nan else "infinity"
        raise ModelError(
            f"tensor {one_line(repr(name), 80)}: {odd} of its {array.size} values are not finite ({what}); "
            "train it again"
        )


def _check_with_onnx(proto: ModelProto) -> None:
    """Run the ONNX checker over the model without its large weights, in a child."""
    payload = serialise(_skeleton(proto))
    answer = run_limited(
        "check", payload, timeout_s=_CHECK_TIMEOUT_S, memory_bytes=_CHECK_MEMORY_BYTES
    )
    reason = unpack(answer)[0]["error"]
    if reason:
        text = re.split(r"==> Context:", reason)[0]
        raise ModelError(f"not valid ONNX: {one_line(text, 170)}; export it again")


def _skeleton(proto: ModelProto) -> ModelProto:
    """Return the model with its large initializers as inputs: the checker's verdict is the same."""
    skeleton = ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            continue
        if field.message_type is not None or field.is_repeated:
            getattr(skeleton, field.name).extend(value)
        else:
            setattr(skeleton, field.name, value)
    graph = skeleton.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    _disown(skeleton)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    for value in (*graph.input, *graph.output):
        # The checker wants a rank, ONNX Runtime doesn't.
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    listed = {v.name for v in graph.input}
    for tensor in proto.graph.initializer:
        if not tensor.data_location and _elements_bytes(tensor) <= _SKELETON_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return skeleton


def _disown(skeleton: ModelProto) -> None:
    """Move what ONNX Runtime adds to the standard's domain into its own, which the checker leaves alone."""
    opset = next((i.version for i in skeleton.opset_import if i.domain in {"", "ai.onnx"}), 1)
    nodes = (m for m in tensors.walk(skeleton) if isinstance(m, onnx.NodeProto))
    own = [n for n in nodes if structure.is_runtimes_own(n, opset)]
    for node in own:
        node.domain = _MICROSOFT
    for scope in (skeleton, *skeleton.functions) if own else ():
        if all(i.domain != _MICROSOFT for i in scope.opset_import):
            scope.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))


def _elements_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor's elements, whether they are in it or were taken out; texts don't count."""
    return 0 if tensor.data_type == TensorProto.STRING else tensors.packed_bytes(tensor)


def _to_ir(proto: ModelProto, held: Apart, wrapping: Wrapping | None) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, RecursionError) as e:
        cause: BaseException = e
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UnsupportedError(
            f"onnx-ir can't read it: {one_line(cause, 150)}; export it again"
        ) from None
    for message in tensors.walk(proto):
        if isinstance(message, TensorProto):
            # onnx-ir took a copy and writes it beside what it finds here: each entry would be there twice.
            del message.metadata_props[:]
    name_nodes(model, unnamed=False)
    complete_inputs(model)
    remember_wrapping(model, wrapping)
    _hold_arrays(model, held)
    return model


def _hold_arrays(model: ir.Model, apart: Apart) -> None:
    """Let large weights be arrays, in place: a protobuf copies its bytes whenever they are asked for.

    Args:
        model: The model.
        apart: Those whose data never was in the protobuf.
    """
    for name, value in model.graph.initializers.items():
        held = value.const_value
        if held is None or not (
            name in apart or (held.dtype == ir.DataType.FLOAT and held.nbytes >= _LARGE_BYTES)
        ):
            continue
        there = apart.get(name)
        if isinstance(there, Stored):
            value.const_value = there.tensor(held)
            continue
        value.const_value = ir.Tensor(
            held.numpy() if there is None else there,
            dtype=held.dtype,
            shape=ir.Shape(held.shape.numpy()),
            name=held.name,
            doc_string=held.doc_string,
            metadata_props=dict(held.metadata_props),
        )
