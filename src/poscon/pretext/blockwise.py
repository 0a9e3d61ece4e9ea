"""The loss of each anchor without the matrix of all pairs, forward and backward.

One block of anchors after another is compared with all rows. Nothing is kept for each pair. The
backward pass computes the logits again from the embeddings and the log partition of each anchor, as
FlashAttention (Dao et al. 2022, arXiv 2205.14135) does for the softmax of attention.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Related = Callable[[Tensor, Tensor], Tensor]
"""A rule for pairs: from keys (A,) of anchors and (B,) of rows to a new (A, B). The rule for
positives gives bool, or as float the weight of each: 0 or more, and 0 is no positive."""

BLOCK_PAIRS = 2**22
"""Pairs in one block. A matrix of them has 16 MiB in float32, and a few exist at a time."""


class AnchorTerms(NamedTuple):
    """What :func:`anchor_losses` finds for each anchor. Only the losses have a gradient.

    Attributes:
        losses: (A,), L_i; 0 where the anchor has no positive.
        weight: (A,), the sum of the weights of its positives, or their number.
        chance: (A,) float64, the loss if all rows are equal.
        floor: (A,) float64, the least loss, see :func:`least_loss`.
    """

    losses: Tensor
    weight: Tensor
    chance: Tensor
    floor: Tensor


def anchor_losses(
    z: Tensor,
    keys: Tensor,
    related: Related,
    *,
    temperature: float,
    left_out: Related | None = None,
    anchors: range | None = None,
    block: int | None = None,
) -> AnchorTerms:
    """The terms whose mean is :func:`poscon.pretext.contrast.contrastive_loss`.

    They can be differentiated once, with respect to z.

    Args:
        z: (B, D), at unit length, in float32 or float64.
        keys: (B,), the input of the rules.
        related: the rule for positives. A row is never its own positive.
        temperature: greater than zero.
        left_out: the rule for rows that are not in the denominator, in bool; no positive is one.
            None: there are no such rows.
        anchors: which rows are anchors; None: all.
        block: anchors at a time; None: as many as make ``BLOCK_PAIRS`` pairs.

    Returns:
        The terms of each of the A anchors.

    Raises:
        RuntimeError: in the backward pass, if it is asked for a second derivative
            (``create_graph``).
    """
    anchors = range(len(z)) if anchors is None else anchors
    block = max(1, BLOCK_PAIRS // len(z)) if block is None else block
    pairs = _Pairs(related, left_out, temperature, anchors, block)
    return AnchorTerms(*_AnchorLosses.apply(z, keys, pairs))


def least_loss(positives: Tensor) -> Tensor:
    """The least loss of each anchor: that of a softmax in proportion to the weights.

    It is the entropy of the weights divided by their sum. If the n positives of an anchor count the
    same, it is log n.

    Args:
        positives: (A, B) bool, or the weight of each as float. No row is its own positive.

    Returns:
        (A,) float64; 0 where an anchor has no positive.
    """
    weight = positives.sum(dim=1).double()
    if positives.dtype == torch.bool:
        return weight.clamp(min=1).log()
    weight = or_one(weight)
    return weight.log() + torch.special.entr(positives).sum(dim=1) / weight


def or_one(weight: Tensor) -> Tensor:
    """The sums of weights to divide by: 1 in place of 0."""
    return weight.masked_fill(weight == 0, 1)


class _Block(NamedTuple):
    """Some anchors and their pairs with all rows.

    Attributes:
        anchors: which of the anchors.
        rows: the rows of these a anchors.
        logits: (a, B), as low as can be where a row is not in the denominator.
        positives: (a, B), as of the rule, with no row as its own positive.
        n_under: (a,) or a number for all: how many rows are in the denominator.
    """

    anchors: slice
    rows: slice
    logits: Tensor
    positives: Tensor
    n_under: Tensor | int


class _Pairs:
    """The pairs of all anchors with all rows, one block of anchors after another."""

    def __init__(
        self,
        related: Related,
        left_out: Related | None,
        temperature: float,
        anchors: range,
        block: int,
    ) -> None:
        self.related = related
        self.left_out = left_out
        self.temperature = temperature
        self.anchors = anchors
        self.block = block

    def __call__(self, z: Tensor, keys: Tensor) -> Iterator[_Block]:
        for first in range(0, len(self.anchors), self.block):
            chosen = self.anchors[first : first + self.block]
            rows = slice(chosen.start, chosen.stop)
            logits = (z[rows] @ z.T).div_(self.temperature)
            # finite, so that nothing turns to NaN where there is no other row
            nothing = torch.finfo(logits.dtype).min
            logits.diagonal(chosen.start).fill_(nothing)
            n_under: Tensor | int = len(z) - 1
            if self.left_out is not None:
                out = self.left_out(keys[rows], keys)
                out.diagonal(chosen.start).fill_(False)
                logits.masked_fill_(out, nothing)
                n_under = n_under - out.sum(dim=1)
            positives = self.related(keys[rows], keys)
            positives.diagonal(chosen.start).fill_(0)
            yield _Block(slice(first, first + len(chosen)), rows, logits, positives, n_under)


class _AnchorLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, keys: Tensor, pairs: _Pairs) -> tuple[Tensor, ...]:
        losses = z.new_zeros(len(pairs.anchors))
        log_partition, weight = torch.empty_like(losses), torch.empty_like(losses)
        floor = torch.empty_like(losses, dtype=torch.float64)
        n_under = torch.empty_like(losses, dtype=torch.int64)
        with torch.autocast(z.device.type, enabled=False):  # else a product of bfloat16
            for at, _, logits, positives, under in pairs(z, keys):
                n_under[at] = under
                log_partition[at] = logits.logsumexp(dim=1)
                weight[at] = positives.sum(dim=1)
                floor[at] = least_loss(positives)
                losses[at] = logits.mul_(positives).sum(dim=1)
        losses = log_partition - losses / or_one(weight)
        losses = losses.masked_fill_(weight == 0, 0)
        chance = n_under.clamp(min=1).double().log()
        ctx.pairs = pairs
        ctx.save_for_backward(z, keys, log_partition, weight)
        ctx.mark_non_differentiable(weight, chance, floor)
        return losses, weight, chance, floor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor, None, None]:
        """With s_ij the logits, dL_i/ds_ij = exp(s_ij - log partition) - w_ij / sum_k w_ik."""
        if torch.is_grad_enabled():  # once_differentiable would let a constant gradient pass
            raise RuntimeError("the loss by blocks cannot be differentiated twice")
        z, keys, log_partition, weight = ctx.saved_tensors
        gradient = (gradient * (weight > 0) / ctx.pairs.temperature)[:, None]
        share = gradient / or_one(weight)[:, None]
        of_z = torch.zeros_like(z)
        with torch.autocast(z.device.type, enabled=False):
            for at, rows, logits, positives, _ in ctx.pairs(z, keys):
                pull = logits.sub_(log_partition[at, None]).exp_().mul_(gradient[at])
                pull -= positives * share[at]
                of_z[rows] += pull @ z
                of_z.addmm_(pull.T, z[rows])
        return of_z, None, None
