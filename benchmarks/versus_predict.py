"""``poscon predict`` against the bare network, and against MONAI and TorchIO.

    pip install -e '.[benchmarks]'
    python benchmarks/versus_predict.py [FOLDER] [--run RUN] [--threads 2] [--device cpu]

FOLDER holds 3-D NIfTI scans in a layout that poscon knows; without one, phantoms are drawn. RUN is
a fine-tuning run on axial slices of one spacing; without one, the network has random weights and
--width channels at full resolution, and takes as long. Same files, weights and threads for all,
from the scan's file to the label map's; in turn, medians over the rounds, from a warm page cache.
The bare network runs over the very batches that poscon gives it, held in memory. Then where
poscon's time goes. docs/explanation/speed.md says what each does.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from versus import with_monai, with_torchio
from versus.measuring import (
    cores,
    interleaved,
    positive,
    print_table,
    rate,
    ratio,
    run,
    usable_cores,
    versions,
)

from poscon.commands.predict import predict
from poscon.errors import PosconError
from poscon.models import Model
from poscon.networks.build import build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import save_weights
from poscon.store.preparation import case_geometry
from poscon.training.inference import choose_device
from poscon.training.run import MODEL
from poscon.volumes.case import Case
from poscon.volumes.layouts import read_dataset
from poscon.volumes.phantom import write_phantom
from poscon.volumes.scan import NIFTI, read_header, read_scan, scan_suffix

OURS, BARE = "poscon", "bare network"
PARTS = {
    "loading the model": ["models.read_weights"],
    "reading headers and scans": ["commands.predict.read_header", "models.read_scan"],
    "checking voxels": ["store.preparation.check_voxels"],
    "hashing voxels": ["scan_preparation.pixels_sha256"],
    "normalising": ["store.preparation.normalise"],
    "resampling": ["store.preparation.resample_images"],
    "network": ["networks.parts.SegmentationNetwork.forward"],
    "resampling back": ["training.inference.resample_probabilities"],
    "largest structure": ["models.largest_component"],
    "writing": ["commands.predict.write_labels"],
}
"""Functions that ``predict`` calls, none of them within another. Reading and writing go on beside
the network, so that they may take more than the whole together; a GPU's work counts where it is
waited for."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--width", type=positive, help="of the random network")
    parser.add_argument("--volumes", type=positive, default=20, help="the first so many of FOLDER")
    parser.add_argument("--threads", type=positive, default=usable_cores())
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--rounds", type=positive, default=3)
    arguments = parser.parse_args(argv)
    device = choose_device(arguments.device)
    if arguments.run and arguments.width:
        parser.error("--width: no effect with --run")
    with cores(arguments.threads), tempfile.TemporaryDirectory() as folder:
        scratch, source = Path(folder), arguments.folder
        if source is None:
            source = scratch / "phantoms"
            write_phantom(source, subjects=arguments.volumes)
        cases = read_dataset(source).cases[: arguments.volumes]
        run = arguments.run or random_run(
            scratch / "run", cases, arguments.width or NetworkSettings().width
        )
        model = Model(run, device)
        check(cases, model)
        print(f"{versions('torch', 'monai', 'torchio')}; {device}, {arguments.threads} thread(s)")
        print(f"{len(cases)} volumes, network of width {model.network.settings.width}\n")
        ours = Predict(run, source, scratch / OURS, cases, device)
        ways: dict[str, Callable[[], object]] = {
            OURS: ours,
            BARE: partial(run_network, model.network, resident_batches(model, cases)),
        }
        for name, library in (("MONAI", with_monai), ("TorchIO", with_torchio)):
            (scratch / name).mkdir()
            segment = library.Segment(model, scratch / name)
            ways[name] = partial(segment_all, segment, cases)
        rates = interleaved(
            {name: partial(rate, way, 0) for name, way in ways.items()}, arguments.rounds
        )
        rows = [
            [
                name,
                f"{len(cases) * statistics.median(values):.2f}",
                f"{ratio(rates[OURS], values):.3f}",
                "" if name == BARE else f"{agreement(ours.target, scratch / name, cases):.4f}",
            ]
            for name, values in rates.items()
        ]
    print_table(["by", "volumes/s", "poscon / it", "voxels labelled as by poscon"], rows)
    print_table(["part of poscon's time", "share"], ours.shares())


def random_run(run: Path, cases: Sequence[Case], width: int) -> Path:
    """A fine-tuning run's model with random weights, for the cases' median spacing in plane."""
    in_plane = [mm for case in cases for mm in sorted(read_header(case.image).spacing)[:2]]
    settings = NetworkSettings(width=width)
    classes = [{"name": f"class {value}", "values": [value]} for value in (1, 2, 3)]
    about = {
        "network": settings.model_dump(),
        "size": 128,
        "classes": classes,
        "preparation": {
            "plane": "axial",
            "spacing": round(float(np.median(in_plane)), 4),
            "source_spacing": None,
            "modality": "MR",
        },
        "training": {
            "planes": {"axial": 1},
            "acquired": ["axial"],
            "spacing_from": ["header"],
            "coarsest_mm": [20.0, 5.0],
            "finest_mm": 0.1,
            "channels": [
                {
                    "name": "image",
                    "modalities": ["MR"],
                    "looks_like": ["MR"],
                    "low": [-5.0, 0.0],
                    "high": [0.0, 10.0],
                    "mean": [0.0, 1e4],
                    "std": 1e4,
                }
            ],
        },
    }
    torch.manual_seed(0)
    save_weights(run / MODEL, build_network(settings, len(classes) + 1), about)
    return run


def check(cases: Sequence[Case], model: Model) -> None:
    """Refuse what only poscon handles here.

    Raises:
        PosconError: another format, a 4-D file, another plane, no common spacing or modality.
    """
    preparation = model.preparation
    if None in (preparation.spacing, *model.modalities) or preparation.source_spacing is not None:
        raise PosconError(
            "--run: a model of one modality and one spacing, from the headers, is needed"
        )
    for case in cases:
        plane = case_geometry(read_header(case.image), preparation).plane
        nifti = isinstance(case.image, Path) and scan_suffix(case.image) in NIFTI
        if not nifti or case.frame_index is not None or case.channels or plane != "axial":
            raise PosconError(f"{case.image}: 3-D NIfTI files sliced axially are needed")


class Predict:
    """``poscon predict`` on some cases of a folder; keeps how long its parts took."""

    def __init__(
        self, run: Path, source: Path, target: Path, cases: Sequence[Case], device: str
    ) -> None:
        self.run = run
        self.source = source
        self.target = target
        self.device = device
        self.names = target.with_suffix(".txt")
        self.names.write_text("".join(f"{case.id}\n" for case in cases))
        self.rounds: list[dict[str, float]] = []

    def __call__(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        spent: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            for part, functions in PARTS.items():
                for name in functions:
                    timed = self._timed(resolve_name(f"poscon.{name}"), spent, part)
                    stack.enter_context(patch(f"poscon.{name}", timed))
            started = time.perf_counter()
            predict(self.run, self.source, self.target, cases=self.names, device=self.device)
            whole = time.perf_counter() - started
        self.rounds.append({part: seconds / whole for part, seconds in spent.items()})

    @staticmethod
    def _timed(function: Callable, spent: dict[str, float], part: str) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[part] += time.perf_counter() - started

        return timed

    def shares(self) -> list[list[str]]:
        """Each part that took time, and its share of the whole, the median over the rounds."""
        return [
            [part, f"{statistics.median(shares[part] for shares in self.rounds):.1%}"]
            for part in self.rounds[0]
        ]


@torch.no_grad()
def resident_batches(model: Model, cases: Sequence[Case]) -> list[Tensor]:
    """What poscon gives the network for the cases, batch by batch."""
    batches: list[Tensor] = []
    handle = model.network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    for case in cases:
        model.predict_classes(model.read(case))
    handle.remove()
    return batches


@torch.no_grad()
def run_network(network: SegmentationNetwork, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        network(batch)
    if batches[0].is_cuda:
        torch.cuda.synchronize()


def segment_all(segment: Callable[[Path], None], cases: Sequence[Case]) -> None:
    for case in cases:
        assert isinstance(case.image, Path), "see check"
        segment(case.image)


def agreement(ours: Path, theirs: Path, cases: Sequence[Case]) -> float:
    """Share of voxels with the same label, mean over the cases."""
    shares = []
    for case in cases:
        assert isinstance(case.image, Path), "see check"
        files = ours / f"{case.id}{scan_suffix(case.image)}", theirs / case.image.name
        first, second = (read_scan(file).data for file in files)
        shares.append((first == second).mean())
    return float(np.mean(shares))


if __name__ == "__main__":
    run(main)
