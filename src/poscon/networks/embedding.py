"""From views to embeddings: an encoder and a head on its bottleneck, at once or bit by bit."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def embed(
    encoder: nn.Module, head: nn.Module, images: Tensor, grad_cache_chunk: int | None = None
) -> Tensor:
    """The head's embeddings of images, (B, in_channels, H, W) -> (B, D).

    With ``grad_cache_chunk`` the images go through in the fewest parts of at most so many, of even
    size. Only the embeddings of a part are kept. The backward pass makes the rest again when it
    needs it: gradient caching (Gao et al. 2021, arXiv 2101.06983). A loss over all embeddings then
    needs no more memory for activations than one part does. Gradients are those of the parts' plain
    forward passes. BatchNorm normalises by the statistics of the part, and its running statistics
    follow the forward pass only.
    """
    if grad_cache_chunk is None or len(images) <= grad_cache_chunk:
        return head(encoder(images)[-1])
    norms = [
        module
        for network in (encoder, head)
        for module in network.modules()
        if isinstance(module, _BatchNorm)
    ]
    parts = images.tensor_split(-(-len(images) // grad_cache_chunk))
    return torch.cat(
        [
            checkpoint(
                lambda part: head(encoder(part)[-1]),
                part,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _statistics_kept(norms)),
            )
            for part in parts
        ]
    )


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Their running statistics stay as they are; in training they normalise by the batch anyway."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
