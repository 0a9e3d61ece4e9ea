"""MAE: masked autoencoding (He et al., CVPR 2022, arXiv 2111.06377), dense, with a U-Net.

The form for convolutional U-Nets is that of Wald et al. (CVPR 2025, arXiv 2410.23132).
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from poscon import settings
from poscon.errors import PosconError
from poscon.networks.build import build_decoder
from poscon.networks.heads import HeadSettings
from poscon.networks.layers import initialise
from poscon.networks.parts import Decoder, Encoder
from poscon.networks.settings import NetworkSettings
from poscon.pretext.base import PretextMethod
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


def hidden_patches(n: int, size: int, *, patch: int, ratio: float, seed: int) -> Tensor:
    """Which pixels of ``n`` views are hidden: random patches, the same number in every view.

    A view is cut into patches from its first corner. If they do not divide it, those at the far
    borders are smaller. round(ratio * P) of P patches are hidden. The same seed gives the same
    masks on every device.

    Args:
        n: number of views.
        size: extent of a view in pixels.
        patch: extent of a patch in pixels.
        ratio: share of the patches to hide, between 0 and 1.
        seed: seed of the choice of patches.

    Returns:
        (n, 1, size, size) bool, True where hidden.

    Raises:
        PosconError: nothing or everything would be hidden.
    """
    along, count = count_hidden(size, patch=patch, ratio=ratio)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n, along**2, generator=generator).argsort(dim=1)
    hidden = torch.zeros(n, along**2, dtype=torch.bool).scatter_(1, order[:, :count], True)
    hidden = hidden.reshape(n, 1, along, along)
    return hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :size, :size]


def count_hidden(size: int, *, patch: int, ratio: float) -> tuple[int, int]:
    """The number of patches along an axis and the number of hidden ones in a view.

    See :func:`hidden_patches` for the arguments.

    Raises:
        PosconError: nothing or everything would be hidden.
    """
    along = -(-size // patch)
    count = round(ratio * along**2)
    if not 0 < count < along**2:
        raise PosconError(
            f"settings loss.patch = {patch}, loss.ratio = {ratio}: would hide {count} of the "
            f"{along**2} patches of a view of {size} pixels; some must be hidden and some not"
        )
    return along, count


def masked_error(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """The MAE loss: mean squared error over hidden pixels (He et al. 2022, Sec. 3; no number).

    With y the prediction, x the target and H the hidden pixels of all views and image channels,

        L = 1/|H| * sum_{p in H} (y_p - x_p)^2

    Args:
        prediction: (B, channels, H, W).
        target: the target, of the same shape.
        hidden: (B, 1, H, W) bool, the same for all channels; True somewhere.

    Returns:
        Scalar in the square of the images' units, in their dtype but at least float32.
    """
    wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    squared = (prediction.to(wide) - target.to(wide)).square()
    return squared.masked_fill(~hidden, 0).sum() / (hidden.sum() * target.shape[1])


def spread(target: Tensor, hidden: Tensor) -> Tensor:
    """Variance of the hidden pixels: the loss of the best prediction that is one value per channel.

    Arguments as of :func:`masked_error`.
    """
    mean = target.float().masked_fill(~hidden, 0).sum((0, 2, 3), keepdim=True) / hidden.sum()
    return masked_error(mean.expand_as(target), target, hidden)


def masked_views(
    images: Tensor, views: ViewMaker, seed: int, own_slice: slice, *, patch: int, ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A view of every slice with patches set to zero, and what is to be restored.

    A patch is hidden in all input channels at once. Another channel or a neighbouring slice would
    otherwise show what is hidden. Only the slice itself is to be restored, with all of its image
    channels; its neighbours are not.

    Args:
        images: (B, in_channels, canvas, canvas).
        views: makes the views. What is to be restored has the same geometry and the slices' own
            intensity, because noise cannot be predicted.
        seed: seed of the step.
        own_slice: the input channels of the slice itself.
        patch: see :func:`hidden_patches`.
        ratio: see :func:`hidden_patches`.

    Returns:
        What is seen, (B, in_channels, size, size); what is to be restored, (B, channels, size,
        size); and bool where it is hidden, (B, 1, size, size).
    """
    plain = views.settings.model_copy(update={"intensity_probability": 0.0})
    target = views.with_settings(plain)(images, seed)[:, own_slice]
    masks = stream(seed, "masks")
    hidden = hidden_patches(len(images), views.size, patch=patch, ratio=ratio, seed=masks)
    hidden = hidden.to(images.device, non_blocking=True)
    return views(images, seed).masked_fill(hidden, 0), target, hidden  # 0: mean of z-scored images


def to_pixels(decoder: Decoder, network: NetworkSettings) -> nn.Module:
    """From the decoder's finest map to the image channels of a slice."""
    layer = nn.Conv2d(decoder.channels_of_map[-1], network.channels or 1, 1)
    initialise(layer)
    nn.init.normal_(layer.weight, std=0.05)  # small, so that it starts at chance
    return layer


class MaskedAutoencoder(PretextMethod):
    """A view with most of its patches set to zero; encoder and decoder restore them.

    With several input channels see :func:`masked_views`.
    """

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            patch: extent of a patch in pixels of the view.
            ratio: share of the patches that are hidden.
        """

        patch: PositiveInt = 8
        ratio: float = Field(0.75, gt=0, lt=1)

    summary = "hide patches of a slice and restore them; trains the decoder too"
    citation = "He et al., CVPR 2022, arXiv 2111.06377; Wald et al., CVPR 2025, arXiv 2410.23132"
    needs = "slices"
    in_processes = True
    parts = ("encoder", "decoder")
    has_head = False

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.decoder = build_decoder(encoder)
        self.to_pixels = to_pixels(self.decoder, encoder.settings)
        self.loss = loss

    def check(self, total_steps: int, views: ViewMaker) -> None:
        count_hidden(views.size, patch=self.loss.patch, ratio=self.loss.ratio)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        visible, target, hidden = masked_views(
            batch.images,
            views,
            seed,
            self.encoder.settings.own_slice,
            patch=self.loss.patch,
            ratio=self.loss.ratio,
        )
        prediction = self.to_pixels(self.decoder(self.encoder(visible))[-1])
        return Step(
            masked_error(prediction, target, hidden),
            chance=spread(target, hidden),
            floor=0.0,
        )
