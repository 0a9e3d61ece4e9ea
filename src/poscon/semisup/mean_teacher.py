"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780), for segmentation."""

from pydantic import Field, PositiveFloat

from poscon import settings
from poscon.networks.unet import UNet
from poscon.semisup.base import FinetuneMethod, over_resolutions
from poscon.semisup.supervised import supervised_loss
from poscon.semisup.teacher import (
    Teacher,
    consistency_loss,
    probabilities,
    ramp_up,
    student_and_teacher_views,
)
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class MeanTeacher(FinetuneMethod):
    """The supervised loss, and agreement with a teacher on labelled and unlabelled slices.

    The teacher sees the same view at another intensity. It is the result.
    """

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            weight: of the consistency at the end of the ramp-up.
            ramp_up: share of the steps, from the first, over which the weight rises.
            decay: of the teacher's average.
        """

        weight: PositiveFloat = 0.1
        ramp_up: float = Field(1.0, gt=0, le=1)
        decay: float = Field(0.99, ge=0, lt=1)

    summary = "agree with the network's moving average on slices at another intensity"
    citation = "Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780"
    needs = "labelled and unlabelled slices"
    uses_unlabelled = True

    def __init__(self, network: UNet, loss: Settings, deep_supervision: int = 0) -> None:
        super().__init__(network, loss, deep_supervision)
        self.loss = loss
        self.teacher = Teacher(network, loss.decay)

    @property
    def model(self) -> UNet:
        """The teacher."""
        return self.teacher.network

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        student, teacher, labels = student_and_teacher_views(batch, views, seed)
        n = len(labels)
        scores = self.scores(student)
        supervised = over_resolutions(
            lambda scores, s: supervised_loss(scores[:n], labels[:, ::s, ::s]), scores
        )
        consistency = consistency_loss(scores[0], probabilities(self.teacher(teacher)))
        weight = self.loss.weight * ramp_up(progress, self.loss.ramp_up)
        return Step(
            supervised + weight * consistency,
            logs={"supervised": supervised.detach(), "consistency": consistency.detach()},
        )

    def after_step(self) -> None:
        self.teacher.update(self.network)
