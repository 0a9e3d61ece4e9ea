"""What do networks know along a fine-tuning, from a random and from pre-trained starts?

    python experiments/knowledge.py COMPARISON OUT.png --finetuning poscon [--labelled 2]

COMPARISON is the folder of ``poscon compare`` with a plan whose fine-tunings are called
``NAME-STEPS``, such as ``poscon-300``. Of every finished training of the first fold and draw, the
encoder is taken out of the model. It sees the slices of the test subjects. Step 0 is the start
itself. Two things are measured, and printed as a table:

- **position**: how far the slice of another subject with the nearest features lies away
  (:func:`poscon.training.probes.position_retrieval`), as a share of the volume. With ``--organs``
  it is in mm, and the truth comes from the organs of the uncut scans (``positions.py``): for scans
  that were cut with ``--seeds 0``;
- **likeness** to the network from the random start after as many steps: linear CKA of the pooled
  features (Kornblith et al. 2019, Eq. 4), from 0 to 1.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lengths import STYLES
from matplotlib.figure import Figure
from positions import by_organs
from torch import Tensor, nn

from poscon.comparison.compare import Comparison, open_comparison
from poscon.comparison.jobs import Job
from poscon.models import load_encoder, load_model
from poscon.networks.build import build_encoder
from poscon.networks.settings import NetworkSettings
from poscon.seeds import stream
from poscon.store.store import Store
from poscon.training.data import SliceReader
from poscon.training.inference import batch_slices
from poscon.training.probes import frozen, pooled_features, position_retrieval

RANDOM = "random"


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features (N, D) and (N, E) of the same N slices."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def features(encoder: nn.Module, reader: SliceReader) -> Tensor:
    """(N, D) float64, the pooled features of all slices of a reader."""
    with frozen(encoder) as device:
        n_batch = batch_slices(reader.canvas**2, device)
        parts = [
            pooled_features(
                encoder, reader.centred(np.arange(i, min(i + n_batch, len(reader)))).images.float()
            )
            for i in range(0, len(reader), n_batch)
        ]
    return torch.cat(parts).double()


def encoders(
    comparison: Comparison, jobs: list[Job], finetuning: str
) -> Iterator[tuple[str, int, nn.Module]]:
    """Start, steps and encoder of the starts and of what was trained from them."""
    runs = comparison.place.run
    for start, init in dict.fromkeys((job.pretraining, job.init) for job in jobs):
        if init is not None:
            yield start, 0, load_encoder(runs(init), "cpu").encoder
    settings = jobs[0].settings
    torch.manual_seed(stream(settings["seed"], "initialisation"))
    yield RANDOM, 0, build_encoder(NetworkSettings(**settings["network"]))
    for job in jobs:
        steps = int(str(job.finetuning).removeprefix(f"{finetuning}-"))
        yield job.pretraining, steps, load_model(runs(job.name), "cpu").network.encoder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--finetuning", required=True, help="NAME of the fine-tunings")
    parser.add_argument("--labelled", type=int, default=2, help="number of labelled subjects")
    parser.add_argument("--organs", type=Path, help="nnU-Net data set whose scans were cut")
    arguments = parser.parse_args()
    comparison = open_comparison(arguments.comparison)
    jobs = [
        job
        for job in comparison.schedule.finetunings
        if (job.labelled, job.fold, job.draw) == (arguments.labelled, 0, 0)
        and str(job.finetuning).startswith(f"{arguments.finetuning}-")
        and comparison.place.is_done(job)
    ]
    if not jobs:
        parser.error(f"no finished training of {arguments.finetuning}-STEPS")
    store = Store(comparison.place.store)
    test = set(jobs[0].cases["test"])
    cases = [case for case in store.cases if case.id in test]
    reader = SliceReader(store, cases, jobs[0].settings["size"])
    positions = torch.from_numpy(reader.positions)
    if arguments.organs is not None:
        positions = torch.from_numpy(by_organs(arguments.organs, 0, reader.cases))
    digits = 3 if arguments.organs is None else 1
    subjects = [reader.cases[number].subject for number in reader.case_of]
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for start, steps, encoder in encoders(comparison, jobs, arguments.finetuning):
        found[start][steps] = features(encoder, reader)
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    print("| start | steps | position | likeness to the random start |")
    print("|---|---|---|---|")
    chance = 0.0
    for number, start in enumerate(sorted(found, key=lambda name: name != RANDOM)):
        of_start = dict(sorted(found[start].items()))
        errors, likeness = {}, {}
        for steps, of in of_start.items():
            retrieval = position_retrieval(of, positions, subjects)
            assert retrieval is not None
            errors[steps], chance = retrieval.error, retrieval.chance
            if steps in found[RANDOM] and start != RANDOM:
                likeness[steps] = linear_cka(of, found[RANDOM][steps])
            alike = f"{likeness[steps]:.2f}" if steps in likeness else ""
            print(f"| {start} | {steps} | {errors[steps]:.{digits}f} | {alike} |")
        colour, marker = STYLES[number % len(STYLES)]
        style = {"color": colour, "marker": marker, "ms": 5, "lw": 1.5, "label": start}
        left.plot([*errors], [*errors.values()], **style)
        right.plot([*likeness], [*likeness.values()], **style)
    print(f"| chance | | {chance:.{digits}f} | |")
    left.axhline(chance, color="#767676", ls="--", lw=1)
    left.text(0, chance, "chance", va="bottom", color="#555555", fontsize=9)
    unit = "" if arguments.organs is None else ", mm"
    left.set_ylabel(f"error of the position found by features{unit}", fontsize=10)
    right.set_ylabel("likeness to the random start (CKA)", fontsize=10)
    left.set_ylim(0)
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=100)
        ticks = sorted({steps for of in found.values() for steps in of})
        axes.set_xticks(ticks, [f"{steps:,}".replace(",", " ") for steps in ticks])
        axes.minorticks_off()
        axes.set_xlabel("steps of fine-tuning", fontsize=10)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    left.legend(frameon=False, fontsize=9)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
