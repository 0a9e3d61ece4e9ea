"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412), for segmentation."""

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from poscon import settings
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker
from poscon.volumes.case import IGNORE


def draw_pairs(n: int, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a partner for each of ``n`` slices, and the share of the slice that is kept.

    Returns:
        (n,) int64, a permutation of the slices; and (n,) float32 from Beta(alpha, alpha).
    """
    generator = np.random.default_rng(seed)
    partners = torch.from_numpy(generator.permutation(n))
    return partners, torch.from_numpy(generator.beta(alpha, alpha, n)).float()


def mix(values: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """The virtual examples of Zhang et al. 2018, Sec. 2: share * x_i + (1 - share) * x_j.

    Args:
        values: (B, ...), images or class probabilities.
        partners: (B,), the row j of each row i.
        shares: (B,), from 0 to 1.
    """
    shares = shares.reshape(-1, *[1] * (values.dim() - 1))
    return shares * values + (1 - shares) * values[partners]


def soft_supervised_loss(logits: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    """Dice and cross-entropy for class probabilities as targets.

    With p the softmax of the logits, y the targets and sums over the labelled pixels of the batch,

        L = mean_{c > 0} (1 - (2 sum p_c y_c + e) / (sum p_c + sum y_c + e))
            - mean over these pixels of sum_c y_c log p_c

    with e = 1e-5. Where all targets are 0 or 1 it is
    :func:`poscon.finetuning.supervised.supervised_loss`. If no pixel is labelled, the loss is 0.

    Args:
        logits: (B, classes, H, W) before the softmax.
        targets: (B, classes, H, W), from 0 to 1 and with a sum of 1 over the classes.
        labelled: (B, H, W) bool.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    inside = labelled[:, None]
    entropy = -(targets * wide.log_softmax(dim=1) * inside).sum() / labelled.sum().clamp(min=1)
    truth, found = (part[:, 1:] * inside for part in (targets, wide.softmax(dim=1)))
    overlap = (found * truth).sum((0, 2, 3))
    total = (found + truth).sum((0, 2, 3))
    dice = (2 * overlap + 1e-5) / (total + 1e-5)
    return (1 - dice).mean() + entropy


class Mixup(FinetuneMethod):
    """Every labelled slice is mixed with another one of the batch, and so are their labels.

    A mixed pixel is labelled if both of its pixels are.
    """

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            alpha: shares come from Beta(alpha, alpha). A smaller alpha mixes less.
        """

        alpha: PositiveFloat = 0.1

    summary = "mix labelled slices in pairs, and their labels alike"
    citation = "Zhang et al., ICLR 2018, arXiv 1710.09412"
    needs = "labelled slices"
    smallest_batch = 2

    loss: Settings

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        images = views.apply(batch.images, view)
        labels = views.apply_to_labels(batch.labels, view)
        known = labels != IGNORE
        classes = labels.masked_fill(~known, 0)
        one_hot = nn.functional.one_hot(classes, self.network.n_classes).movedim(-1, 1)
        pairs = draw_pairs(len(images), self.loss.alpha, stream(seed, "pairs"))
        partners, shares = (drawn.to(images.device, non_blocking=True) for drawn in pairs)
        targets = mix(one_hot, partners, shares)
        both = known & known[partners]
        loss = over_resolutions(
            lambda logits, s: soft_supervised_loss(
                logits, targets[..., ::s, ::s], both[:, ::s, ::s]
            ),
            self.logits(mix(images, partners, shares)),
        )
        return Step(loss)
