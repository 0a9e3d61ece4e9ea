"""A teacher, the moving average of the network that is trained, and agreeing with it.

The methods with a teacher differ in what it is shown and in what is made of its answer.
"""

import copy
import math

import torch
from torch import Tensor, nn

from poscon.networks.unet import UNet
from poscon.seeds import mix_seed
from poscon.step import SliceBatch
from poscon.views import ViewMaker, apply_view, apply_view_to_labels, with_intensity


class Teacher(nn.Module):
    """An exponential moving average of a network's parameters.

    After step t = 0, 1, ... of the optimiser,

        theta' <- a theta' + (1 - a) theta,    a = min(decay, 1 - 1 / (t + 1))

    (Tarvainen & Valpola 2017, Sec. 2; the rising a, which is in their code, makes it a plain mean
    at first and lets the teacher forget the initial weights). Running statistics of BatchNorm are
    averaged in the same way; whole numbers are copied.

    Args:
        student: the network; the teacher starts as its copy.
        decay: of the average, a.
    """

    step: Tensor

    def __init__(self, student: UNet, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, student: UNet) -> None:
        """Take in the student's weights; call it after each step of the optimiser."""
        a = min(self.decay, 1 - 1 / (int(self.step) + 1))
        theirs = student.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - a)
            else:
                value.copy_(theirs[name])
        self.step += 1

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Class scores, without a gradient; see :meth:`poscon.networks.unet.UNet.forward`.

        While the student is trained, the teacher is in training mode too: BatchNorm normalises by
        the batch, as in the code of Tarvainen & Valpola 2017, Yu et al. 2019 and Li et al. 2020,
        because running statistics lag behind the weights.
        """
        return self.network(images)


def ramp_up(progress: float, share: float) -> float:
    """The Gaussian ramp-up exp(-5 (1 - T)^2) of Laine & Aila 2017, from exp(-5) to 1.

    Args:
        progress: share of the training's steps that are done.
        share: of the steps over which T rises from 0 to 1; above 0.
    """
    return math.exp(-5 * (1 - min(progress / share, 1.0)) ** 2)


def probabilities(scores: Tensor) -> Tensor:
    """The softmax over the classes (B, classes, ...), in at least single precision."""
    wide = scores if scores.dtype.itemsize > 2 else scores.float()
    return wide.softmax(dim=1)


def consistency_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """The consistency cost J of Tarvainen & Valpola 2017, Sec. 2, for every pixel.

    With p the softmax of the student's scores and q the teacher's probabilities, the mean of
    (p - q)^2 over slices, classes and pixels.

    Args:
        scores: (B, classes, H, W) of the student, before the softmax.
        targets: likewise, of the teacher, after it.

    Returns:
        Scalar, in the dtype of the scores but at least float32.
    """
    return (probabilities(scores) - targets).square().mean()


def student_and_teacher_views(
    batch: SliceBatch, views: ViewMaker, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of every slice for the student, and one of the same geometry for the teacher.

    Only the intensity is drawn anew, so that what the two say of a pixel can be compared.

    Returns:
        Two of (B + U, 1, size, size), the labelled slices before the unlabelled ones; and the
        labels (B, size, size) of the former.
    """
    assert batch.labels is not None
    assert batch.unlabelled is not None
    pairs = []
    for slices, own_seed in ((batch, seed), (batch.unlabelled, mix_seed(seed, 10))):
        view, other = (views.draw(len(slices.images), own_seed, view=number) for number in (0, 1))
        same_place = with_intensity(view, other)
        pairs.append([apply_view(slices.images, v, views.size) for v in (view, same_place)])
    student, teacher = (torch.cat(images) for images in zip(*pairs, strict=True))
    view = views.draw(len(batch.images), seed)
    return student, teacher, apply_view_to_labels(batch.labels, view, views.size)
