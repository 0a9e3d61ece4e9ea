"""Rotation prediction: RotNet (Gidaris et al., ICLR 2018, arXiv 1803.07728)."""

import math

import torch
from torch import Tensor, nn

from poscon import settings
from poscon.errors import PosconError
from poscon.networks.heads import HeadSettings
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker, ViewSettings

TURNS = 4


def all_rotations(images: Tensor) -> Tensor:
    """Turn images counter-clockwise by 0, 1, 2 and 3 quarter turns, all input channels together.

    Args:
        images: (B, C, size, size).

    Returns:
        (4B, C, size, size): all images unturned, then all turned once, and so on.
    """
    return torch.cat([images.rot90(turns, (-2, -1)) for turns in range(TURNS)])


def rotation_labels(n: int, device: torch.device) -> Tensor:
    """The quarter turns of the copies that :func:`all_rotations` makes of n images, (4n,) int64."""
    return torch.arange(TURNS, device=device).repeat_interleave(n)


def rotation_loss(logits: Tensor) -> Tensor:
    """The loss of Gidaris et al. 2018, Eq. 2 and 3.

    With F^y(x) the probability that the network gives to y quarter turns and g(x|y) the image x
    turned so, the loss of an image x is the mean over its K = 4 copies

        L(x) = -1/K * sum_y log F^y(g(x|y))

    and the loss of a batch is the mean over its images.

    Args:
        logits: (4B, 4) before the softmax, in the order of :func:`all_rotations`.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    return nn.functional.cross_entropy(wide, rotation_labels(len(wide) // TURNS, wide.device))


def refuse_hidden_turns(views: ViewSettings) -> None:
    """Refuse views whose own rotation or mirroring hides a quarter turn.

    Raises:
        PosconError: views are rotated by more than 45 degrees, or mirrored (mirroring both axes is
            half a turn).
    """
    for setting, unusable in (
        (f"views.rotation={views.rotation:g}", views.rotation > 45),
        ("views.mirror=true", views.mirror),
    ):
        if unusable:
            raise PosconError(
                f"{setting}: hides which quarter turn method rotation asks for; "
                "set views.rotation to 45 or less and views.mirror=false"
            )


class Rotation(PretextMethod):
    """Classify by how many quarter turns a view is turned. Each view is turned in all four ways."""

    has_head = False

    summary = "tell by how many quarter turns a slice was turned"
    citation = "Gidaris et al., ICLR 2018, arXiv 1803.07728"
    needs = "slices, all in one orientation"
    in_processes = True

    def __init__(
        self, encoder: Encoder, head: HeadSettings, loss: settings.Settings, n_slices: int
    ) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.classifier = nn.Linear(encoder.feature_channels, TURNS)

    def check(self, total_steps: int, views: ViewMaker) -> None:
        refuse_hidden_turns(views.settings)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        turned = all_rotations(views(batch.images, seed))
        logits = self.classifier(self.encoder(turned)[-1].flatten(2).mean(-1))
        right = logits.argmax(dim=1) == rotation_labels(len(batch.images), logits.device)
        return Step(
            rotation_loss(logits),
            chance=math.log(TURNS),
            floor=0.0,
            logs={"accuracy": right.float().mean()},
        )
