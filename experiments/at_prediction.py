"""What can be done to a prediction after the training: views, neighbours, components, true ranges.

    python experiments/at_prediction.py RUN STORE CASES

RUN is a fine-tuning run, STORE its store, and CASES a file that names labelled cases. Every line of
the table is the Dice of these cases on the store's own grid, the mean over classes and cases, after
one change of the network's class probabilities or of the label map:

- views: the mean of the probabilities over turned and scaled copies of a slice;
- neighbours: a slice's probabilities are mixed with those of the slices before and behind it;
- largest component of each class, in place of that of all classes together;
- true ranges: a class is removed where the reference does not have it in the slice.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from poscon.models import Model
from poscon.store.names import read_names
from poscon.store.store import Store
from poscon.training.inference import largest_component, network_inputs

AS_IT_IS = (0.0, 1.0)
VIEWS = {
    "3 views, scaled by 0.87 and 1.15": [AS_IT_IS, (0.0, 0.87), (0.0, 1.15)],
    "3 views, turned by 10 degrees": [AS_IT_IS, (10.0, 1.0), (-10.0, 1.0)],
}
"""Degrees and factors of the views."""
SHARES = (0.2, 0.35)
"""How much of a slice's probabilities comes from its two neighbours."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("cases", type=Path)
    arguments = parser.parse_args()
    model, store = Model(arguments.run, "cpu"), Store(arguments.store)
    found: dict[str, list[float]] = defaultdict(list)
    for case in store.select(read_names(arguments.cases), where=str(arguments.cases)):
        if case.labelled:
            stack = torch.from_numpy(store.image(case).astype(np.float32))
            for name, classes in predictions(model, stack, store.label(case)):
                found[name].append(mean_dice(classes, store.label(case)))
    print(f"| {len(found['as it is'])} cases | Dice |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {fmean(values):.4f} |")


def predictions(
    model: Model, stack: Tensor, reference: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Every way's name and (slices, rows, columns) class indices."""
    plain = probabilities(model, stack, [AS_IT_IS])
    yield "as it is", connected(plain)
    for name, views in VIEWS.items():
        yield name, connected(probabilities(model, stack, views))
    for share in SHARES:
        around = np.concatenate([plain[:1], plain, plain[-1:]])
        mixed = (1 - share) * plain + share / 2 * (around[:-2] + around[2:])
        yield f"neighbours, {share:.0%}", connected(mixed)
    classes = connected(plain)
    each = np.zeros_like(classes)
    for index in range(1, plain.shape[1]):
        each[largest_component((classes == index).astype(np.uint8)) > 0] = index
    yield "largest component of each class", each
    ranged = plain.argmax(1).astype(np.uint8)
    for index in range(1, plain.shape[1]):
        absent = ~(reference == index).any((1, 2))
        ranged[absent[:, None, None] & (ranged == index)] = 0
    yield "true ranges", largest_component(ranged)


@torch.no_grad()
def probabilities(model: Model, stack: Tensor, views: list[tuple[float, float]]) -> np.ndarray:
    """(slices, classes, rows, columns), the mean over the views."""
    parts, top, left = network_inputs(stack, model.network.encoder, model.size)
    rows, columns = stack.shape[2:]
    result = []
    for part in parts:
        total = torch.zeros(())
        for degrees, factor in views:
            answer = model.network(warped(part, degrees, factor)).softmax(1)
            total = total + warped(answer, -degrees, 1 / factor)
        result.append(total[..., top : top + rows, left : left + columns] / len(views))
    return torch.cat(result).numpy()


def warped(images: Tensor, degrees: float, factor: float) -> Tensor:
    """Images (B, C, H, W), turned and scaled about their middle."""
    if (degrees, factor) == AS_IT_IS:
        return images
    rows, columns = images.shape[2:]
    cosine = math.cos(math.radians(degrees)) / factor
    sine = math.sin(math.radians(degrees)) / factor
    matrix = torch.tensor(
        [[cosine, -sine * rows / columns, 0.0], [sine * columns / rows, cosine, 0.0]]
    )
    grid = affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def connected(values: np.ndarray) -> np.ndarray:
    """Class indices from probabilities; the largest structure of all classes stays."""
    return largest_component(values.argmax(1).astype(np.uint8))


def mean_dice(classes: np.ndarray, reference: np.ndarray) -> float:
    """The mean over the classes that either of the two has."""
    scores = []
    for index in range(1, int(max(classes.max(), reference.max())) + 1):
        a, b = classes == index, reference == index
        if total := int(a.sum()) + int(b.sum()):
            scores.append(2 * int((a & b).sum()) / total)
    return fmean(scores)


if __name__ == "__main__":
    main()
