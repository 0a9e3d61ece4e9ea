"""A teacher: the moving average of the network that is trained (Tarvainen & Valpola 2017)."""

import copy

import torch
from torch import Tensor, nn

from poscon.networks.unet import UNet


class Teacher(nn.Module):
    """An exponential moving average of a network's parameters.

    After step t = 0, 1, ... of the optimiser,

        theta' <- a theta' + (1 - a) theta,    a = min(decay, 1 - 1 / (t + 1))

    (Tarvainen & Valpola 2017, Eq. 2; the rising a lets the teacher forget the initial weights,
    as in their Sec. 3.2). Running statistics of BatchNorm are averaged in the same way; whole
    numbers are copied.

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
        """Class scores, without a gradient; see :meth:`poscon.networks.unet.UNet.forward`."""
        return self.network(images)
