"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from poscon.settings import Settings


class OptimiserSettings(Settings):
    """Optimiser and schedule: linear warm-up, then a half cosine to the final rate.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: peak learning rate.
        min_lr: learning rate of the last step; None: ``lr``, so that it is constant after the
            warm-up.
        warmup: share of all steps, 0 to 1, over which the rate rises from near 0 to ``lr``.
        momentum: momentum of SGD. The others have none.
        weight_decay: weight decay: an L2 term in SGD and Adam, decoupled in AdamW.
        clip: largest norm of the gradient; None: no limit.
    """

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    min_lr: NonNegativeFloat | None = 0.0
    warmup: float = Field(0.05, ge=0, lt=1)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.momentum is not None and self.name != "sgd":
            raise ValueError(f"momentum has no effect on {self.name}; remove it or use sgd")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(
                f"min_lr = {self.min_lr:g} must be at most lr = {self.lr:g}; lower it too"
            )
        return self


class EncoderRate(Settings):
    """Settings that hold a pre-trained encoder back while the rest catches up.

    Attributes:
        factor: learning rate of the encoder as a share of that of the rest.
        frozen: share of all steps, from the first, in which the encoder's weights do not change.
    """

    factor: float = Field(1.0, gt=0, le=1)
    frozen: float = Field(0.0, ge=0, lt=1)

    def at(self, step: int, total_steps: int) -> float:
        """The factor of the encoder's learning rate at a step."""
        return 0.0 if step < round(self.frozen * total_steps) else self.factor


def build_optimiser(
    parameters: Iterable[nn.Parameter],
    settings: OptimiserSettings,
    total_steps: int,
    *,
    encoder: Iterable[nn.Parameter] = (),
    encoder_rate: EncoderRate | None = None,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Make the optimiser, and the schedule of its learning rates.

    Args:
        parameters: everything to train. Parameters without a gradient are left out.
        settings: settings of the optimiser and the schedule.
        total_steps: number of steps of the training.
        encoder: those of ``parameters`` to which ``encoder_rate`` applies.
        encoder_rate: how they are held back; None: they are not.
    """
    held_back = set(encoder) if encoder_rate is not None else set()
    trained = [p for p in parameters if p.requires_grad]
    groups = [[p for p in trained if p not in held_back], [p for p in trained if p in held_back]]
    groups = [group for group in groups if group]
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    listed: Any = [{"params": group} for group in groups]
    optimiser: torch.optim.Optimizer
    if settings.name == "sgd":
        optimiser = torch.optim.SGD(listed, momentum=settings.momentum or 0.0, **common)
    else:
        # without this, torch goes through the tensors one by one on a CPU (decision 0015)
        fused = True if trained[0].device.type == "cpu" else None
        kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        optimiser = kind(listed, fused=fused, **common)

    def share(step: int) -> float:
        return learning_rate(step, total_steps, settings) / settings.lr

    def held_back_share(step: int) -> float:
        assert encoder_rate is not None
        return share(step) * encoder_rate.at(step, total_steps)

    shares: list[Callable[[int], float]] = [
        held_back_share if group[0] in held_back else share for group in groups
    ]
    return optimiser, LambdaLR(optimiser, shares)


def learning_rate(step: int, total_steps: int, settings: OptimiserSettings) -> float:
    """The learning rate of step ``step`` = 0 .. total_steps - 1."""
    warmup = round(settings.warmup * total_steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    min_lr = settings.lr if settings.min_lr is None else settings.min_lr
    done = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    return min_lr + (settings.lr - min_lr) * (1 + math.cos(math.pi * done)) / 2
