"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import nn

from poscon.settings import Settings


class OptimiserSettings(Settings):
    """Optimiser and schedule: linear warm-up, then a half cosine to the final rate.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: peak learning rate.
        final_lr: learning rate of the last step.
        warmup: share of all steps over which the rate rises from near 0 to ``lr``.
        momentum: of SGD; the others have none.
        weight_decay: for SGD and Adam as an L2 term, for AdamW decoupled.
        clip: largest norm of the gradient, or None.
    """

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    final_lr: NonNegativeFloat = 0.0
    warmup: float = Field(0.05, ge=0, lt=1)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.momentum is not None and self.name != "sgd":
            raise ValueError(f"momentum has no effect on {self.name}; remove it or use sgd")
        return self


def build_optimiser(
    parameters: Iterable[nn.Parameter], settings: OptimiserSettings, total_steps: int
) -> dict[str, Any]:
    """Optimiser and per-step schedule in the form Lightning takes."""
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    optimiser: torch.optim.Optimizer
    if settings.name == "sgd":
        optimiser = torch.optim.SGD(parameters, momentum=settings.momentum or 0.0, **common)
    elif settings.name == "adam":
        optimiser = torch.optim.Adam(parameters, **common)
    else:
        optimiser = torch.optim.AdamW(parameters, **common)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(step, total_steps, settings) / settings.lr
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_rate(step: int, total_steps: int, settings: OptimiserSettings) -> float:
    """The learning rate of step ``step`` = 0 .. total_steps - 1."""
    warmup = round(settings.warmup * total_steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    return (
        settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * done)) / 2
    )
