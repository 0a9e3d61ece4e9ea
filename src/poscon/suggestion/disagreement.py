"""How much a model's predictions for a slice change with changes that should not matter."""

import numpy as np
import torch
from torch import Tensor

from poscon.models import Model
from poscon.seeds import stream
from poscon.training.inference import network_inputs
from poscon.training.run import RunFolder
from poscon.views import ViewSettings
from poscon.views.intensity import apply_intensity, draw_intensity

VIEWS = 5
"""The slice as it is, and four changed views of it."""
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""The axes that the views are flipped along, one after another."""


def trained_with_mirrors(model: Model) -> bool:
    """Whether the views of the model's training were mirrored."""
    views = RunFolder(model.run).read_config()["settings"].get("views", {})
    return bool(views.get("mirror", False))


@torch.no_grad()
def disagreement(model: Model, stack: Tensor, seed: int, *, mirrored: bool) -> np.ndarray:
    """Uncertainty of a model: how much its predictions for views of a slice disagree.

    It is the generalised Jensen-Shannon divergence of the class probabilities p_v of V views,

        H(1/V sum_v p_v) - 1/V sum_v H(p_v),

    with the entropy H, averaged over the pixels of the slice (Gaillochet et al., TAAL, DALI at
    MICCAI 2022). The views differ in brightness, contrast, gamma and noise, all slices alike. They
    are mirrored too if the views of the training were, else mirrored anatomy would be new to the
    model.

    Args:
        model: a fine-tuned network.
        stack: (slices, channels, rows, columns) float32, prepared like its training data.
        seed: seed of the changes.
        mirrored: whether the views are mirrored.

    Returns:
        (slices,) float64 in nats, from 0 to the logarithm of the number of classes.
    """
    device = next(model.network.parameters()).device
    rows, columns = stack.shape[2:]
    parts, top, left = network_inputs(stack, model.network.encoder, model.size)
    found = []
    for part in parts:
        images = part.to(device)
        p = torch.stack(
            [
                _probabilities(model, images, view, stream(seed, "view", view), mirrored)
                for view in range(VIEWS)
            ]
        )[..., top : top + rows, left : left + columns]
        divergence = _entropy(p.mean(0)) - _entropy(p).mean(0)
        found.append(divergence.clamp(min=0).mean((1, 2)).double().cpu())
    return torch.cat(found).numpy()


def _probabilities(model: Model, images: Tensor, view: int, seed: int, mirrored: bool) -> Tensor:
    """(B, classes, H, W) class probabilities of a view, turned back; view 0 is the image itself."""
    axes = MIRRORS[view % len(MIRRORS)] if mirrored else ()
    seen = images
    if view > 0:
        drawn = draw_intensity(1, len(model.channels), ViewSettings(), seed)
        seen = apply_intensity(images.clone(), drawn, seed)
    logits: Tensor = model.network(seen.flip(axes))
    return logits.float().softmax(1).flip(axes)


def _entropy(p: Tensor) -> Tensor:
    """(..., classes, H, W) -> (..., H, W), in nats."""
    return torch.special.entr(p).sum(-3)
