"""What every pre-training method is: an encoder, what it puts on top, a loss."""

from typing import ClassVar

from poscon import settings
from poscon.methods import Method
from poscon.networks.heads import HeadSettings
from poscon.networks.parts import Encoder


class PretextMethod(Method):
    """Base of the pre-training methods: built around an encoder."""

    parts: tuple[str, ...] = ("encoder",)
    """The attributes that are parts of the U-Net, which ``finetune`` starts from."""
    trains: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    """Whether it has a projection head; if not, the head's settings have no effect."""
    in_processes: ClassVar[bool] = False
    """Whether several processes, with a share of the batch each, train as one would."""
    uses_grad_cache: ClassVar[bool] = False
    """Whether it honours ``grad_cache_chunk``."""
    grad_cache_chunk: int | None = None
    """Most views that go through the network at once (:func:`poscon.networks.embedding.embed`);
    None: all."""

    def __init__(
        self, encoder: Encoder, head: HeadSettings, loss: settings.Settings, n_slices: int
    ) -> None:
        """Build what goes on top of the encoder.

        Args:
            encoder: trained in place.
            head: the projection head's settings.
            loss: of the class ``Settings`` of the method.
            n_slices: how many slices there are; ``batch.slice_ids`` numbers them.
        """
        super().__init__()
        self.encoder = encoder
