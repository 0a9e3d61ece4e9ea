"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780), for segmentation."""

from pydantic import Field, PositiveFloat

from poscon.finetuning.consistency import (
    ConsistencyMethod,
    ConsistencySettings,
    probabilities,
    student_and_teacher_views,
)
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class MeanTeacher(ConsistencyMethod):
    """The supervised loss, and agreement with a teacher on labelled and unlabelled slices.

    The teacher sees the same view at another intensity. The teacher is the result of the training.
    """

    class Settings(ConsistencySettings):
        """Settings of the loss. The weight and its ramp-up are those of Yu et al. 2019."""

        weight: PositiveFloat = 0.1
        ramp_up: float = Field(1.0, gt=0, le=1)

    summary = "agree with the network's moving average on slices at another intensity"
    citation = "Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780"
    needs = "labelled and unlabelled slices"

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        student, teacher, labels = student_and_teacher_views(batch, views, seed)
        logits = self.logits(student)
        targets = probabilities(self.teacher(teacher))
        return self.total(logits, labels, logits[0], targets, progress)
