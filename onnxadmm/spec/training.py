"""How it is learnt: the sections `objective` and `schedule`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from onnxadmm.spec.sections import Epochs, PositiveFloat, Section, Text

Metric = Literal["accuracy", "agreement", "mse"]


class Distillation(Section):
    """The original model teaches the compressed one (Hinton et al., arXiv 1503.02531)."""

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share of the loss that comes from the teacher; the rest from the labels."
    )
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 4.0


class Objective(Section):
    """What is minimised, and what is measured."""

    loss: Literal["cross_entropy", "bce", "mse", "distill"] = Field(
        "cross_entropy",
        description="bce is on logits; distill needs no labels: the original model teaches.",
    )
    metric: Metric | None = Field(
        None,
        description="By default accuracy for cross_entropy and bce, mse for mse, agreement for distill.",
    )
    output: Text | None = Field(
        None, description="The model output to look at; the first by default."
    )
    distill: Distillation | None = Field(None, description="Mix the teacher into a labelled loss.")

    @model_validator(mode="after")
    def _labels_fit_the_metric(self) -> Self:
        wanted = "mse" if self.loss in ("cross_entropy", "distill") else "accuracy"
        if self.metric == wanted and self.loss != "bce":
            held = "targets" if self.loss == "mse" else "classes"
            raise ValueError(
                f"metric: {self.metric} can't be measured on the labels of loss: {self.loss}, which are {held}; "
                f"drop it, or use agreement"
            )
        return self

    @property
    def resolved_metric(self) -> Metric:
        """The metric that is measured: the one asked for, or the one that suits the loss."""
        if self.metric is not None:
            return self.metric
        if self.loss == "mse":
            return "mse"
        return "agreement" if self.loss == "distill" else "accuracy"

    @property
    def needs_labels(self) -> bool:
        """Whether training or the metric reads labels."""
        return self.loss != "distill" or self.resolved_metric == "accuracy"


class Optimizer(Section):
    """The W-step's optimizer, and the retraining's."""

    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD only.")


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


class Schedule(Section):
    """How long, and how."""

    epochs: Epochs = Field(10, description="ADMM epochs, over all steps; 0 projects in one shot.")
    retrain: Epochs = Field(5, description="Epochs with the mask fixed, after the last step.")
    steps: Annotated[int, Field(ge=1, le=10)] = Field(
        1, description="Progressive steps, each warm-started (arXiv 1903.09769)."
    )
    updates_per_epoch: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Z and U are updated so many times an epoch."
    )
    optimizer: Optimizer = Optimizer()
    rho: Literal["auto"] | Rho = "auto"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-3, description="A step ends early once both relative residuals are below this."
    )
