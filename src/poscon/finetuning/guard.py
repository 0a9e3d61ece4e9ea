"""A guard against a class that dies out in pseudo-labels.

A teacher that no longer finds a class teaches the network that the class is nowhere. The teacher
follows the network, so no slice without labels can bring the class back. Labelled slices can.
"""

import torch
from torch import Tensor, nn

from poscon.volumes.case import IGNORE

LEAST = 0.05
"""A class is lost if its share of the pseudo-labels is below this part of its share of the labels.
"""
SLICES = 200
"""Labelled slices with a class from one look at the class to the next."""
RISE = 100
"""Steps in which the trust rises from 0 to 1."""


def class_pixels(labels: Tensor, counted: Tensor, n_classes: int) -> Tensor:
    """Count the pixels of every class in every slice, without waiting for a GPU.

    Args:
        labels: (B, H, W) class indices; any number where a pixel does not count.
        counted: (B, H, W) bool, the pixels that count.
        n_classes: number of classes, with the background.

    Returns:
        (B, n_classes) int64.
    """
    index = torch.where(counted, labels.long(), n_classes).flatten(1)
    counts = index.new_zeros(len(index), n_classes + 1)
    return counts.scatter_add_(1, index, torch.ones_like(index))[:, :-1]


class ClassGuard(nn.Module):
    """Says at each step how far pseudo-labels can be trusted, from 0 to 1.

    The guard looks at a class each time that :data:`SLICES` labelled slices with the class have
    gone by since its last look. With the pixels of all steps in between, a class c is found if

        share of c among the pseudo-labels > LEAST * share of c among the labels

    and it is lost if it is not found, but was at an earlier look. So a class that a network has not
    learnt yet is not lost. Neither is one that slices without labels never have. The trust is 1. It
    is 0 while a class is lost, and then rises to 1 in :data:`RISE` steps.

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
    def forward(self, labels: Tensor, pseudo_labels: Tensor, counted: Tensor) -> Tensor:
        """Take in the labels of a step.

        Args:
            labels: (B, H, W) labels, ``IGNORE`` where a pixel is not labelled.
            pseudo_labels: (U, H, W) class indices.
            counted: (U, H, W) bool, the pseudo-labels that count.

        Returns:
            The trust of this step, a scalar.
        """
        n_classes = self.counts.shape[1]
        of_slice = class_pixels(labels, labels != IGNORE, n_classes)
        labelled = of_slice.sum(0)
        pseudo = class_pixels(pseudo_labels, counted, n_classes).sum(0)
        self.counts += torch.stack(
            [
                (of_slice > 0).sum(0),
                labelled,
                labelled.sum().expand(n_classes),
                pseudo,
                pseudo.sum().expand(n_classes),
            ]
        )
        slices = self.counts[0]
        known, all_known, taught, all_taught = self.counts[1:].double()
        looked = (slices >= SLICES) & (all_taught > 0)
        found = taught * all_known > LEAST * known * all_taught
        self.lost.copy_(torch.where(looked, self.found & ~found, self.lost))
        self.found |= looked & found
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
