"""What the contrastive methods share: a cross-entropy over pairs of views, told which go together.

The methods differ in their positives (and GCL in its negatives), and in nothing else.
"""

import math

import torch
from torch import Tensor, nn

from poscon.distributed import gather, n_processes, rank, total
from poscon.pretext.blockwise import Related, anchor_losses
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

DENSE = 1024
"""Up to so many views all pairs are made at once: blocks would save nothing that matters there."""


def unit(embeddings: Tensor) -> Tensor:
    """Scale (..., D) to unit length along the last axis, in at least single precision."""
    wide = embeddings if embeddings.dtype.itemsize > 2 else embeddings.float()
    return nn.functional.normalize(wide, dim=-1)


def contrastive_loss(
    embeddings: Tensor, positives: Tensor, *, temperature: float, negatives: Tensor | None = None
) -> Tensor:
    """Contrast each row with the others; rows that are its positives should be nearest.

    With z the embeddings at unit length and T the temperature, anchor i with positives P(i) has

        L_i = -1/|P(i)| * sum_{j in P(i)} log( exp(z_i.z_j / T) / D_ij )

    where D_ij sums exp(z_i.z_k / T) over all k != i, or, if ``negatives`` are given, over j and
    the negatives of i. The loss is the mean of L_i over the anchors that have a positive; anchors
    without one are skipped, and if no anchor has one the loss is 0 (with a gradient of 0).

    Args:
        embeddings: (B, D), of any length other than zero.
        positives: (B, B) bool; row i marks the positives of anchor i. The diagonal is ignored.
        temperature: greater than zero.
        negatives: (B, B) bool likewise, or None.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    z = unit(embeddings)
    itself = _diagonal(positives)
    positives = positives & ~itself
    with torch.autocast(z.device.type, enabled=False):  # else a product of bfloat16
        logits = z @ z.T / temperature
    n_positives = positives.sum(dim=1)
    # a finite filling keeps the gradient finite where nothing is left to sum
    nothing = torch.finfo(logits.dtype).min
    if negatives is None:
        log_partition = logits.masked_fill(itself, nothing).logsumexp(dim=1)
        # mean over P(i) of (log partition - logit), with a mask instead of ragged rows
        mean_logit = (logits * positives).sum(dim=1) / n_positives.clamp(min=1)
        per_anchor = log_partition - mean_logit
    else:
        rest = logits.masked_fill(itself | ~negatives, nothing).logsumexp(dim=1, keepdim=True)
        terms = torch.logaddexp(logits, rest) - logits
        per_anchor = (terms * positives).sum(dim=1) / n_positives.clamp(min=1)
    per_anchor = torch.where(n_positives > 0, per_anchor, logits.new_zeros(()))
    return per_anchor.sum() / (n_positives > 0).sum().clamp(min=1)


def contrast(embeddings: Tensor, keys: Tensor, related: Related, *, temperature: float) -> Step:
    """Contrast the views of all processes, whose positives a rule tells.

    The loss is that of :func:`contrastive_loss` without ``negatives``, in memory that grows with
    the number of views and not of pairs: see docs/explanation/loss-at-scale.md. In a distributed
    training it is the loss of all processes' views, the same in each; a process takes its own
    views as anchors. Every process must have the same number of views.

    Args:
        embeddings: (B, D), of any length other than zero.
        keys: (B,), what the rule judges by; alike in meaning in all processes.
        related: keys of A anchors and of B views -> (A, B) bool, which are positives of which. A
            view is never its own.
        temperature: greater than zero.

    Returns:
        The step; it logs the mean similarity of the embeddings.
    """
    z = gather(unit(embeddings))
    if n_processes() == 1 and len(z) <= DENSE:
        positives = related(keys, keys)
        loss = contrastive_loss(embeddings, positives, temperature=temperature)
        floor = floor_level(positives)
    else:
        first = rank() * len(embeddings)
        losses, n_positives = anchor_losses(
            z,
            gather(keys),
            related,
            temperature=temperature,
            anchors=range(first, first + len(embeddings)),
        )
        n_anchors = total((n_positives > 0).sum()).clamp(min=1)
        loss = total(losses.sum()) / n_anchors
        floor = total(_logarithms(n_positives).sum()) / n_anchors
    return Step(
        loss,
        chance=math.log(max(1, len(z) - 1)),
        floor=floor,
        logs={"similarity": mean_similarity(z)},
    )


def chance_level(positives: Tensor, negatives: Tensor | None = None) -> Tensor:
    """What :func:`contrastive_loss` comes to when all embeddings are alike; same masks."""
    itself = _diagonal(positives)
    has = (positives & ~itself).any(dim=1)
    if negatives is None:
        per_anchor = (~itself).sum(dim=1).clamp(min=1).double().log()
    else:
        per_anchor = (negatives & ~itself).sum(dim=1).double().log1p()
    return (per_anchor * has).sum() / has.sum().clamp(min=1)


def floor_level(positives: Tensor, negatives: Tensor | None = None) -> Tensor:
    """About what it comes to when positives are alike and far from all others; same masks.

    Where the denominator has all views, the softmax is even over the positives and
    L_i = log |P(i)|; where it has negatives only, nothing competes with a positive.
    """
    if negatives is not None:
        return torch.zeros((), dtype=torch.float64, device=positives.device)
    n_positives = (positives & ~_diagonal(positives)).sum(dim=1)
    return _logarithms(n_positives).sum() / (n_positives > 0).sum().clamp(min=1)


def _logarithms(n_positives: Tensor) -> Tensor:
    """Of numbers of positives, 0 where there is none."""
    return n_positives.clamp(min=1).double().log()


def _diagonal(mask: Tensor) -> Tensor:
    return torch.eye(len(mask), dtype=torch.bool, device=mask.device)


def two_views(batch: SliceBatch, views: ViewMaker, seed: int) -> Tensor:
    """(2B, 1, size, size): a view of every slice, then another of every slice."""
    return torch.cat([views(batch.images, seed, view=0), views(batch.images, seed, view=1)])


def mean_similarity(embeddings: Tensor) -> Tensor:
    """Mean cosine of different rows: near 1 when all point the same way."""
    z, n = unit(embeddings.detach()), len(embeddings)
    return (z.sum(0).square().sum() - n) / (n * (n - 1))
