"""What every pre-training method is: an encoder, what it puts on top, a loss."""

from typing import ClassVar

from torch import Tensor, nn

from poscon import settings
from poscon.networks.heads import HeadSettings
from poscon.networks.unet import Encoder
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class PretextMethod(nn.Module):
    """Base of the pre-training methods.

    A method knows nothing of disks, devices or other methods. It is built around an encoder and
    asked for the loss of one batch at a time.
    """

    class Settings(settings.Settings):
        """The settings of the loss; every method has its own."""

    summary: ClassVar[str]
    """One line for ``poscon methods``."""
    citation: ClassVar[str]

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: settings.Settings) -> None:
        super().__init__()
        self.encoder = encoder

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int) -> Step:
        """The loss of one batch; every random choice follows from ``seed``."""
        raise NotImplementedError


def unit(embeddings: Tensor) -> Tensor:
    """Scale each row to unit length, in at least single precision."""
    wide = embeddings if embeddings.dtype.itemsize > 2 else embeddings.float()
    return nn.functional.normalize(wide, dim=1)
