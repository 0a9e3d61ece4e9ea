"""What every fine-tuning method is: a segmentation network and a loss."""

from typing import ClassVar

from torch import nn

from poscon import settings
from poscon.networks.unet import UNet
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class FinetuneMethod(nn.Module):
    """Base of the fine-tuning methods; see :class:`poscon.pretext.base.PretextMethod`."""

    class Settings(settings.Settings):
        """The settings of the loss; every method has its own."""

    summary: ClassVar[str]
    """One line for ``poscon methods``."""
    citation: ClassVar[str]

    def __init__(self, network: UNet, loss: settings.Settings) -> None:
        super().__init__()
        self.network = network

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int) -> Step:
        """The loss of one batch; every random choice follows from ``seed``."""
        raise NotImplementedError
