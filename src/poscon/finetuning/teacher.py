"""A teacher: the moving average of the network that is trained."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from poscon.networks.parts import SegmentationNetwork


class Teacher(nn.Module):
    """An exponential moving average of a network's parameters.

    After step t = 0, 1, ... of the optimiser,

        theta' <- a theta' + (1 - a) theta,    a = min(decay, 1 - 1 / (t + 1))

    (Tarvainen & Valpola 2017, Sec. 2). The rising a, which is in their code, makes it a plain mean
    at first, so that the teacher forgets the initial weights. The running statistics of BatchNorm
    are averaged in the same way. The teacher's own forward passes in training mode change them
    too. Integers are copied.

    Args:
        student: the network. The teacher starts as its copy.
        decay: the largest a.
    """

    def __init__(self, student: SegmentationNetwork, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.steps = 0  # a number and no buffer: to read one waits for a GPU

    @torch.no_grad()
    def update(self, student: SegmentationNetwork) -> None:
        """Take in the student's weights; call it after each step of the optimiser."""
        a = min(self.decay, 1 - 1 / (self.steps + 1))
        theirs = student.state_dict()
        averaged, current = [], []
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                averaged.append(value)
                current.append(theirs[name])
            else:
                value.copy_(theirs[name])
        get_ema_multi_avg_fn(a)(averaged, current, self.steps)
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The network's class logits, without a gradient.

        While the student is trained, the teacher is in training mode too: BatchNorm normalises by
        the batch, as in the code of Tarvainen & Valpola 2017, Yu et al. 2019 and Li et al. 2020,
        because running statistics lag behind the weights.
        """
        return self.network(images)
