"""What it costs a fine-tuning step that some pixels or slices are not labelled.

    python benchmarks/sparse_labels.py [--size 128] [--batch 8] [--steps 5] [--rounds 7]

Synthetic slices, the default network and method of ``poscon finetune``, float32, one thread. In
every round the same step is done with all pixels labelled, with a tenth of them, and with one slice
of the batch, in turn. The figures are processor time: medians over the rounds, and of the ratio to
all pixels within a round. The loss alone, forward and backward, is compared in the same way with
MONAI's ``DiceCELoss``, which knows no unlabelled pixels.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from optimisers import Form
from step_cost import CLASSES

from poscon.finetuning.supervised import supervised_loss
from poscon.volumes.case import IGNORE

WAYS = ("all pixels", "a tenth of the pixels", "one slice")


def sparse(labels: torch.Tensor, way: str) -> torch.Tensor:
    """Labels of which only a part is left."""
    kept = torch.ones_like(labels, dtype=torch.bool)
    if way == WAYS[1]:
        kept = torch.rand(labels.shape) < 0.1
    if way == WAYS[2]:
        kept[1:] = False
    return labels.masked_fill(~kept, IGNORE)


def in_turn(ways: dict[str, Callable[[int], None]], steps: int, rounds: int, what: str) -> None:
    """Do every way in turn, and print a table with the first as the base."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            for step in range(steps):
                way(round_ * steps + step)
            if round_:  # the first warms up
                times[name].append((time.process_time() - started) / steps * 1e3)
    print(f"| {what} | ms | ratio |\n|---|---|---|")
    base = next(iter(times.values()))
    for name, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(spent, base, strict=True))
        print(f"| {name} | {statistics.median(spent):.1f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, rounds = arguments.steps, arguments.rounds
    form = Form("fused", arguments.size, arguments.batch, 3 * steps * (rounds + 1))
    form.bfloat16, whole = False, form.batch.labels
    assert whole is not None
    parts = {way: sparse(whole, way) for way in WAYS}

    def step_with(way: str) -> Callable[[int], None]:
        def step(seed: int) -> None:
            form.batch.labels = parts[way]
            form.step(seed)

        return step

    in_turn({way: step_with(way) for way in WAYS}, steps, rounds, "step")
    shape = (arguments.batch, arguments.size, arguments.size)
    logits = torch.randn(shape[0], CLASSES, *shape[1:], requires_grad=True)
    labels = torch.randint(CLASSES, shape)
    tenth = sparse(labels, WAYS[1])
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    print()
    in_turn(
        {
            "MONAI's DiceCELoss": lambda _: monai(logits, labels[:, None]).backward(),
            "ours, all pixels": lambda _: supervised_loss(logits, labels).backward(),
            "ours, a tenth": lambda _: supervised_loss(logits, tenth).backward(),
        },
        steps,
        rounds,
        "loss",
    )


if __name__ == "__main__":
    main()
