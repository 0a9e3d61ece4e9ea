"""From views to embeddings: an encoder and a head on its bottleneck, at once or bit by bit."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from poscon.networks.layers import statistics_kept


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
    parts = images.tensor_split(-(-len(images) // grad_cache_chunk))
    return torch.cat(
        [
            checkpoint(
                lambda part: head(encoder(part)[-1]),
                part,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), statistics_kept(encoder, head)),
            )
            for part in parts
        ]
    )
