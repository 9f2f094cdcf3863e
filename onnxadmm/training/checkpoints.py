"""Checkpoints: tensors as safetensors, the rest as JSON with their SHA-256; never pickle.

A checkpoint is two files, `NNNNNNNN.safetensors` and `NNNNNNNN.json`. The JSON is written last and names
the hash of the other, and of its own content: a pair that doesn't match never existed. Two are kept, so
that damage to the newest costs one interval.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxadmm.errors import CheckpointError, ResourceError, one_line
from onnxadmm.graph import open_plain, write_atomic
from onnxadmm.training.tensor_files import TensorFile

VERSION = 3
KEPT = 2
# Of the text beside the tensors: the history of a very long run.
_MANIFEST_BYTES = 256 << 20


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        step: Optimizer steps that were done.
        tensors: Weights, Z, U, optimizer state, by name.
        state: Everything else, as JSON values.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: dict[str, Any]

    def under(self, prefix: str, device: torch.device) -> dict[str, Tensor]:
        """Return the tensors whose names start so, on the device, without the prefix."""
        names = [n for n in self.tensors if n.startswith(prefix)]
        return {n[len(prefix) :]: self.tensors[n].to(device) for n in names}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself, without its tensors.

    Attributes:
        step: Optimizer steps that were done.
        identity: What its run belongs to, as text by field.
    """

    step: int
    identity: Mapping[str, str]


class CheckpointStore:
    """The checkpoints of one run in one folder."""

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Open a folder; it is made at the first save.

        Args:
            folder: Where the files are.
            identity: What the run belongs to, as text by field: model, spec, data, versions.
        """
        self.folder = folder
        self.identity = dict(identity)
        self.damaged: list[str] = []
        """Names of the checkpoints that the last `load` passed over."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, all or nothing, and drop those before the last two.

        Those of later steps go too: the run was resumed before them, since they were damaged.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ResourceError(
                f"checkpoints in {one_line(self.folder, 100)}: {e.strerror}; choose another folder"
            ) from None
        content = TensorFile(checkpoint.tensors)
        stem = f"{checkpoint.step:08d}"
        document = {
            "version": VERSION,
            "identity": self.identity,
            "step": checkpoint.step,
            "sha256": content.sha256(),
            "state": checkpoint.state,
        }
        document["digest"] = _digest(document)
        write_atomic(self.folder / f"{stem}.safetensors", content)
        write_atomic(self.folder / f"{stem}.json", json.dumps(document, indent=1) + "\n")
        kept = [s for s in self._stems() if int(s) <= checkpoint.step][-KEPT:]
        # The manifest first: without it the tensors are no checkpoint.
        for suffix in ("json", "safetensors"):
            for old in set(self._stems(suffix)) - set(kept):
                (self.folder / f"{old}.{suffix}").unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None where there is none.

        A damaged one is skipped for the one before, and named in `damaged`.

        Raises:
            CheckpointError: It belongs to another model, spec, data or version; names what differs.
        """
        self.damaged = []
        for stem in reversed(self._stems()):
            found = self._read(stem)
            if found is not None:
                return found
            self.damaged.append(stem)
        return None

    def newest(self) -> Manifest | None:
        """Return what the newest checkpoint says of itself, whatever it belongs to; its tensors aren't looked at."""
        for stem in reversed(self._stems()):
            document = self._manifest(stem)
            if document is not None:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return Manifest(int(document["step"]), dict(document["identity"]))
        return None

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in sorted(self.folder.glob("*.json")) + sorted(self.folder.glob("*.safetensors")):
            path.unlink(missing_ok=True)

    def _stems(self, suffix: str = "json") -> list[str]:
        """Return the checkpoints' names, by step."""
        names = (p.stem for p in self.folder.glob(f"*.{suffix}"))
        return sorted((n for n in names if n.isascii() and n.isdigit()), key=int)

    def _manifest(self, stem: str) -> dict[str, Any] | None:
        """Return a manifest that is whole."""
        try:
            with open_plain(self.folder / f"{stem}.json") as file:
                document: dict[str, Any] = json.loads(file.read(_MANIFEST_BYTES))
            whole = document.pop("digest") == _digest(document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return document if whole else None

    def _read(self, stem: str) -> Checkpoint | None:
        tensors = self.folder / f"{stem}.safetensors"
        document = self._manifest(stem)
        if document is None:
            return None
        try:
            with open_plain(tensors) as file:
                if document["sha256"] != hashlib.file_digest(file, "sha256").hexdigest():
                    return None
            version, identity = document["version"], dict(document["identity"])
            step, state = int(document["step"]), dict(document["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if version != VERSION:
            raise CheckpointError(
                f"checkpoint {stem}: version {version}, this onnxadmm reads {VERSION}; start a new folder"
            )
        for field, value in self.identity.items():
            if identity.get(field) != value:
                raise CheckpointError(
                    f"checkpoint {stem}: the run's {field} is not the checkpoint's "
                    f"({one_line(value, 24)} against {one_line(identity.get(field), 24)}); resume with what "
                    "it was started with, or choose a new output folder"
                )
        return Checkpoint(step, _load(tensors, stem), state)


def _load(path: Path, stem: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # One at a time, and none that lies in the file: it may be removed while the run goes on.
            return {name: file.get_tensor(name).clone() for name in file.offset_keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:
        raise CheckpointError(
            f"checkpoint {stem}: its tensors can't be read ({one_line(e, 100)}); --restart starts anew"
        ) from None


def _digest(document: Mapping[str, Any]) -> str:
    """Return the hash of a manifest's content, however it is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def fitting(checkpoint: Checkpoint) -> Iterator[None]:
    """Within it a checkpoint is taken up: what it lacks or has too much is its own fault.

    Raises:
        CheckpointError: It doesn't hold the state of such a run, though it is whole.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise CheckpointError(
            f"checkpoint of step {checkpoint.step}: what it holds is not the state of this run "
            f"({type(e).__name__}: {one_line(e, 100)}); --restart starts anew"
        ) from None


def require_alike(stored: Any, fresh: Any) -> None:
    """Refuse a stored JSON value that is built otherwise than the one that a new run has in its place.

    Raises:
        ValueError: It is.
    """
    if isinstance(fresh, Mapping):
        if not isinstance(stored, Mapping) or set(stored) != set(fresh):
            raise ValueError(f"{one_line(stored, 40)} in place of {one_line(fresh, 40)}")
        for name, value in fresh.items():
            require_alike(stored[name], value)
    elif isinstance(fresh, list | tuple):
        if not isinstance(stored, list | tuple) or len(stored) != len(fresh):
            raise ValueError(f"{one_line(stored, 40)} in place of {one_line(fresh, 40)}")
        for one, other in zip(stored, fresh, strict=True):
            require_alike(one, other)
    elif stored is not None and fresh is not None and _kind(stored) is not _kind(fresh):
        raise ValueError(f"{one_line(stored, 40)} in place of {one_line(fresh, 40)}")


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by name and JSON values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            name = f"optimizer.{index}.{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            elif value is not None:
                plain[name] = value
    return tensors, plain


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put back what `pack_optimizer` took out.

    Raises:
        ValueError: Weights of a kind don't have the same state, or one of another shape.
    """
    state: dict[int, dict[str, Any]] = {}
    for source in (tensors, plain):
        for name, value in source.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
    document = optimizer.state_dict()
    document["state"] = state
    optimizer.load_state_dict(document)
    kept: dict[bool, frozenset[str]] = {}
    for weight, held in optimizer.state.items():
        names = frozenset(held)
        # Some keep less of what has one axis.
        if kept.setdefault(weight.dim() > 1, names) != names:
            raise ValueError(
                f"the optimizer keeps {sorted(names)} of one weight, and not of others"
            )
        for value in held.values():
            if isinstance(value, Tensor):
                value.expand(weight.shape)
