"""TCSM: transformation-consistent self-ensembling (Li et al., TNNLS 2020, arXiv 1903.00348)."""

from dataclasses import dataclass

import torch
from pydantic import Field, PositiveFloat, field_validator
from torch import Tensor
from torch.nn.functional import grid_sample

from poscon.finetuning.consistency import (
    ConsistencyMethod,
    ConsistencySettings,
    probabilities,
    student_and_teacher_views,
)
from poscon.networks.parts import SegmentationNetwork
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


@dataclass
class Transform:
    """The parameters of B transforms.

    Attributes:
        turns: (B,) quarter turns, 0 to 3.
        mirrored: (B,) bool, left and right change places before the turn.
        zoom: (B,) factor about the middle. None: no zoom, and every value stays the same.
    """

    turns: Tensor
    mirrored: Tensor
    zoom: Tensor | None = None


def draw_transform(n: int, scale: tuple[float, float], seed: int) -> Transform:
    """Draw ``n`` transforms: one of the 8 symmetries of a square, zoom between two factors."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randint(4, (n,), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5
    low, high = scale
    zoom = torch.rand(n, generator=generator) * (high - low) + low
    return Transform(turns, mirrored, None if low == high == 1 else zoom)


def apply_transform(maps: Tensor, transform: Transform) -> Tensor:
    """Transform images or probabilities (B, channels, size, size), each by its own parameters.

    Turns and mirrors move values and change none. Zoom interpolates linearly. Beyond the border
    are the values of the border. Each new value is a weighted mean of old ones, so that
    probabilities still sum to 1.
    """

    def per_map(condition: Tensor) -> Tensor:
        return condition.to(maps.device, non_blocking=True)[:, None, None, None]

    maps = torch.where(per_map(transform.mirrored), maps.flip(-1), maps)
    maps = torch.where(per_map(transform.turns % 2 == 1), maps.rot90(1, (-2, -1)), maps)
    maps = torch.where(per_map(transform.turns >= 2), maps.rot90(2, (-2, -1)), maps)
    if transform.zoom is None:
        return maps
    size = maps.shape[-1]
    axis = (torch.arange(size, device=maps.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], dim=-1) / per_map(transform.zoom)
    return grid_sample(maps, grid.to(maps.dtype), padding_mode="border", align_corners=False)


class TransformationConsistency(ConsistencyMethod):
    """The supervised loss, and agreement with a teacher whose answer is transformed.

    The student sees transformed slices, labelled and unlabelled; the teacher sees them as they
    were, at another intensity. The teacher is the result of the training.
    """

    class Settings(ConsistencySettings):
        """Settings of the loss.

        Attributes:
            scale: smallest and largest zoom factor.
        """

        weight: PositiveFloat = 1.0
        ramp_up: float = Field(0.75, gt=0, le=1)
        scale: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.2)

        @field_validator("scale")
        @classmethod
        def _low_to_high(cls, scale: tuple[float, float]) -> tuple[float, float]:
            if scale[0] > scale[1]:
                raise ValueError("write the smaller factor first")
            return scale

    summary = "agree with a teacher: turned slice in, turned answer out"
    citation = "Li et al., TNNLS 2020, arXiv 1903.00348"
    needs = "labelled and unlabelled slices"

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: Settings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(network, loss, deep_supervision, ema_decay)
        self.scale = loss.scale

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        student, teacher, labels = student_and_teacher_views(batch, views, seed)
        transform = draw_transform(len(student), self.scale, stream(seed, "transforms"))
        n = len(labels)
        logits = self.logits(torch.cat([student[:n], apply_transform(student, transform)]))
        targets = apply_transform(probabilities(self.teacher(teacher)), transform)
        return self.total(logits, labels, logits[0][n:], targets, progress)
