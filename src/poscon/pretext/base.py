"""The base of all pre-training methods: an encoder, further layers on top of it, a loss."""

from typing import ClassVar

from poscon import settings
from poscon.methods import Method
from poscon.networks.heads import HeadSettings
from poscon.networks.parts import Encoder


class PretextMethod(Method):
    """Base of the pre-training methods. A method is built around an encoder."""

    parts: tuple[str, ...] = ("encoder",)
    """The attributes that are parts of the U-Net, which ``finetune`` starts from."""
    trains: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    """Whether it has a projection head. If not, the settings of the head have no effect."""
    in_processes: ClassVar[bool] = False
    """Whether several processes that share each batch train as one process does."""
    uses_grad_cache: ClassVar[bool] = False
    """Whether ``grad_cache_chunk`` has an effect."""
    grad_cache_chunk: int | None = None
    """How many views go through the network at once (:func:`poscon.networks.embedding.embed`).
    None: all views."""
    position_limits: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest position of the slices of the training."""

    def __init__(
        self, encoder: Encoder, head: HeadSettings, loss: settings.Settings, n_slices: int
    ) -> None:
        """Build the layers on top of the encoder.

        Args:
            encoder: trained in place.
            head: the settings of the projection head.
            loss: the settings of the loss, of the class ``Settings`` of the method.
            n_slices: number of slices of the training; ``batch.slice_ids`` are below it.
        """
        super().__init__()
        self.encoder = encoder
