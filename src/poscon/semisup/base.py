"""What every fine-tuning method is: a segmentation network and a loss."""

from typing import ClassVar

from poscon import settings
from poscon.methods import Method
from poscon.networks.unet import UNet


class FinetuneMethod(Method):
    """Base of the fine-tuning methods: built around a segmentation network."""

    uses_unlabelled: ClassVar[bool] = False
    """Whether ``batch.unlabelled`` is needed: as many slices of cases without labels."""

    def __init__(self, network: UNet, loss: settings.Settings) -> None:
        """Build what is trained besides the network.

        Args:
            network: trained in place.
            loss: of the class ``Settings`` of the method.
        """
        super().__init__()
        self.network = network

    @property
    def model(self) -> UNet:
        """The network that is the result."""
        return self.network
