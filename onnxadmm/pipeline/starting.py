"""A first spec for a model: commented, and valid as it is."""

from __future__ import annotations

from pathlib import Path

from onnxadmm.errors import SpecError, UnsupportedError, one_line
from onnxadmm.graph import write_atomic
from onnxadmm.pipeline.inspection import Inspection, inspect
from onnxadmm.spec import parse_spec

TEMPLATE = """\
# A spec for {name}. It runs as it is: without data it removes {what} in one shot, by magnitude.
# The README lists every key with its default.
version: 1

{prune}

# With data, ADMM trains the model towards what is taken away, and the loss of accuracy is small.
# The model takes:
{takes}
# Paths are relative to this file; .npz, .npy and idx files (.gz too) are read.
# data:
#   train:    {{inputs: {{{inputs}}}, labels: train-labels.npy}}
#   evaluate: {{inputs: {{{held_out}}}, labels: test-labels.npy}}
#   preprocess: [{{scale: 0.00392156862745098}}]   # uint8 to 0..1
#   augment: {{flip: horizontal, shift: 0.1}}   # of images, at random before each training step
#   batch_size: 64
# objective: {{loss: cross_entropy, metric: accuracy}}   # or `objective: distill`, which needs no labels
# schedule: {{epochs: 10, retrain: 5}}

# int8 weights and activations (needs data to calibrate):
# quantize:
#   - {{layers: "*"}}

# A smaller file where weights are zero or on few levels; ONNX Runtime unpacks it when it makes the session:
{pack}

# Each list is timed value by value; a provider that isn't there (cuda) is said and left unmeasured.
benchmark: {{providers: [cpu], batch_sizes: [1], threads: [1]}}

# A gate that fails, or can't be measured, makes the exit status 1. A drop is judged by the worse end of its
# interval over the held-out samples, a speedup by the lower end of its own:
# gates: {{max_drop: {{accuracy: 0.005}}, min_speedup: {{cpu: 1.5}}, max_file_bytes: {half_bytes}}}
seed: 0
"""

CHANNELS = """\
# Half of the channels of every class of coupled channels that can go:
{classes}
prune:
  - {{layers: "*", structure: channel, amount: 0.5}}"""

ELEMENTS = """\
# No channel can go: {why}.
# So half of the elements of every weight become zeros, which make the file smaller and nothing faster:
prune:
  - {{layers: "*", structure: unstructured, amount: 0.5}}"""

# A key or value that YAML would read as something else is quoted.
_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def starting_spec(found: Inspection) -> str:
    """Return the text of a spec for an inspected model: for its channels, or for its weights' elements if none can go.

    Raises:
        UnsupportedError: It has neither.
    """
    free = [c for c in found.classes if not c.fixed]
    if not free:
        why = found.classes[0].reason if found.classes else "no layer makes channels"
        if not any(t["learns"] and len(t["shape"]) > 1 for t in found.tensors):
            raise UnsupportedError(
                f"no channel of {one_line(found.name, 60)} can be removed ({one_line(why, 120)}), and no matrix or "
                "filter of it learns; see `onnxadmm inspect`"
            )
        return _filled(found, "elements", ELEMENTS.format(why=one_line(why, 120)), "pack: auto")
    listed = [f"#   {one_line(c.name, 60)}: {c.size} channels" for c in free[:12]]
    if len(free) > len(listed):
        listed.append(f"#   and {len(free) - len(listed)} more; `onnxadmm inspect` lists them")
    return _filled(found, "channels", CHANNELS.format(classes="\n".join(listed)), "# pack: auto")


def _filled(found: Inspection, what: str, prune: str, pack: str) -> str:
    names = list(found.inputs)
    text = TEMPLATE.format(
        name=one_line(found.name, 80),
        what=what,
        prune=prune,
        pack=pack,
        takes="\n".join(
            f"#   {_quoted(n)}: {one_line(kind, 80)}" for n, kind in found.inputs.items()
        ),
        half_bytes=max(1, found.account.file_bytes // 2),
        inputs=", ".join(f"{_quoted(n)}: train.npz" for n in names),
        held_out=", ".join(f"{_quoted(n)}: test.npz" for n in names),
    )
    parse_spec(text)
    return text


def write_starting_spec(model: Path, output: Path, *, force: bool = False) -> None:
    """Write a commented spec for a model.

    Raises:
        SpecError: The output exists, or the model itself would be overwritten.
        UnsupportedError: The model has no channels that can go, and no weights.
    """
    if output.exists() and not force:
        raise SpecError(f"{one_line(output, 100)} exists; choose another name, or use --force")
    if output.exists() and output.samefile(model):
        raise SpecError(f"{one_line(output, 100)} is the model itself; choose another name")
    write_atomic(output, starting_spec(inspect(model)))


def _quoted(name: str) -> str:
    if name and set(name) <= _PLAIN and not name[0].isdigit():
        return name
    escaped = one_line(name, 80).replace("\\\\", "\\\\\\\\").replace('"', '\\\\"')
    return f'"{escaped}"'
