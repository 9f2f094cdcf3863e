"""A run that was stopped anywhere and resumed is the run that was not; damage costs one interval."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch
from runs import IDENTITY, STEPS, Network, outcome, trainer
from stopping import StopAfter

from onnxadmm.errors import CheckpointError, Interrupted, ResourceError
from onnxadmm.progress import Silent
from onnxadmm.spec import Objective, Optimizer, Rho
from onnxadmm.training import Checkpoint, CheckpointStore, engine

TOTAL = {"admm": 3 * STEPS, "retrain": 2 * STEPS}


def masks_for(kind):
    if kind == "admm":
        return None
    generator = torch.Generator().manual_seed(3)
    binding = Network().imported.binding
    return {n: torch.rand(w.shape, generator=generator) > 0.5 for n, w in binding.items()}


def run(kind, folder, stop=None, **kwargs):
    store = None if folder is None else CheckpointStore(folder, IDENTITY)
    net, made = trainer(kind, store, masks_for(kind), stop=stop, **kwargs)
    return net, made.run()


@pytest.fixture(scope="module")
def whole():
    return {kind: outcome(*run(kind, None)) for kind in TOTAL}


@pytest.mark.parametrize("kind", TOTAL)
def test_a_run_that_keeps_checkpoints_is_the_one_that_does_not(kind, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", -1.0)
    assert outcome(*run(kind, tmp_path)) == whole[kind]


@pytest.mark.parametrize(
    ("kind", "steps"), [(kind, k) for kind, total in TOTAL.items() for k in range(1, total + 1)]
)
def test_resumed_after_any_step_the_result_is_the_same_bit_for_bit(kind, steps, whole, tmp_path):
    with pytest.raises(Interrupted):
        run(kind, tmp_path, StopAfter(steps))
    assert CheckpointStore(tmp_path, IDENTITY).load().step == steps
    assert outcome(*run(kind, tmp_path)) == whole[kind]


@pytest.mark.parametrize("kind", TOTAL)
def test_stopped_at_every_single_step_the_result_is_the_same(kind, whole, tmp_path):
    for _ in range(TOTAL[kind]):
        with pytest.raises(Interrupted):
            run(kind, tmp_path, StopAfter(1))
    assert outcome(*run(kind, tmp_path)) == whole[kind]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_optimizers_state_is_resumed(optimizer, momentum, tmp_path):
    given = {"optimizer": Optimizer(name=optimizer, lr=0.01, momentum=momentum, weight_decay=0.01)}
    expected = outcome(*run("admm", None, schedule=given))
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(6), schedule=given)
    assert outcome(*run("admm", tmp_path, schedule=given)) == expected


@pytest.mark.parametrize("policy", ["staged", "balanced"])
def test_the_course_of_rho_is_resumed(policy, tmp_path):
    given = {"rho": Rho(policy=policy, stages=2, growth=2.0), "steps": 1}
    expected = outcome(*run("admm", None, schedule=given))
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(7), schedule=given)
    assert outcome(*run("admm", tmp_path, schedule=given)) == expected


def test_distillation_is_resumed(tmp_path):
    given = {"objective": Objective(loss="distill")}
    expected = outcome(*run("admm", None, **given))
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(7), **given)
    assert outcome(*run("admm", tmp_path, **given)) == expected


@pytest.mark.parametrize("kind", TOTAL)
def test_a_finished_run_is_not_trained_again(kind, whole, tmp_path):
    run(kind, tmp_path)
    never = StopAfter(1)
    assert outcome(*run(kind, tmp_path, never)) == whole[kind]
    assert never.left == 1


def test_a_large_checkpoint_takes_its_share_of_the_time_and_no_more(whole, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            self.now += 0.5
            return self.now

    clock, saved = Clock(), []
    save = CheckpointStore.save

    def slow(store, checkpoint):
        save(store, checkpoint)
        saved.append(clock.now)
        clock.now += 40.0

    monkeypatch.setattr(engine, "time", clock)
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", 2.0)
    monkeypatch.setattr(CheckpointStore, "save", slow)
    assert outcome(*run("admm", tmp_path)) == whole["admm"]
    # One in the first phase; neither the end of it nor of the next is worth another.
    assert len(saved) == 1
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(2))
    assert len(saved) == 2  # somebody asked
    assert outcome(*run("admm", tmp_path)) == whole["admm"]


def test_two_checkpoints_are_kept_as_safetensors_and_json(tmp_path, monkeypatch):
    # Then those at the ends of the phases are all, however slow the disk is.
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", 1e9)
    run("admm", tmp_path)
    last = TOTAL["admm"]
    stems = [f"{last - STEPS:08d}", f"{last:08d}"]
    expected = [f"{s}.{kind}" for s in stems for kind in ("json", "safetensors")]
    assert sorted(p.name for p in tmp_path.iterdir()) == expected
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert b"torch" not in content
        assert not content.startswith((b"PK", b"\x80"))
        if path.suffix == ".json":
            assert json.loads(content)["identity"] == IDENTITY


# --- the store alone


def saved(folder, *steps):
    store = CheckpointStore(folder, IDENTITY)
    for step in steps:
        tensors = {
            "weight.a": torch.full((2, 3), float(step)),
            "mask.a": torch.tensor([True, False]),
        }
        store.save(Checkpoint(step, tensors, {"position": {"x": 0.1 * step}, "nan": None}))
    return store


def test_what_is_saved_is_loaded(tmp_path):
    found = saved(tmp_path / "a" / "b", 3, 12).load()
    assert found.step == 12
    assert found.state == {"position": {"x": 0.1 * 12}, "nan": None}
    assert torch.equal(found.tensors["weight.a"], torch.full((2, 3), 12.0))
    assert found.tensors["mask.a"].dtype == torch.bool


def test_an_empty_or_missing_folder_holds_none(tmp_path):
    assert CheckpointStore(tmp_path, IDENTITY).load() is None
    assert CheckpointStore(tmp_path / "missing", IDENTITY).load() is None


def test_steps_are_ordered_as_numbers(tmp_path):
    store = saved(tmp_path, 99_999_999, 100_000_000)
    assert store.load().step == 100_000_000
    assert saved(tmp_path, 100_000_001).load().step == 100_000_001
    assert len(list(tmp_path.iterdir())) == 4


def damage(folder, suffix, how):
    path = max(folder.glob(f"*.{suffix}"))
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "other":
        content = bytearray(b"[1, 2]")
    elif how == "deep":
        content = bytearray(b"[" * 100_000)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "other", "deep"])
def test_damage_to_the_newest_falls_back_to_the_one_before(tmp_path, suffix, how):
    store = saved(tmp_path, 4, 8)
    damage(tmp_path, suffix, how)
    assert store.load().step == 4


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_any_flipped_bit_falls_back_to_the_one_before(tmp_path, suffix):
    store = saved(tmp_path, 4, 8)
    path = max(tmp_path.glob(f"*.{suffix}"))
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        flipped = bytearray(good)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        found = store.load()
        # White space between JSON's words says nothing: all that is read is what was saved.
        assert found.step == 4 or found.state == {"position": {"x": 0.1 * 8}, "nan": None}
        if found.step == 8:
            assert suffix == "json"
            assert good[position] in b" \n"
    path.write_bytes(good)
    assert store.load().step == 8


def test_when_both_are_damaged_there_is_none(tmp_path):
    store = saved(tmp_path, 4, 8)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    assert store.load() is None


def test_damage_that_costs_work_is_said(tmp_path):
    said = []

    class Listener(Silent):
        def warn(self, text):
            said.append(text)

    for steps in (3, 2):
        with pytest.raises(Interrupted):
            run("admm", tmp_path, StopAfter(steps))
    damage(tmp_path, "safetensors", "truncated")
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(2), progress=Listener())
    assert said == [
        "damaged checkpoints were passed over (00000005): step 3 is used",
    ]
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    run("admm", tmp_path, progress=Listener())
    assert "(00000005, 00000003): training starts anew" in said[-1]


def test_a_run_resumed_before_the_damage_keeps_two_of_its_own(tmp_path):
    store = saved(tmp_path, 4, 8)
    damage(tmp_path, "safetensors", "truncated")
    assert store.load().step == 4
    saved(tmp_path, 6)
    assert sorted({p.stem for p in tmp_path.iterdir()}) == ["00000004", "00000006"]


def test_tensors_that_a_killed_run_left_alone_are_removed(tmp_path):
    (tmp_path / "00000002.safetensors").write_bytes(b"half")
    (tmp_path / "notes.json").write_text("mine")
    saved(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000005.json",
        "00000005.safetensors",
        "notes.json",
    ]


@pytest.mark.parametrize("kind", TOTAL)
def test_training_goes_on_from_the_checkpoint_before_the_damaged_one(kind, whole, tmp_path):
    for steps in (3, 2):
        with pytest.raises(Interrupted):
            run(kind, tmp_path, StopAfter(steps))
    damage(tmp_path, "safetensors", "truncated")
    assert CheckpointStore(tmp_path, IDENTITY).load().step == 3
    assert outcome(*run(kind, tmp_path)) == whole[kind]


@pytest.mark.parametrize("field", IDENTITY)
def test_a_checkpoint_of_something_else_is_refused_by_field(tmp_path, field):
    saved(tmp_path, 4)
    other = CheckpointStore(tmp_path, {**IDENTITY, field: "another"})
    with pytest.raises(CheckpointError, match=f"the run's {field} is not the checkpoint's"):
        other.load()


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    from onnxadmm.training import checkpoints

    monkeypatch.setattr(checkpoints, "VERSION", 99)
    saved(tmp_path, 4)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 99, this onnxadmm reads 3"):
        CheckpointStore(tmp_path, IDENTITY).load()


def leaf(document, path, value):
    *above, last = path
    for key in above:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["position"], None),
        (["position", "phase"], 99),
        (["position", "epoch"], "1"),
        (["position", "batch"], 1000),
        (["position", "retreats"], -1),
        (["position", "constraints"], [1]),
        (["history"], [{"epoch": 1}]),
        (["rate", "since"], "0"),
        (["rate", "groups"], []),
        (["rate", "groups", 0, "lr"], "0.1"),
        (["rhos"], 1.0),
        (["updates"], "many"),
        (["good"], 3),
        (["good", "history"], {}),
        (["optimizer"], ["x"]),
    ],
)
def test_a_checkpoint_that_is_whole_but_no_state_of_such_a_run_is_refused(tmp_path, path, value):
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(5))
    store = CheckpointStore(tmp_path, IDENTITY)
    found = store.load()
    leaf(found.state, path, value)
    store.save(found)
    with pytest.raises(CheckpointError, match="step 5: what it holds is not the state of this run"):
        run("admm", tmp_path)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("weight.", "missing"),
        ("solver.z.", "missing"),
        ("optimizer.", "missing"),
        ("weight.", "other shape"),
        ("mask.", "other shape"),
        ("optimizer.", "other shape"),
    ],
)
def test_a_checkpoint_without_a_tensor_of_the_run_is_refused(tmp_path, kind, how):
    with pytest.raises(Interrupted):
        run("admm", tmp_path, StopAfter(10))
    store = CheckpointStore(tmp_path, IDENTITY)
    found = store.load()
    name = next(n for n in sorted(found.tensors) if n.startswith(kind))
    if how == "missing":
        del found.tensors[name]
    else:
        found.tensors[name] = torch.ones(7, 11, 13, dtype=found.tensors[name].dtype)
    store.save(found)
    with pytest.raises(
        CheckpointError, match="step 10: what it holds is not the state of this run"
    ):
        run("admm", tmp_path)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "symlink"])
def test_what_is_no_regular_file_is_no_checkpoint(tmp_path, suffix, kind):
    store = saved(tmp_path, 4, 8)
    path = tmp_path / f"00000008.{suffix}"
    path.rename(tmp_path / "moved")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "moved")
    assert store.load().step == 4


def test_tensors_that_are_none_are_refused_though_the_hashes_agree(tmp_path):
    store = saved(tmp_path, 4)
    (tmp_path / "00000004.safetensors").write_bytes(b"\xff" * 64)
    manifest = tmp_path / "00000004.json"
    document = json.loads(manifest.read_text())
    del document["digest"]
    document["sha256"] = hashlib.sha256(b"\xff" * 64).hexdigest()
    text = json.dumps(document, sort_keys=True)
    document["digest"] = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="00000004: its tensors can't be read"):
        store.load()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="choose another folder"):
        saved(tmp_path / "file" / "checkpoints", 1)


def test_clearing_removes_checkpoints_and_tolerates_a_missing_folder(tmp_path):
    saved(tmp_path, 4, 8).clear()
    assert list(tmp_path.iterdir()) == []
    CheckpointStore(tmp_path / "missing", IDENTITY).clear()
