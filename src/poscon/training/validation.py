"""How good a network is at the validation cases while it is trained."""

from collections.abc import Sequence

import numpy as np
import torch

from poscon.networks.parts import SegmentationNetwork
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.inference import choose_precision, largest_component, predicted_classes
from poscon.volumes.case import IGNORE


@torch.no_grad()
def mean_dice(
    network: SegmentationNetwork,
    store: Store,
    cases: Sequence[CaseRecord],
    chosen: FinetuneSettings,
) -> dict[str, float]:
    """Mean Dice over classes and cases, on the store's own grid, in the training's precision.

    What is not labelled is not counted. Afterwards the network is in training mode.
    """
    scores = []
    device = next(network.parameters()).device.type
    mixed = choose_precision(chosen.precision, device) == "bf16"
    network.eval()
    for case in cases:
        stack = torch.from_numpy(store.image(case).astype(np.float32))
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            predicted = predicted_classes(network, stack, int(chosen.size))
        if chosen.keep_largest_component:
            predicted = largest_component(predicted)
        reference = store.label(case)
        predicted = np.where(reference == IGNORE, IGNORE, predicted)
        for index in range(1, network.n_classes):
            a, b = predicted == index, reference == index
            if total := int(a.sum()) + int(b.sum()):
                scores.append(2 * int((a & b).sum()) / total)
    network.train()
    return {"validation_dice": float(np.mean(scores))}
