"""Losses and metrics against their formulas in numpy; the teacher with and without its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import Network, dataset

from onnxadmm.errors import DataError
from onnxadmm.spec import Distillation, Objective
from onnxadmm.training import Goal, Teacher
from onnxadmm.training import teacher as teaching
from onnxadmm.training.objectives import binary_distillation, scores


def arrays(seed, rows=6, columns=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)) * 3, rng.standard_normal((rows, columns)) * 3, rng


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def measure(metric, output, labels, original):
    found = scores(metric, output, labels, original)
    return None if found is None else found.mean()


def loss(objective, output, labels=None, teacher=None, ending=None):
    tensors = [None if a is None else torch.from_numpy(a) for a in (output, labels, teacher)]
    return float(Goal(objective, ending).loss(*tensors))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8), columns=st.integers(2, 6))
def test_losses_are_their_formulas(seed, rows, columns):
    output, teacher, rng = arrays(seed, rows, columns)
    classes = rng.integers(0, columns, rows)
    targets = rng.uniform(0, 1, (rows, columns))
    p = softmax(output)
    cross = -np.log(p[np.arange(rows), classes]).mean()
    assert loss(Objective(), output, classes) == pytest.approx(cross)
    sigma = 1 / (1 + np.exp(-output))
    bce = -(targets * np.log(sigma) + (1 - targets) * np.log(1 - sigma)).mean()
    assert loss(Objective(loss="bce"), output, targets) == pytest.approx(bce)
    mse = ((output - targets) ** 2).mean()
    assert loss(Objective(loss="mse"), output, targets) == pytest.approx(mse)
    for temperature in (1.0, 4.0):
        q, r = softmax(teacher / temperature), softmax(output / temperature)
        kl = temperature**2 * (q * np.log(q / r)).sum(1).mean()
        mixed = Distillation(weight=0.25, temperature=temperature)
        pure = Objective(loss="distill", distill=mixed)
        assert loss(pure, output, None, teacher) == pytest.approx(kl)
        both = Objective(distill=mixed)
        assert loss(both, output, classes, teacher) == pytest.approx(0.75 * cross + 0.25 * kl)


def test_distillation_without_settings_has_the_default_temperature():
    output, teacher, _ = arrays(0)
    settled = Objective(loss="distill", distill=Distillation())
    assert loss(Objective(loss="distill"), output, None, teacher) == pytest.approx(
        loss(settled, output, None, teacher)
    )


@pytest.mark.parametrize("shape", [(5, 1), (5,), (5, 3, 2, 2)])
def test_what_are_no_classes_is_distilled_by_squared_error(shape):
    a, b = torch.randn(shape), torch.randn(shape)
    assert float(Goal(Objective(loss="distill")).loss(a, None, b)) == pytest.approx(
        float(((a - b) ** 2).mean())
    )


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (2, 3, 4)])
def test_distillation_of_equals_is_zero_with_no_gradient(shape):
    output = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    value = Goal(Objective(loss="distill")).loss(output, None, output.detach().clone())
    value.backward()
    assert abs(value.item()) < 1e-12
    assert output.grad.abs().max() < 1e-12


def test_distillation_falls_towards_the_teacher():
    output, teacher, _ = arrays(1)
    values = [
        loss(Objective(loss="distill"), output + s * (teacher - output), None, teacher)
        for s in (0.0, 0.5, 0.9, 1.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.1


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8), columns=st.integers(2, 6))
def test_what_a_softmax_or_sigmoid_made_trains_as_its_logits_do(seed, rows, columns):
    output, teacher, rng = arrays(seed, rows, columns)
    classes = rng.integers(0, columns, rows)
    targets = rng.uniform(0, 1, (rows, columns))
    given = {"output": softmax(output), "teacher": softmax(teacher), "ending": "softmax"}
    for objective in (Objective(), Objective(loss="distill"), Objective(distill=Distillation())):
        expected = loss(objective, output, classes, teacher)
        assert loss(objective, labels=classes, **given) == pytest.approx(expected)
    sigma = {"output": 1 / (1 + np.exp(-output)), "teacher": 1 / (1 + np.exp(-teacher))}
    for objective in (Objective(loss="bce"), Objective(loss="bce", distill=Distillation())):
        expected = loss(objective, output, targets, teacher)
        got = loss(objective, labels=targets, ending="sigmoid", **sigma)
        assert got == pytest.approx(expected, rel=1e-4)
    # Without labels nobody says that they are yes and no: values.
    apart = np.square(sigma["output"] - sigma["teacher"]).mean()
    assert loss(Objective(loss="distill"), ending="sigmoid", **sigma) == pytest.approx(apart)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.5, 8))
def test_yes_and_no_are_distilled_by_their_divergence(seed, temperature):
    output, teacher, _ = arrays(seed)
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (output, teacher))
    kl = (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))).mean() * temperature**2
    given = (torch.from_numpy(output), torch.from_numpy(teacher))
    assert float(binary_distillation(*given, temperature)) == pytest.approx(kl)
    settled = Distillation(weight=1.0, temperature=temperature)
    objective = Objective(loss="bce", distill=settled)
    assert loss(objective, output, np.zeros_like(output), teacher) == pytest.approx(kl)


def test_how_outputs_are_matched_can_be_said():
    shape = (3, 4, 2, 2)
    output, teacher = (np.random.default_rng(s).standard_normal(shape) for s in (0, 1))
    flat = [np.moveaxis(a, 1, -1).reshape(-1, 4) for a in (output, teacher)]
    pure = Objective(loss="distill")
    by_pixel = loss(pure, flat[0], None, flat[1])
    mse = np.square(output - teacher).mean()
    assert loss(pure, output, None, teacher) == pytest.approx(mse)
    said = Objective(loss="distill", distill=Distillation(match="kl"))
    assert loss(said, output, None, teacher) == pytest.approx(by_pixel)
    said = Objective(loss="distill", distill=Distillation(match="mse"))
    assert loss(said, flat[0], None, flat[1]) == pytest.approx(mse)
    # Cross-entropy says that axis 1 holds classes.
    mixed = Objective(distill=Distillation(weight=1.0))
    labels = np.zeros((3, 2, 2), np.int64)
    assert loss(mixed, output, labels, teacher) == pytest.approx(by_pixel)


def test_targets_may_lack_the_unit_axis():
    output = np.array([[1.0], [3.0]])
    assert loss(Objective(loss="mse"), output, np.array([0.0, 0.0])) == pytest.approx(5.0)


def test_accuracy_is_the_share_of_largest_outputs_at_the_label():
    output = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert measure("accuracy", output, np.array([1, 0, 0, 0]), None) == 0.75
    spread = np.zeros((2, 3, 2, 2))
    spread[:, 1] = 1
    labels = np.ones((2, 2, 2), np.int64)
    labels[0, 0, 0] = 2
    assert measure("accuracy", spread, labels, None) == 7 / 8


def test_accuracy_of_one_column_is_its_sign():
    output = np.array([[2.0], [-1.0], [0.5], [-3.0]])
    for labels in (np.array([1, 0, 0, 0]), np.array([[1.0], [0.0], [0.0], [0.0]], np.float32)):
        assert measure("accuracy", output, labels, None) == 0.75


def test_a_sigmoids_yes_begins_at_a_half():
    output = np.array([[0.6], [0.4], [0.9], [0.2]])
    labels = np.array([[1.0], [1.0], [1.0], [0.0]], np.float32)
    goal = Goal(Objective(loss="bce"), "sigmoid")
    assert goal.measure(output, labels, None) == 0.75
    agreeing = Goal(Objective(loss="bce", metric="agreement"), "sigmoid")
    assert agreeing.measure(output, labels, np.array([[0.7], [0.6], [0.8], [0.1]])) == 0.75


def test_accuracy_of_several_targets_is_over_all_of_them():
    output = np.array([[2.0, -1.0, 3.0], [-2.0, 1.0, -0.1]])
    targets = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert measure("accuracy", output, targets, None) == pytest.approx(5 / 6)


def test_agreement_compares_with_the_original():
    output = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert measure("agreement", output, None, output[::-1] * 5) == 0.0
    assert measure("agreement", output, None, output * 5) == 1.0
    assert measure("agreement", np.array([[1.0], [-1.0]]), None, np.array([[3.0], [4.0]])) == 0.5


def test_mse_is_the_mean_square():
    output = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert measure("mse", output, np.zeros((2, 2), np.float32), None) == 7.5
    assert measure("mse", output[:, :1], np.array([0.0, 0.0], np.float32), None) == 5.0


def test_what_it_needs_is_not_there_and_nothing_is_measured():
    assert measure("accuracy", np.zeros((2, 2)), None, None) is None
    assert measure("mse", np.zeros((2, 2)), None, None) is None
    assert measure("agreement", np.zeros((2, 2)), np.zeros(2, np.int64), None) is None


def test_a_teacher_is_made_where_somebody_asks_it():
    module = Network().imported.module
    for objective, wanted in [
        (Objective(), False),
        (Objective(metric="agreement"), True),
        (Objective(loss="distill"), True),
        (Objective(distill=Distillation()), True),
        (Objective(loss="mse"), False),
    ]:
        assert (Teacher.of(module, Goal(objective), 0) is not None) is wanted
    assert not Goal(Objective(metric="agreement")).needs_teacher


def test_the_teacher_answers_the_same_from_memory_and_afresh(monkeypatch):
    data, names = dataset(), Network().imported.inputs
    index = np.array([3, 1, 7])
    inputs = [torch.from_numpy(data.batch(index)[0]["x"])]
    cached = Teacher(Network().imported.module, Goal(Objective()), 0, torch.device("cpu"))
    cached.prepare(data, names)
    monkeypatch.setattr(teaching, "CACHE_BYTES", 10)
    online = Teacher(Network().imported.module, Goal(Objective()), 0, torch.device("cpu"))
    online.prepare(data, names)
    assert cached.cache is not None
    assert online.cache is None
    assert torch.allclose(cached.output(index, inputs), online.output(index, inputs), atol=1e-6)
    assert np.allclose(cached.outputs_for(data, names), cached.cache.numpy(), atol=1e-6)


def test_the_teacher_is_a_frozen_copy():
    net = Network()
    data = dataset()
    teacher = Teacher(net.imported.module, Goal(Objective()), 0, torch.device("cpu"))
    before = teacher.outputs_for(dataset(9), net.imported.inputs)
    with torch.no_grad():
        for weight in net.imported.binding.values():
            weight.zero_()
    assert np.array_equal(teacher.outputs_for(dataset(9), net.imported.inputs), before)
    inputs = [torch.from_numpy(data.batch(slice(0, 2))[0]["x"])]
    assert not teacher.output(np.arange(2), inputs).requires_grad
    assert all(p.requires_grad for p in net.imported.module.parameters())


def test_the_teachers_answers_belong_to_their_data_set():
    net = Network()
    teacher = Teacher(net.imported.module, Goal(Objective()), 0, torch.device("cpu"))
    for seed in range(20):  # each data set is gone before the next, and may leave its id to it
        data = dataset(seed, 2)
        answer = teacher.outputs_for(data, net.imported.inputs)
        expected = net.imported.module(torch.from_numpy(data.inputs["x"]))[0].detach().numpy()
        assert np.allclose(answer, expected, atol=1e-6)
        del data


class Directions(torch.nn.Module):
    """Has no answer to a sample of zeros."""

    def forward(self, x):
        flat = x.flatten(1)
        return (flat / flat.abs().sum(1, keepdim=True),)


def test_a_teacher_without_an_answer_names_the_sample():
    data = dataset()
    data.inputs["x"][13] = 0
    teacher = Teacher(Directions(), Goal(Objective()), 0, torch.device("cpu"))
    for ask in (teacher.prepare, teacher.some, teacher.outputs_for):
        with pytest.raises(DataError, match="answers NaN to sample 13"):
            ask(data, ["x"])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), unit=st.floats(1e-6, 1e6), shift=st.floats(-10, 10))
def test_an_mse_does_not_depend_on_the_unit_of_its_targets(seed, unit, shift):
    output, targets, _ = arrays(seed)
    objectives = (
        Objective(loss="mse"),
        Objective(loss="distill", distill=Distillation(match="mse")),
    )
    for objective in objectives:
        found = []
        for by, add in ((1.0, 0.0), (unit, shift * unit)):
            o, t = (torch.from_numpy(a * by + add) for a in (output, targets))
            goal = Goal(objective).in_units_of(t.numpy())
            labels, taught = (t, None) if objective.loss == "mse" else (None, t)
            found.append(float(goal.loss(o, labels, taught)))
        assert found[0] == pytest.approx(((output - targets) ** 2).mean() / targets.var())
        assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("targets", [None, np.zeros((0, 2)), np.full((4, 2), 7.0)])
def test_targets_without_a_spread_leave_the_unit(targets):
    assert Goal(Objective(loss="mse")).in_units_of(targets).spread == 1
