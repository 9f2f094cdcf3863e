"""A tiny network with random samples, and runs of training over it."""

from __future__ import annotations

import functools
from dataclasses import asdict

import numpy as np
from graphs import Builder

from onnxadmm.admm import Unstructured, coupled
from onnxadmm.channels import classify, label
from onnxadmm.data import Dataset
from onnxadmm.graph import probe
from onnxadmm.modules import import_model
from onnxadmm.progress import NeverStop, Silent
from onnxadmm.spec import Objective, Optimizer, Schedule
from onnxadmm.training import Goal, Settings, Teacher, Trainer, plan_admm, plan_retraining

SAMPLES, BATCH = 30, 7
STEPS = SAMPLES // BATCH  # an epoch, the last samples are left out
IDENTITY = {"model": "m", "spec": "s", "data": "d"}


@functools.cache
def drawn():
    b = Builder(0, 2, 4)
    b.conv(6)
    b.batchnorm()
    b.activation("Relu")
    b.residual()
    b.head("flatten")
    model = b.model()
    seen = probe(model)
    return model, seen, classify(label(model, seen), seen)


class Network:
    """A conv net with a residual, freshly imported, with its classes."""

    def __init__(self):
        self.model, seen, self.classes = drawn()
        self.imported = import_model(self.model, seen)

    def constraints(self, keep=2):
        names = list(self.imported.binding)
        sets = [coupled(c, keep, names) for c in self.classes if not c.fixed]
        last = next(n.inputs[1].name for n in self.model.graph if n.op_type == "MatMul")
        return [*sets, Unstructured(last, 35, 10)]


def dataset(seed=1, samples=SAMPLES, labels="class"):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 2, 4, 4)).astype(np.float32)
    if labels == "class":
        y = (x.sum((1, 2, 3)) * 10).astype(np.int64) % 5
    else:
        y = rng.uniform(0, 1, (samples, 5)).astype(np.float32)
    return Dataset({"x": x}, y, {})


def schedule(**kwargs):
    given = {"epochs": 3, "retrain": 2, "steps": 2, "optimizer": Optimizer(lr=0.01), **kwargs}
    return Schedule(**given)


def settings(stop=None, objective=None, **kwargs):
    return Settings(
        train=kwargs.pop("train", None) or dataset(),
        evaluate=kwargs.pop("evaluate", dataset(2, 11)),
        batch_size=BATCH,
        goal=Goal(objective or Objective()),
        output=0,
        schedule=schedule(**kwargs.pop("schedule", {})),
        seed=kwargs.pop("seed", 0),
        stop=stop or NeverStop(),
        progress=kwargs.pop("progress", None) or Silent(),
        augmentation=kwargs.pop("augmentation", None),
    )


def trainer(kind, store=None, masks=None, net=None, **kwargs):
    """Return a trainer of a fresh network, for the ADMM phases or the retraining."""
    net = net or Network()
    given = settings(**kwargs)
    teacher = Teacher.of(net.imported.module, given.goal, 0)
    if teacher is not None:
        teacher.prepare(given.train, net.imported.inputs)
    plan = plan_admm if kind == "admm" else plan_retraining
    phases = plan(given.schedule, given.steps_per_epoch)
    made = Trainer(
        net.imported,
        phases,
        settings=given,
        constraints=net.constraints() if kind == "admm" else (),
        masks=masks,
        teacher=teacher,
        store=store,
    )
    return net, made


def watch(made, *, step=None, update=None):
    """Let functions take the place of the trainer's steps and updates; each is given the one it replaces.

    `step(descent, take, index)` calls `take(index)`, `update(descent, take)` calls `take()`.
    """
    begin = made._begin

    def beginning(*args):
        descent = begin(*args)
        taken, updated = descent.step, descent.update
        if step is not None:
            descent.step = lambda module, index: step(descent, lambda i: taken(module, i), index)
        if update is not None:
            descent.update = lambda: update(descent, updated)
        return descent

    made._begin = beginning


def rates_of(made):
    """Return a list that fills with the learning rate of each step that the trainer takes."""
    used = []

    def listening(descent, take, index):
        rate = descent._rate
        before_step = rate.before_step

        def reading(*args):
            before_step(*args)
            used.append(descent.optimizer.param_groups[0]["lr"])

        rate.before_step = reading
        try:
            return take(index)
        finally:
            del rate.before_step

    watch(made, step=listening)
    return used


def outcome(net, trained):
    """Return all that a run leaves, comparable with ==; time left out."""
    history = [asdict(r) for r in trained.history]
    for record in history:
        del record["seconds"]
    weights = {n: w.tobytes() for n, w in net.imported.weights().items()}
    masks = {n: m.cpu().numpy().tobytes() for n, m in trained.masks.items()}
    return weights, masks, history
