"""What the methods share that make a student agree with a teacher.

They differ in the teacher's input and in how its output is used.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from poscon import settings
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.finetuning.supervised import supervised_loss
from poscon.finetuning.teacher import Teacher
from poscon.networks.parts import SegmentationNetwork
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker, with_intensity


def ramp_up(progress: float, share: float) -> float:
    """The Gaussian ramp-up exp(-5 (1 - T)^2) of Laine & Aila 2017, from exp(-5) to 1.

    Args:
        progress: share of the training's steps that are done.
        share: share of the steps over which T rises from 0 to 1; above 0.
    """
    return math.exp(-5 * (1 - min(progress / share, 1.0)) ** 2)


def probabilities(logits: Tensor) -> Tensor:
    """The softmax over the classes (B, classes, ...), in at least single precision."""
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    return wide.softmax(dim=1)


def consistency_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The consistency cost J of Tarvainen & Valpola 2017, Sec. 2, for every pixel.

    With p the softmax of the student's logits and q the teacher's probabilities, the mean of
    (p - q)^2 over slices, classes and pixels.

    Args:
        logits: (B, classes, H, W) of the student, before the softmax.
        targets: (B, classes, H, W) probabilities of the teacher.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    return (probabilities(logits) - targets).square().mean()


def student_and_teacher_views(
    batch: SliceBatch, views: ViewMaker, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of every slice for the student, and one of the same geometry for the teacher.

    Only the intensity is drawn again, so that their predictions can be compared pixel by pixel.

    Returns:
        Two of (B + U, C, size, size), the labelled slices before the unlabelled ones; and the
        labels (B, size, size) of the former.
    """
    assert batch.labels is not None
    assert batch.unlabelled is not None
    pairs = []
    for slices, own_seed in ((batch, seed), (batch.unlabelled, stream(seed, "unlabelled"))):
        view, other = (views.draw(len(slices.images), own_seed, view=number) for number in (0, 1))
        same_place = with_intensity(view, other)
        pairs.append([views.apply(slices.images, v) for v in (view, same_place)])
    student, teacher = (torch.cat(images) for images in zip(*pairs, strict=True))
    view = views.draw(len(batch.images), seed)
    return student, teacher, views.apply_to_labels(batch.labels, view)


class ConsistencySettings(settings.Settings):
    """Settings of the agreement with a teacher.

    Attributes:
        weight: weight of the consistency at the end of the ramp-up.
        ramp_up: share of the steps, from the first, over which the weight rises.
        decay: decay of the teacher's average.
    """

    weight: PositiveFloat
    ramp_up: float = Field(gt=0, le=1)
    decay: float = Field(0.99, ge=0, lt=1)


class ConsistencyMethod(FinetuneMethod):
    """The supervised loss, and agreement with a teacher, which is the result.

    The teacher is a moving average already, so there is no other one.
    """

    uses_unlabelled = True
    has_own_ema = True

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: ConsistencySettings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(network, loss, deep_supervision)
        self.teacher = Teacher(network, loss.decay)
        self.weight, self.ramp_up = loss.weight, loss.ramp_up

    @property
    def model(self) -> SegmentationNetwork:
        """The teacher."""
        return self.teacher.network

    def total(
        self,
        logits: Sequence[Tensor],
        labels: Tensor,
        answers: Tensor,
        targets: Tensor,
        progress: float,
    ) -> Step:
        """The supervised loss plus the weighted consistency.

        Args:
            logits: the student's logits at every resolution, with the labelled slices first.
            labels: (B, H, W) of these.
            answers: logits of the student that are to agree with the teacher.
            targets: probabilities of the teacher.
            progress: share of the training's steps that are done.
        """
        n = len(labels)
        supervised = over_resolutions(
            lambda part, s: supervised_loss(part[:n], labels[:, ::s, ::s]), logits
        )
        consistency = consistency_loss(answers, targets)
        return Step(
            supervised + self.weight * ramp_up(progress, self.ramp_up) * consistency,
            logs={"supervised": supervised.detach(), "consistency": consistency.detach()},
        )

    def after_step(self) -> None:
        self.teacher.update(self.network)
