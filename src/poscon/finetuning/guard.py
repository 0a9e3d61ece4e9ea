"""A guard against a class that dies out in pseudo-labels.

A teacher that no longer finds a class teaches the network that the class is nowhere. The teacher
follows the network, so no slice without labels can bring the class back. Labelled slices can.
"""

import torch
from torch import Tensor, nn

FOUND, LOST = 0.25, 0.05
"""A class is found if its share of the pseudo-labels is above the first part of its share of the
labels. It is lost if it was found before, and is now below the second part."""
BEGIN = 0.1
"""Share of the training's steps after which the guard begins to look. An untrained network finds
classes by accident."""
SLICES = 200
"""Labelled slices with a class from one look at the class to the next."""
RISE = 100
"""Steps in which the trust rises from 0 to 1."""


def class_pixels(labels: Tensor, n_classes: int) -> Tensor:
    """Count the pixels of every class in every slice, without waiting for a GPU.

    Args:
        labels: (B, H, W) class indices. Other numbers, as ``IGNORE``, do not count.
        n_classes: number of classes, with the background.

    Returns:
        (B, n_classes) int64.
    """
    index = labels.long().clamp(max=n_classes).flatten(1)
    counts = index.new_zeros(len(index), n_classes + 1)
    return counts.scatter_add_(1, index, torch.ones_like(index))[:, :-1]


class ClassGuard(nn.Module):
    """Says at each step how far pseudo-labels can be trusted, from 0 to 1.

    The guard looks at a class each time that :data:`SLICES` labelled slices with the class have
    gone by since its last look. With the pixels of all steps in between, and

        ratio = (share of the class among the pseudo-labels) / (its share among the labels)

    the class is found if ratio > :data:`FOUND`. If it was found at an earlier look, it is lost from
    ratio < :data:`LOST` on until it is found again. So a class that the network has not learnt yet
    is not lost. Neither is a class that slices without labels never have. The trust is 1. While a
    class is lost the trust is 0, and then it rises to 1 in :data:`RISE` steps.

    Args:
        n_classes: number of classes, with the background.
    """

    counts: Tensor
    found: Tensor
    lost: Tensor
    lately: Tensor
    trust: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        # since the last look at each class: labelled slices that have it, its labelled pixels, all
        # labelled pixels, its pseudo-labels, all pseudo-labels
        self.register_buffer("counts", torch.zeros(5, n_classes, dtype=torch.int64))
        for name in ("found", "lost", "lately"):
            self.register_buffer(name, torch.zeros(n_classes, dtype=torch.bool))
        self.register_buffer("trust", torch.ones(()))

    @torch.no_grad()
    def forward(self, labels: Tensor, pseudo_labels: Tensor, progress: float) -> Tensor:
        """Take in the labels of a step.

        Args:
            labels: (B, H, W) labels, ``IGNORE`` where a pixel is not labelled.
            pseudo_labels: (U, H, W) class indices, also where the teacher is not sure.
            progress: share of the training's steps that are done.

        Returns:
            The trust of this step, a scalar.
        """
        if progress < BEGIN:
            return self.trust.clone()
        n_classes = self.counts.shape[1]
        of_slice = class_pixels(labels, n_classes)
        known = of_slice.sum(0)
        taught = class_pixels(pseudo_labels, n_classes).sum(0)
        totals = [part.sum().expand(n_classes) for part in (known, taught)]
        self.counts += torch.stack([(of_slice > 0).sum(0), known, totals[0], taught, totals[1]])
        looked = self.counts[0] >= SLICES
        known, all_known, taught, all_taught = self.counts[1:].double()
        ratio = (taught / all_taught) / (known / all_known)  # of a class without labels no number
        found, gone = looked & (ratio > FOUND), looked & (ratio < LOST)
        self.lost.copy_(((self.found & gone) | self.lost) & ~found)
        self.found |= found
        self.lately |= self.lost
        self.counts.masked_fill_(looked, 0)
        risen = (self.trust + 1 / RISE).clamp(max=1)
        self.trust.copy_(risen.masked_fill(self.lost.any(), 0))
        return self.trust.clone()

    def lost_lately(self) -> list[int]:
        """The classes that were lost at any step since the last call. It waits for a GPU."""
        classes = self.lately.nonzero().flatten().tolist()
        self.lately.zero_()
        return classes
