"""What the contrastive methods share: a cross-entropy over pairs of views.

The methods differ in which pairs are positives. GCL differs in its negatives too.
"""

import math

import torch
from torch import Tensor, nn

from poscon.distributed import gather, n_processes, rank, total
from poscon.pretext.blockwise import Related, anchor_losses, least_loss, or_one
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

DENSE = 1024
"""The largest number of views for which all pairs are made at once. Blocks save little there."""


def unit(embeddings: Tensor) -> Tensor:
    """Scale (..., D) to unit length along the last axis, in at least single precision."""
    wide = embeddings if embeddings.dtype.itemsize > 2 else embeddings.float()
    return nn.functional.normalize(wide, dim=-1)


def contrastive_loss(
    embeddings: Tensor,
    positives: Tensor,
    *,
    temperature: float,
    negatives: Tensor | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    """Contrast each row with the others. Its positives should be nearest to it.

    With z the embeddings at unit length, T the temperature and w_ij the weight of the positive j,
    anchor i with positives P(i) has

        L_i = -1/W_i * sum_{j in P(i)} w_ij log( exp(z_i.z_j / T) / D_ij ),    W_i = sum_j w_ij

    where D_ij sums exp(z_i.z_k / T) over all k != i that are not left out, or, if ``negatives``
    are given, over j and the negatives of i. If all positives have the same weight, L_i is the mean
    over them. The loss is the mean of L_i over the anchors that have a positive. If no anchor has
    one, the loss is 0 and its gradient is 0.

    Args:
        embeddings: (B, D), of any length other than zero.
        positives: (B, B) bool; row i marks the positives of anchor i. Or float: their weights, 0
            or more, and 0 is no positive. The diagonal is ignored.
        temperature: greater than zero.
        negatives: (B, B) bool; row i marks the negatives of anchor i. None: all other rows.
        left_out: (B, B) bool; row i marks the rows, none of them a positive of anchor i, that are
            not in its denominator. It is not used together with ``negatives``. None: no rows.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    z = unit(embeddings)
    itself = _diagonal(positives)
    positives = positives.masked_fill(itself, 0)
    with torch.autocast(z.device.type, enabled=False):  # otherwise it multiplies in bfloat16
        logits = z @ z.T / temperature
    weight = positives.sum(dim=1)
    # a finite filling keeps the gradient finite where nothing is left to sum
    nothing = torch.finfo(logits.dtype).min
    if negatives is None:
        out = itself if left_out is None else itself | left_out
        log_partition = logits.masked_fill(out, nothing).logsumexp(dim=1)
        # mean over P(i) of (log partition - logit), with a mask instead of ragged rows
        mean_logit = (logits * positives).sum(dim=1) / or_one(weight)
        per_anchor = log_partition - mean_logit
    else:
        rest = logits.masked_fill(itself | ~negatives, nothing).logsumexp(dim=1, keepdim=True)
        terms = torch.logaddexp(logits, rest) - logits
        per_anchor = (terms * positives).sum(dim=1) / or_one(weight)
    per_anchor = torch.where(weight > 0, per_anchor, logits.new_zeros(()))
    return per_anchor.sum() / (weight > 0).sum().clamp(min=1)


def contrast(
    embeddings: Tensor,
    keys: Tensor,
    related: Related,
    *,
    temperature: float,
    left_out: Related | None = None,
) -> Step:
    """Contrast the views of all processes. A rule says which of them are positives.

    The loss is that of :func:`contrastive_loss` without ``negatives``. Its memory grows with the
    number of views, not with the number of pairs (docs/explanation/loss-at-scale.md). In a
    distributed training it is the loss over the views of all processes, the same in each process.
    Each process takes its own views as anchors. All processes must have the same number of views.

    Args:
        embeddings: (B, D), of any length other than zero.
        keys: (B,), the input of the rules, with the same meaning in all processes.
        related: from keys (A,) of anchors and (B,) of views to (A, B): which views are positives
            of which anchor in bool, or their weights as float. A view is never its own positive.
        temperature: greater than zero.
        left_out: the rule for views that are not in the denominator of an anchor, from the same
            keys to (A, B) bool; no positive is one. None: there are no such views.

    Returns:
        The step. It logs the mean similarity of the embeddings.
    """
    z = gather(unit(embeddings))
    if n_processes() == 1 and len(z) <= DENSE:
        positives = related(keys, keys)
        out = None if left_out is None else left_out(keys, keys)
        loss = contrastive_loss(embeddings, positives, temperature=temperature, left_out=out)
        chance, floor = chance_level(positives, left_out=out), floor_level(positives)
    else:
        first = rank() * len(embeddings)
        terms = anchor_losses(
            z,
            gather(keys),
            related,
            temperature=temperature,
            left_out=left_out,
            anchors=range(first, first + len(embeddings)),
        )
        has = terms.weight > 0
        n_anchors = total(has.sum()).clamp(min=1)
        loss = total(terms.losses.sum()) / n_anchors
        chance = total((terms.chance * has).sum()) / n_anchors
        floor = total(terms.floor.sum()) / n_anchors
    return Step(
        loss,
        # if nothing is left out, it is the same for all anchors, also for those without a positive
        chance=math.log(max(1, len(z) - 1)) if left_out is None else chance,
        floor=floor,
        logs={"similarity": mean_similarity(z)},
    )


def chance_level(
    positives: Tensor, negatives: Tensor | None = None, left_out: Tensor | None = None
) -> Tensor:
    """The value of :func:`contrastive_loss` when all embeddings are equal; the same masks."""
    itself = _diagonal(positives)
    has = positives.masked_fill(itself, 0).any(dim=1)
    if negatives is None:
        under = ~itself if left_out is None else ~(itself | left_out)
        per_anchor = under.sum(dim=1).clamp(min=1).double().log()
    else:
        per_anchor = (negatives & ~itself).sum(dim=1).double().log1p()
    return (per_anchor * has).sum() / has.sum().clamp(min=1)


def floor_level(positives: Tensor, negatives: Tensor | None = None) -> Tensor:
    """About the value when positives are equal and far from all others; the same masks.

    If the denominator has all views, the softmax is even over the positives and L_i = log |P(i)|.
    With weights it is in proportion to them (:func:`poscon.pretext.blockwise.least_loss`). If the
    denominator has negatives only, nothing competes with a positive and the value is 0.
    """
    if negatives is not None:
        return torch.zeros((), dtype=torch.float64, device=positives.device)
    positives = positives.masked_fill(_diagonal(positives), 0)
    has = positives.any(dim=1)
    return least_loss(positives).sum() / has.sum().clamp(min=1)


def _diagonal(mask: Tensor) -> Tensor:
    return torch.eye(len(mask), dtype=torch.bool, device=mask.device)


def two_views(batch: SliceBatch, views: ViewMaker, seed: int) -> Tensor:
    """(2B, in_channels, size, size): a view of every slice, then another of every slice."""
    return torch.cat([views(batch.images, seed, view=0), views(batch.images, seed, view=1)])


def mean_similarity(embeddings: Tensor) -> Tensor:
    """Mean cosine of different rows. It is near 1 when all rows have the same direction.

    Args:
        embeddings: (N, D), N at least 2. No gradient flows back.
    """
    z, n = unit(embeddings.detach()), len(embeddings)
    return (z.sum(0).square().sum() - n) / (n * (n - 1))
