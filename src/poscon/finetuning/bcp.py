"""BCP: bidirectional copy-paste (Bai et al., CVPR 2023, arXiv 2305.00673)."""

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from scipy import ndimage
from torch import Tensor

from poscon import settings
from poscon.errors import PosconError
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.finetuning.guard import ClassGuard
from poscon.finetuning.supervised import masked_loss
from poscon.finetuning.teacher import Teacher
from poscon.networks.parts import SegmentationNetwork
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

Pair = tuple[Tensor, Tensor]


def draw_masks(n: int, size: int, crop: float, seed: int) -> Tensor:
    """Draw M of Bai et al. 2023, Sec. 3.1: where a mixed slice shows its background.

    Args:
        n: number of masks.
        size: extent of a mask in pixels.
        crop: beta. The crop takes int(crop * size) pixels of each axis, and at least one.
        seed: seed of the places. All places where the crop lies inside have the same probability.

    Returns:
        (n, size, size) bool, False in the crop and True around it.
    """
    generator = torch.Generator().manual_seed(seed)
    extent = max(1, int(crop * size))
    start = torch.randint(size - extent + 1, (2, n, 1), generator=generator)
    axis = torch.arange(size)
    rows, columns = (axis >= start) & (axis < start + extent)
    return ~(rows[:, :, None] & columns[:, None, :])


def copy_paste(labelled: Pair, unlabelled: Pair, mask: Tensor) -> Tensor:
    """Mix slices or their labels both ways, Eq. 1, 2, 4 and 5 of Bai et al. 2023.

        X_in = X_j * M + X_p * (1 - M),    X_out = X_q * M + X_i * (1 - M)

    Args:
        labelled: X_i and X_j, (n, ...) each.
        unlabelled: X_p and X_q, (n, ...) each.
        mask: M, bool, with as many dimensions as they have.

    Returns:
        (2n, ...): all X_in, then all X_out.
    """
    (i, j), (p, q) = labelled, unlabelled
    return torch.cat([torch.where(mask, j, p), torch.where(mask, q, i)])


def halves(batch: Tensor) -> Pair:
    """The first and the last half of (B, ...) rows. If B is odd, the middle row is in both."""
    n = (len(batch) + 1) // 2
    return batch[:n], batch[-n:]


def largest_components(labels: Tensor) -> Tensor:
    """Keep the largest connected component of each class in each slice. The rest is background.

    Pixels that touch at a corner are connected. If components have the same size, the one that
    comes first row by row stays.

    Args:
        labels: (B, H, W) class indices, at most 255.
    """
    maps = labels.to("cpu", torch.uint8).numpy()
    kept = np.zeros_like(maps)
    for before, after in zip(maps, kept, strict=True):
        for index in np.unique(before[before > 0]):
            components, _ = ndimage.label(before == index, structure=np.ones((3, 3)))
            after[components == np.bincount(components.ravel())[1:].argmax() + 1] = index
    return torch.from_numpy(kept).to(labels)


def bidirectional_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, *, weight: float | Tensor
) -> Tensor:
    """The BCP loss, Eq. 6, 7 and 9 of Bai et al. 2023.

    With L(Q, Y, M) the loss :func:`masked_loss` of the pixels where M is 1, and a the weight,

        L_in  = L(Q_in, Y_in, M) + a L(Q_in, Y_in, 1 - M)
        L_out = L(Q_out, Y_out, 1 - M) + a L(Q_out, Y_out, M)

    and the loss is L_in + L_out.

    Args:
        logits: (2n, classes, H, W) before the softmax: all Q_in, then all Q_out.
        labels: (2n, H, W) class indices: all Y_in, then all Y_out.
        mask: (n, H, W) bool, M.
        weight: alpha, the weight of the pixels from unlabelled slices.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """

    def one_way(q: Tensor, y: Tensor, labelled: Tensor) -> Tensor:
        return masked_loss(q, y, labelled) + weight * masked_loss(q, y, ~labelled)

    n = len(mask)
    return one_way(logits[:n], labels[:n], mask) + one_way(logits[n:], labels[n:], ~mask)


class BidirectionalCopyPaste(FinetuneMethod):
    """Paste crops of labelled slices into unlabelled ones, and the other way round.

    A teacher labels the unlabelled slices. Before that, the network is trained on labelled slices
    only, which are pasted into each other. The teacher starts as a copy of the network when
    self-training begins.
    """

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            crop: share of each axis that a pasted crop takes.
            weight: weight of pixels with a pseudo-label. Labelled pixels have the weight 1.
            pretraining: share of the steps, from the first, that use labelled slices only.
            decay: decay of the teacher's average.
        """

        crop: float = Field(2 / 3, gt=0, lt=1)
        weight: NonNegativeFloat = 0.5
        pretraining: float = Field(0.25, ge=0, lt=1)
        decay: float = Field(0.99, ge=0, lt=1)

    summary = "paste crops between labelled and unlabelled slices; a teacher labels the latter"
    citation = "Bai et al., CVPR 2023, arXiv 2305.00673"
    needs = "labelled and unlabelled slices"
    uses_unlabelled = True
    has_pseudo_labels = True
    smallest_batch = 2

    loss: Settings
    guard: ClassGuard

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: Settings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(network, loss, deep_supervision, ema_decay)
        self.teacher = Teacher(network, loss.decay)
        self.self_training = False  # not a buffer, because reading one waits for a GPU

    def check(self, total_steps: int, views: ViewMaker) -> None:
        if (total_steps - 1) / total_steps < self.loss.pretraining:
            raise PosconError(
                f"setting loss.pretraining = {self.loss.pretraining}: of {total_steps} step(s) "
                "none is left for self-training; train longer or lower it"
            )

    def check_batches(self, labelled: int, unlabelled: int) -> None:
        if labelled != unlabelled:
            raise PosconError(
                f"setting unlabelled_batch = {unlabelled}: method bcp pastes between pairs of a "
                f"labelled and an unlabelled slice, so it must be batch = {labelled}; leave it out"
            )

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        images = halves(views.apply(batch.images, view))
        of_slices = views.apply_to_labels(batch.labels, view)
        labels = halves(of_slices)
        n = len(images[0])
        mask = draw_masks(n, views.size, self.loss.crop, stream(seed, "masks"))
        mask = mask.to(batch.images.device, non_blocking=True)
        weight: float | Tensor = 1.0
        logs = {}
        if progress < self.loss.pretraining:  # one half stands in for the unlabelled slices
            (first, last), (of_first, of_last) = images, labels
            mixed = copy_paste((last, last), (first, first), mask[:, None])
            targets = copy_paste((of_last, of_last), (of_first, of_first), mask)
        else:
            assert batch.unlabelled is not None
            unlabelled = views(batch.unlabelled.images, seed, view=1)
            pseudo_labels = self._pseudo_labels(unlabelled)
            weight = self.loss.weight * self.guard(of_slices, pseudo_labels, progress)
            logs["lost_classes"] = self.guard.lost.sum()
            mixed = copy_paste(images, halves(unlabelled), mask[:, None])
            targets = copy_paste(labels, halves(pseudo_labels), mask)
        logits = self.logits(mixed)

        def loss(logits: Tensor, s: int) -> Tensor:
            return bidirectional_loss(
                logits, targets[:, ::s, ::s], mask[:, ::s, ::s], weight=weight
            )

        undecided = [torch.zeros_like(part) for part in logits]
        return Step(
            over_resolutions(loss, logits),
            chance=over_resolutions(loss, undecided),
            floor=0.0,
            logs=logs,
        )

    def _pseudo_labels(self, images: Tensor) -> Tensor:
        """What the teacher sees in (B, C, H, W) images: (B, H, W), by Eq. 3 of the paper."""
        if not self.self_training:
            self.teacher.network.load_state_dict(self.network.state_dict())
            self.self_training = True
        return largest_components(self.teacher(images).argmax(dim=1))

    def after_step(self) -> None:
        super().after_step()
        if self.self_training:
            self.teacher.update(self.network)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.self_training)

    def set_extra_state(self, state: Tensor) -> None:
        self.self_training = bool(state)
