"""The base of all fine-tuning methods: a segmentation network and a loss."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from poscon import settings
from poscon.finetuning.guard import ClassGuard
from poscon.finetuning.teacher import Teacher
from poscon.methods import Method
from poscon.networks.layers import initialise
from poscon.networks.parts import SegmentationNetwork


class FinetuneMethod(Method):
    """Base of the fine-tuning methods. A method is built around a segmentation network."""

    uses_unlabelled: ClassVar[bool] = False
    """Whether ``batch.unlabelled`` is needed: slices of cases without labels."""
    uses_ranges: ClassVar[bool] = False
    """Whether ``batch.unlabelled.possible`` is used: what slices without labels may show."""
    uses_positions: ClassVar[bool] = False
    """Whether ``batch.positions`` is used. If not, the setting ``position`` has no effect."""
    has_pseudo_labels: ClassVar[bool] = False
    """Whether slices without labels get labels, so that ``guard`` has to watch over these."""
    smallest_batch: ClassVar[int] = 1
    has_own_ema: ClassVar[bool] = False
    """Whether the result is the method's own teacher, so that ``ema_decay`` has no effect."""
    rising_log: ClassVar[str | None] = None
    """The name of a log that rises as long as the method learns, without any labels; or None."""

    guard: ClassGuard | None

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: settings.Settings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        """Build the modules that are trained besides the network.

        Args:
            network: trained in place.
            loss: the settings of the loss, of the class ``Settings`` of the method.
            deep_supervision: at how many coarser resolutions the decoder is supervised too, if it
                has so many.
            ema_decay: decay of a moving average of the network's weights, which is then the result.
                0: there is no average, and the network is the result.
        """
        super().__init__()
        self.network = network
        self.loss = loss
        self.guard = ClassGuard(network.n_classes) if self.has_pseudo_labels else None
        self.ema = Teacher(network, ema_decay) if ema_decay > 0 else None
        coarser = network.decoder.channels_of_map[-2::-1]  # from fine to coarse
        n_coarser = min(deep_supervision, network.encoder.even_levels)
        self.coarse = nn.ModuleList(
            nn.Conv2d(channels, network.n_classes, 1) for channels in coarser[:n_coarser]
        ).apply(initialise)

    def check_batches(self, labelled: int, unlabelled: int) -> None:
        """Refuse, before any work, numbers of slices per step that the method cannot use.

        Args:
            labelled: labelled slices per step.
            unlabelled: slices without labels per step.

        Raises:
            PosconError: the method needs other numbers.
        """

    def logits(self, images: Tensor) -> list[Tensor]:
        """Class logits at full resolution, then at each coarser resolution that is supervised."""
        if not self.coarse:
            return [self.network(images)]
        return self.logits_of(self.network.encoder(images))

    def logits_of(self, features: list[Tensor]) -> list[Tensor]:
        """Class logits as of :meth:`logits`, from the encoder's features at every level."""
        *coarser, finest = self.network.decoder(features)
        logits = [self.network.classifier(finest)]
        for classifier, level in zip(self.coarse, reversed(coarser), strict=False):
            logits.append(classifier(level))
        return logits

    @property
    def model(self) -> SegmentationNetwork:
        """The network that is the result."""
        return self.network if self.ema is None else self.ema.network

    def after_step(self) -> None:
        if self.ema is not None:
            self.ema.update(self.network)


def over_resolutions(loss: Callable[[Tensor, int], Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Deep supervision (Lee et al., AISTATS 2015) with the weights of Isensee et al. 2021.

    The resolution that is halved k times has the weight 2^-k, divided by the sum of all weights.

    Args:
        loss: from the logits at one resolution and its stride 2^k to a scalar. It takes every
            2^k-th pixel of the targets.
        logits: (B, classes, H / 2^k, W / 2^k) for k = 0, 1, ...
    """
    losses = torch.stack([loss(part, 2**k) * 0.5**k for k, part in enumerate(logits)])
    return losses.sum() / sum(0.5**k for k in range(len(logits)))
