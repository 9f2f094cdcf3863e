"""How it is learnt: the sections `objective` and `schedule`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from onnxadmm.spec.sections import Epochs, PositiveFloat, PositiveInt, Section, Text

Metric = Literal["accuracy", "agreement", "mse"]
Loss = Literal["cross_entropy", "bce", "mse", "distill"]
Code = Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$", max_length=1024)]
"""`FILE.py:FUNCTION`."""


class Distillation(Section):
    """The original model teaches the compressed one (Hinton et al., arXiv 1503.02531)."""

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share of the loss that comes from the teacher; the rest from the labels."
    )
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 4.0
    match: Literal["auto", "kl", "mse"] = Field(
        "auto",
        description="How outputs are compared. kl: as logits over the axis of a softmax at the end, or axis 1, by "
        "the temperature. mse: as values. auto: kl for outputs [N, classes], behind a softmax, and for any that "
        "cross_entropy reads; mse for others.",
    )


class Objective(Section):
    """What is minimised, and what is measured."""

    loss: Loss | Code = Field(
        "cross_entropy",
        description="distill needs no labels: the original model teaches. bce and cross_entropy read logits, or "
        "what a Sigmoid or Softmax at the end of the graph makes of them; classes [N], or one a place of a "
        "segmentation or a text. mse is counted in units of the targets' variance. `FILE.py:FUNCTION` is a function of the "
        "output, the labels and the original's output (tensors), which runs with `--allow-code` only.",
    )
    metric: Metric | Code | None = Field(
        None,
        description="By default accuracy for cross_entropy and bce, mse for mse, agreement with the original for "
        "others: the share of samples and places where the largest output is the same; of outputs that are no "
        "classes the share of the original's variance that is explained. `FILE.py:FUNCTION` is a function of the same three as arrays, that returns a number, or one a "
        "sample; see `loss`.",
    )
    lower_is_better: bool = Field(
        False,
        description="Of a metric that is a function: whether a smaller value is the better one.",
    )
    output: Text | None = Field(
        None, description="The model output to look at; the first of floats by default."
    )
    distill: Distillation | None = Field(
        None, description="Mix the teacher into another loss; its temperature, for loss distill."
    )

    @model_validator(mode="after")
    def _labels_fit_the_metric(self) -> Self:
        wanted = "mse" if self.loss in ("cross_entropy", "distill") else "accuracy"
        if self.metric == wanted and self.loss in ("cross_entropy", "distill", "mse"):
            held = "targets" if self.loss == "mse" else "classes"
            raise ValueError(
                f"metric: {self.metric} can't be measured on the labels of loss: {self.loss}, which are {held}; "
                f"drop it, or use agreement"
            )
        if self.lower_is_better and ":" not in (self.metric or ""):
            raise ValueError(
                "lower_is_better is of a metric that is a function; drop it, or name one"
            )
        return self

    @property
    def resolved_metric(self) -> str:
        """The name of what is measured: the metric asked for, or the one that suits the loss."""
        if self.metric is not None:
            return self.metric.rpartition(":")[2]
        if self.loss in ("cross_entropy", "bce"):
            return "accuracy"
        return "mse" if self.loss == "mse" else "agreement"

    @property
    def labels(self) -> Literal["class", "float", "any", "none"]:
        """What training or the metric reads as labels: classes, targets, either if there are any, or none."""
        if self.loss == "cross_entropy":
            return "class"
        if self.loss in ("bce", "mse"):
            return "float"
        if ":" in self.loss or (self.metric is not None and ":" in self.metric):
            return "any"
        return {"accuracy": "class", "mse": "float"}.get(self.resolved_metric, "none")  # type: ignore[return-value]

    @property
    def code(self) -> dict[str, str]:
        """The keys that name a function in a file, with what they say."""
        named = {"loss": self.loss, "metric": self.metric or ""}
        return {key: value for key, value in named.items() if ":" in value}


class Steps(Section):
    """A length in optimizer steps."""

    steps: PositiveInt = Field(description="Optimizer steps (batches) in place of epochs.")


Length = Epochs | Steps
Option = bool | int | float | Text | tuple[int | float, ...]
Options = Annotated[dict[Text, Option], Field(max_length=32)]


class Train(Section):
    """Which tensors learn. By default those that play a weight's role; `inspect` lists them."""

    include: tuple[Text, ...] = Field(
        (), description="Globs over tensor and node names: these learn as well (floats only)."
    )
    exclude: tuple[Text, ...] = Field(
        (), description="Globs: these stay as they are; channels still go. Stronger than include."
    )
    statistics: Literal["frozen", "running"] = Field(
        "frozen",
        description="BatchNormalization's mean and variance. frozen: as the model holds them, as in inference. "
        "running: normalise by the batch and let them follow, as in usual training.",
    )


class Optimizer(Section):
    """The W-step's optimizer, and the retraining's."""

    name: Literal[
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "ASGD",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
    ] = Field("Adam", description="A class of torch.optim.")
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD only.")
    options: Options = Field(
        {},
        description="Further arguments of the class, as torch names them: `{betas: [0.9, 0.99]}`.",
    )


class LrSchedule(Section):
    """How the learning rate moves."""

    name: Literal[
        "ConstantLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "CyclicLR",
        "ExponentialLR",
        "LinearLR",
        "MultiStepLR",
        "OneCycleLR",
        "PolynomialLR",
        "ReduceLROnPlateau",
        "StepLR",
    ] = Field(description="A class of torch.optim.lr_scheduler.")
    options: Options = Field(
        {},
        description="Its arguments, as torch names them. T_max and total_iters are the length of the interval "
        "or phase where they are left out; OneCycleLR always takes all of it.",
    )
    every: Literal["step", "epoch"] = Field(
        "step",
        description="What it counts: optimizer steps or epochs. ReduceLROnPlateau looks at each epoch's loss.",
    )
    restart: Literal["interval", "phase"] = Field(
        "interval",
        description="Where it starts afresh: at each Z/U update, so that every W-step decays from the full rate; or "
        "with each ADMM step only. The retraining is one phase.",
    )


class Rho(Section):
    """The penalty's weight, from one Z/U update to the next; the dual is rescaled at each change.

    See `onnxadmm.admm.penalty` (Boyd et al. 2011, section 3.4.1).
    """

    policy: Literal["accelerated", "geometric", "constant", "staged", "balanced"] = Field(
        "accelerated",
        description="accelerated: geometric, and twice as fast while the primal residual lags. geometric. "
        "constant: stays at `initial`. staged: grows at the start of each of `stages` stretches. balanced: "
        "grows while the primal residual lags, falls while the dual one does.",
    )
    initial: PositiveFloat = 1e-3
    growth: Annotated[float, Field(ge=1, le=100)] = Field(1.3, description="Factor at each change.")
    maximum: PositiveFloat = 10.0
    stages: Annotated[int, Field(ge=1, le=100)] = Field(3, description="staged only.")

    @model_validator(mode="after")
    def _starts_below_its_maximum(self) -> Self:
        if self.policy != "constant" and self.initial > self.maximum:
            raise ValueError(
                f"initial {self.initial:g} is above maximum {self.maximum:g}; raise the maximum"
            )
        return self


PROGRESSIVE_FROM = 8
"""Epochs that are worth splitting: each step takes a few to bring W to Z."""


class Schedule(Section):
    """How long, and how."""

    epochs: Length = Field(
        10,
        description="ADMM, over all steps: epochs, or `{steps: 5000}` in optimizer steps; 0 projects in one shot.",
    )
    retrain: Length = Field(
        5, description="How long the mask is fixed after the last step: epochs, or `{steps: 5000}`."
    )
    quantize: Length | None = Field(
        None,
        description="ADMM towards the levels of `quantize`, on the network that pruning left: epochs, or "
        "`{steps: 5000}`; `retrain` on the levels follows. By default as long as `epochs` where any weight gets fewer "
        "than 8 bits, else 0: 8-bit weights are rounded.",
    )
    steps: Annotated[int, Field(ge=1, le=10)] | None = Field(
        None,
        description="Progressive steps on the way to what `prune` asks for: each starts from the last one's weights, "
        "and what is zero stays zero (arXiv 1903.09769, section 4). By default 2 where an entry takes 0.9 or more "
        "(0.7 of whole channels) and `epochs` is 8 or more, or given in optimizer steps; else 1.",
    )
    updates_per_epoch: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="Z and U are updated so many times an epoch; 2 by default.",
    )
    update_every: PositiveInt | None = Field(
        None,
        description="Z and U are updated after so many optimizer steps instead, over the ends of epochs.",
    )
    optimizer: Optimizer = Optimizer()
    lr_schedule: Literal["auto"] | LrSchedule = Field(
        "auto",
        description="auto: constant in ADMM, where each W-step starts afresh, and half a cosine over the "
        "retraining.",
    )
    warmup: Length = Field(
        0,
        description="The learning rate rises linearly over so many epochs, or `{steps: 100}`, at the start of each "
        "phase (an ADMM step, the retraining).",
    )
    clip_norm: PositiveFloat | None = Field(
        None,
        description="The norm of the loss's gradient over all weights is at most this; ADMM's penalty is added "
        "after.",
    )
    clip_value: PositiveFloat | None = Field(
        None, description="No element of the loss's gradient is larger than this."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of a running average of the weights over the retraining's steps; it is what is measured "
        "and kept. It starts fast: at step n the decay is at most (1 + n) / (10 + n).",
    )
    rho: Literal["auto"] | Rho = "auto"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-3, description="A step ends early once both relative residuals are below this."
    )

    @model_validator(mode="after")
    def _one_way_to_update(self) -> Self:
        if self.update_every is not None and self.updates_per_epoch is not None:
            raise ValueError("holds updates_per_epoch and update_every; keep one of the two")
        return self

    def resolved(self, *, high_rate: bool) -> Schedule:
        """Return the schedule with its progressive steps filled in.

        Args:
            high_rate: Whether pruning takes so much that it better comes in two steps.
        """
        if self.steps is not None:
            return self
        long = isinstance(self.epochs, Steps) or self.epochs >= PROGRESSIVE_FROM
        return self.model_copy(update={"steps": 2 if high_rate and long else 1})
