"""The loss of each anchor without the matrix of all pairs, forward and backward.

One block of anchors after another is compared with all rows. Nothing is kept for each pair. The
backward pass computes the logits again from the embeddings and the log partition of each anchor, as
FlashAttention (Dao et al. 2022, arXiv 2205.14135) does for the softmax of attention.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Related = Callable[[Tensor, Tensor], Tensor]
"""The rule for positives: from keys (A,) of anchors and (B,) of rows to a new (A, B) bool."""

BLOCK_PAIRS = 2**22
"""Pairs in one block. A matrix of them has 16 MiB in float32, and a few exist at a time."""


def anchor_losses(
    z: Tensor,
    keys: Tensor,
    related: Related,
    *,
    temperature: float,
    anchors: range | None = None,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The terms whose mean is :func:`poscon.pretext.contrast.contrastive_loss`.

    They can be differentiated once, with respect to z.

    Args:
        z: (B, D), at unit length, in float32 or float64.
        keys: (B,), the input of the rule.
        related: the rule. A row is never its own positive.
        temperature: greater than zero.
        anchors: which rows are anchors; None: all.
        block: anchors at a time; None: as many as make ``BLOCK_PAIRS`` pairs.

    Returns:
        (A,) the loss L_i of each anchor, 0 where it has no positive; and (A,) int64, the number of
        positives of each.

    Raises:
        RuntimeError: in the backward pass, if it is asked for a second derivative
            (``create_graph``).
    """
    anchors = range(len(z)) if anchors is None else anchors
    block = max(1, BLOCK_PAIRS // len(z)) if block is None else block
    return _AnchorLosses.apply(z, keys, _Pairs(related, temperature, anchors, block))


class _Pairs:
    """The pairs of all anchors with all rows, one block of anchors after another."""

    def __init__(self, related: Related, temperature: float, anchors: range, block: int) -> None:
        self.related = related
        self.temperature = temperature
        self.anchors = anchors
        self.block = block

    def __call__(self, z: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """For each block: which anchors, their rows, the logits (a, B) and the positives (a, B)."""
        for first in range(0, len(self.anchors), self.block):
            chosen = self.anchors[first : first + self.block]
            rows = slice(chosen.start, chosen.stop)
            logits = (z[rows] @ z.T).div_(self.temperature)
            # finite, so that nothing turns to NaN where there is no other row
            logits.diagonal(chosen.start).fill_(torch.finfo(logits.dtype).min)
            positives = self.related(keys[rows], keys)
            positives.diagonal(chosen.start).fill_(False)
            yield slice(first, first + len(chosen)), rows, logits, positives


class _AnchorLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, keys: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        losses = z.new_zeros(len(pairs.anchors))
        log_partition = torch.empty_like(losses)
        n_positives = torch.empty_like(losses, dtype=torch.int64)
        with torch.autocast(z.device.type, enabled=False):  # else a product of bfloat16
            for block, _, logits, positives in pairs(z, keys):
                log_partition[block] = logits.logsumexp(dim=1)
                n_positives[block] = positives.sum(dim=1)
                losses[block] = logits.mul_(positives).sum(dim=1)
        losses = log_partition - losses / n_positives.clamp(min=1)
        losses = losses.masked_fill_(n_positives == 0, 0)
        ctx.pairs = pairs
        ctx.save_for_backward(z, keys, log_partition, n_positives)
        ctx.mark_non_differentiable(n_positives)
        return losses, n_positives

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None, None]:
        """With s_ij the logits, dL_i/ds_ij = exp(s_ij - log partition) - [j in P(i)] / |P(i)|."""
        if torch.is_grad_enabled():  # once_differentiable would let a constant gradient pass
            raise RuntimeError("the loss by blocks cannot be differentiated twice")
        z, keys, log_partition, n_positives = ctx.saved_tensors
        gradient = (gradient * (n_positives > 0) / ctx.pairs.temperature)[:, None]
        share = gradient / n_positives.clamp(min=1)[:, None]
        of_z = torch.zeros_like(z)
        with torch.autocast(z.device.type, enabled=False):
            for block, rows, logits, positives in ctx.pairs(z, keys):
                weights = logits.sub_(log_partition[block, None]).exp_().mul_(gradient[block])
                weights -= positives * share[block]
                of_z[rows] += weights @ z
                of_z.addmm_(weights.T, z[rows])
        return of_z, None, None
