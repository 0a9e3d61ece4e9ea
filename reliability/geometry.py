"""Whatever the geometry of a scan is, its label map lies exactly on it, or it is refused.

Random scans (see random_scans.py) go through ``poscon prepare``, ``predict`` and ``evaluate``, some
hundred in each call. The network of a tiny fine-tuned model is replaced by one that says "class 1"
where a pixel is brighter than the middle of all values. So each voxel's place is checked, and not
the header alone.

    python reliability/geometry.py --cases 10000 --seed 0

With ``--trained`` the network is the trained one, and each command is a process of its own. Then
the grids of the label maps are checked, and not their voxels.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from outcomes import Promise, finish
from random_scans import RandomScan, draw_scan, text_affine
from torch import Tensor, nn

from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.errors import PartlyDone
from poscon.models import Model
from poscon.store.store import Store
from poscon.volumes.phantom import write_phantom

PER_CALL = 100
"""Scans in a folder, on which each command is called once."""
MEASURED = 5
"""``poscon evaluate`` is called for one folder of so many; it takes longer than all the rest."""
RESAMPLED_MM = 1.4
"""Pixel size of every other folder. The others have their pixels as scanned, and are prepared."""
TOLERANCE = 1e-4
"""Voxel sides: two places this close are the same. NIfTI has 24 bits for a number."""
GRID_FIELDS = (
    "dim",
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)
"""The fields of a NIfTI header that say where voxels lie."""


@dataclass
class Promises:
    """What is tried."""

    accepted: Promise
    refused: Promise
    grid: Promise
    voxels: Promise
    resampled: Promise
    stored: Promise
    evaluated: Promise

    def all(self) -> list[Promise]:
        return [promise for promise in vars(self).values() if promise.tried]


def promises() -> Promises:
    """All promises, none tried yet."""
    return Promises(
        Promise("a scan with a usable header is segmented"),
        Promise("a scan with an unusable header is refused in one line that names it"),
        Promise("the label map has exactly the grid of the scan"),
        Promise("without resampling, each voxel comes back in its place"),
        Promise("with resampling, the block comes back within one voxel"),
        Promise("prepare stores voxels, labels and affine at their place"),
        Promise("evaluate accepts the label map, and its Dice is 1 where it should be"),
    )


class Threshold(nn.Module):
    """A network that says class 1 where a pixel is above the middle of the smallest and largest.

    Args:
        like: a segmentation network, whose inputs it takes.
        n_classes: number of classes with the background.
    """

    def __init__(self, like: Any, n_classes: int) -> None:
        super().__init__()
        self.encoder = like.encoder
        self.n_classes = n_classes

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[:, images.shape[1] // 2]  # the slice between its neighbours
        middle = (pixels.min() + pixels.max()) / 2
        scores = torch.full((len(pixels), self.n_classes, *pixels.shape[1:]), -1000.0)
        scores[:, 0] = 0
        scores[:, 1] = torch.where(pixels > middle, 1000.0, -1000.0)
        return scores


def train(folder: Path) -> Path:
    """A fine-tuned model of two steps, on a phantom. Its label value of class 1 is 1."""
    write_phantom(folder / "phantom", subjects=2)
    prepare(folder / "phantom", folder / "store", spacing="native", processes=1)
    finetune(
        folder / "store",
        folder / "run",
        method="supervised",
        iterations=2,
        settings=["size=32", "batch=4", "network.width=4", "network.levels=2"],
    )
    return folder / "run"


@contextlib.contextmanager
def thresholding(spacing: float | None) -> Iterator[None]:
    """A context in which ``poscon predict`` uses :class:`Threshold` at a pixel size in mm."""

    class Thresholding(Model):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.network = Threshold(self.network, len(self.classes) + 1)  # type: ignore[assignment]
            self.preparation = self.preparation.model_copy(update={"spacing": spacing})
            self.keep_largest_component = False

    with mock.patch("poscon.commands.predict.Model", Thresholding):
        yield


def write_scans(folder: Path, seed: int, numbers: range) -> dict[str, RandomScan]:
    """Write scans to ``images``, label maps to ``labels`` (of 3-D ones) and to ``references``."""
    scans = {}
    for part in ("images", "labels", "references"):
        (folder / part).mkdir(parents=True)
    for number in numbers:
        scan = draw_scan(seed, number)
        name = f"case{number:06d}"
        scans[name] = scan
        places = ["references", *(["labels"] if scan.inside.ndim == 3 else [])]
        for place, files in [("images", scan.files), *((p, scan.reference) for p in places)]:
            for suffix, content in files.items():
                content = content.replace(b"= NAME", f"= {name}.raw".encode())
                (folder / place / f"{name}{suffix}").write_bytes(content)
    return scans


def same_grid(scan: RandomScan, path: Path, label: Path) -> str | None:
    """None if a label map has the grid of its scan by the words of both files, else what differs.

    Args:
        scan: the scan.
        path: its file.
        label: the label map.
    """
    if scan.suffix.startswith(".nii"):
        ours, theirs = (_nifti_header(file) for file in (label, path))
        if ours.endianness != theirs.endianness:
            return "byte order"
        for field in GRID_FIELDS:
            if ours[field].tobytes() != theirs[field].tobytes():
                return f"{field} {ours[field]} instead of {theirs[field]}"
        return None
    content = label.read_bytes()
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    corners[:, :3] *= np.array(scan.inside.shape[:3]) - 1
    apart = corners @ (text_affine(content) - scan.affine).T
    if np.linalg.norm(apart, axis=1).max() > TOLERANCE * _smallest_side(scan.affine):
        return f"affine {text_affine(content).tolist()} instead of {scan.affine.tolist()}"
    return None


def note_outcome(
    folder: Path, name: str, scan: RandomScan, why: str | None, what: str, tried: Promises
) -> None:
    """Note whether a scan was segmented or refused as it should be, and the grid of its label map.

    Args:
        folder: with ``images`` and ``predictions``.
        name: name of the case.
        scan: the scan.
        why: why ``poscon predict`` refused it; None: it did not.
        what: the scan in words.
        tried: where to note it.
    """
    path = folder / "images" / f"{name}{scan.suffix}"
    label = folder / "predictions" / f"{name}{scan.suffix}"
    if why is not None and "choose another --spacing" in why:  # nothing is left of so few pixels
        return
    if scan.fate == "refused" or (why is not None and scan.fate == "either"):
        named = why is not None and str(path) in why and "\n" not in why
        tried.refused.note(named and not label.exists(), f"{what}: {why}")
    elif scan.fate == "segmented":
        tried.accepted.note(why is None and label.exists(), f"{what}: {why}")
    if label.exists():
        differs = same_grid(scan, path, label)
        tried.grid.note(differs is None, f"{what}: {differs}")


def _smallest_side(affine: np.ndarray) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).min())


def _nifti_header(path: Path) -> Any:
    with nib.openers.ImageOpener(path) as file:
        length = int.from_bytes(file.read(4), sys.byteorder)
        file.seek(0)
        kind = nib.Nifti1Header if length in (348, 1543569408) else nib.Nifti2Header
        return kind.from_fileobj(file, check=False)


def label_voxels(path: Path) -> np.ndarray:
    """The voxels of a label map, by the format's library, without axes of length 1 at the end."""
    if path.name.endswith((".nii", ".nii.gz")):
        header = _nifti_header(path)
        with nib.openers.ImageOpener(path) as file:
            return np.asarray(header.raw_data_from_fileobj(file))
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))).T


def smallest_block_mm(scan: RandomScan) -> float:
    """The smallest side of a scan's block in mm, along the axes that have more than one voxel."""
    sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
    sides = [n // 2 * mm for n, mm in zip(scan.inside.shape, sizes, strict=False) if n > 1]
    return float(min(sides))


def off_by(found: np.ndarray, expected: np.ndarray, allowed: np.ndarray) -> bool:
    """Whether the centre of a block lies further from where it should than allowed, in voxels."""
    volumes = [(found, expected)]
    if expected.ndim == 4:
        volumes = list(zip(np.moveaxis(found, -1, 0), np.moveaxis(expected, -1, 0), strict=True))
    for ours, theirs in volumes:
        if not ours.any():
            return True
        centres = [np.argwhere(volume).mean(axis=0) for volume in (ours, theirs)]
        if (abs(centres[0] - centres[1]) > allowed).any():
            return True
    return False


def check_stored(store: Store, case: str, scan: RandomScan) -> str | None:
    """None if a stored case has its voxels, labels and affine at their place, else what is wrong.

    Args:
        store: pixels as scanned.
        case: its name.
        scan: the scan, or a frame of it, as ``scan.inside`` says.
    """
    record = next(c for c in store.cases if c.id == case)
    if record.affine is None or not np.allclose(record.affine, scan.affine, atol=_near(scan)):
        return f"affine {record.affine} instead of {scan.affine.tolist()}"
    sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
    geometry = record.geometry
    order = list(geometry.permutation)
    if not np.allclose(geometry.spacing, sizes[order], rtol=1e-3):
        return f"spacing {geometry.spacing} instead of {sizes[order]}"
    anatomical = {"sagittal": [0, 2, 1], "coronal": [1, 2, 0], "axial": [2, 1, 0]}[geometry.plane]
    for stack_axis, (axis, flip) in enumerate(zip(order, geometry.flips, strict=True)):
        along = scan.affine[anatomical[stack_axis], axis] / sizes[axis] * (-1 if flip else 1)
        if along <= 0 and not scan.sheared:
            return f"axis {axis} runs against the direction of stack axis {stack_axis}"
    flipped = tuple(axis for axis, flip in enumerate(geometry.flips) if flip)
    inside = np.flip(scan.inside.transpose(order), flipped)
    image = np.asarray(store.image(record))[:, 0].astype(np.float32)
    if image[inside].min() <= image[~inside].max():  # the middle moves where a CT is clipped
        return "voxels of the image"
    if record.labelled and (np.asarray(store.label(record)) != inside).any():
        return "voxels of the label map"
    return None


def _near(scan: RandomScan) -> float:
    """How close float32 and a quaternion near a half turn come to a place, in mm."""
    return 2e-3 * float(np.abs(scan.affine[:3, :3]).max()) + 1e-6 * float(abs(scan.affine).max())


def try_scans(folder: Path, run: Path, seed: int, numbers: range, tried: Promises) -> None:
    """Take some scans through prepare, predict and evaluate, and note what came of each.

    Args:
        folder: where to write.
        run: a fine-tuned model.
        seed: seed of the scans.
        numbers: their numbers. Every other folder is resampled.
        tried: where to note it.
    """
    spacing = RESAMPLED_MM if numbers.start // PER_CALL % 2 else None
    scans = write_scans(folder, seed, numbers)
    failed: dict[str, str] = {}
    with thresholding(spacing):
        try:
            predict(run, folder / "images", folder / "predictions", device="cpu")
        except PartlyDone as error:
            failed = error.failed
    for name, scan in scans.items():
        what = f"seed {seed} {name}: {scan.what}"
        label = folder / "predictions" / f"{name}{scan.suffix}"
        note_outcome(folder, name, scan, failed.get(name), what, tried)
        if not label.exists():
            continue
        found = label_voxels(label).reshape(scan.inside.shape)
        if spacing is None:
            tried.voxels.note(np.array_equal(found != 0, scan.inside), what)
        elif smallest_block_mm(scan) >= spacing:  # less than a pixel may vanish
            sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
            allowed = np.maximum(1.0, spacing / sizes)
            tried.resampled.note(not off_by(found, scan.inside, allowed), what)
    if spacing is None:
        source = usable_scans(folder, failed)
        store = prepare(source, folder / "store", plane="auto", spacing="native", processes=1)
        note_stored(store, scans, failed, seed, tried)
    if numbers.start // PER_CALL % MEASURED == 0:
        _try_evaluate(folder, scans, failed, seed, spacing, tried)
    shutil.rmtree(folder)


def usable_scans(folder: Path, failed: dict[str, str]) -> Path:
    """Move the scans that were not refused, and their label maps, into a folder of their own."""
    source = folder / "scans"
    for place in ("images", "labels"):
        (source / place).mkdir(parents=True)
        for file in (folder / place).iterdir():
            if file.name.split(".")[0] not in failed:
                file.rename(source / place / file.name)
    return source


def note_stored(
    store: Store, scans: dict[str, RandomScan], failed: dict[str, str], seed: int, tried: Promises
) -> None:
    """Look at what a store has of the scans that were not refused."""
    for name, scan in scans.items():
        if name in failed:
            continue
        frames = [(name, scan)]
        if scan.inside.ndim == 4:
            frames = [
                (f"{name}_frame{number:02d}", _frame(scan, number - 1))
                for number in range(1, scan.inside.shape[3] + 1)
            ]
        for case, frame in frames:
            wrong = check_stored(store, case, frame)
            tried.stored.note(wrong is None, f"seed {seed} {case}: {scan.what}: {wrong}")


def _frame(scan: RandomScan, number: int) -> RandomScan:
    return RandomScan(**{**vars(scan), "inside": scan.inside[..., number]})


def _try_evaluate(
    folder: Path,
    scans: dict[str, RandomScan],
    failed: dict[str, str],
    seed: int,
    spacing: float | None,
    tried: Promises,
) -> None:
    """Compare the label maps with references that have the scans' own headers."""
    refused: dict[str, str] = {}
    try:
        evaluation = evaluate(folder / "predictions", folder / "references")
    except PartlyDone as error:
        evaluation, refused = error.result, error.failed
    dice: dict[str, float] = {}
    for row in evaluation.rows:
        if row.class_name == evaluation.classes[0]:
            case = row.case.split("_frame")[0]
            dice[case] = min(row.dice, dice.get(case, 1.0))
    for name, scan in scans.items():
        if name in failed:
            continue
        what = f"seed {seed} {name}: {scan.what}: {refused.get(name)} {dice.get(name)}"
        exact = spacing is not None or dice.get(name) == 1.0
        tried.evaluated.note(name not in refused and name in dice and exact, what)


def try_trained(folder: Path, run: Path, seed: int, cases: int, tried: Promises) -> None:
    """The commands as a user gives them, with the trained network; the grids are checked."""
    scans = write_scans(folder, seed, range(cases))
    predicted = _command("predict", run, folder / "images", folder / "predictions")
    record = json.loads((folder / "predictions" / "predictions.json").read_text())
    failed = record["failed"]
    assert predicted.returncode == (2 if failed else 0), predicted.stderr
    measured = _command("evaluate", folder / "predictions", folder / "references")
    for name, scan in scans.items():
        what = f"seed {seed} {name}: {scan.what}"
        note_outcome(folder, name, scan, failed.get(name), what, tried)
        if name not in failed:
            tried.evaluated.note(measured.returncode == 0, f"{what}: {measured.stderr[-300:]}")
    source, store = usable_scans(folder, failed), folder / "store"
    prepared = _command("prepare", source, store, "--spacing", "native")
    assert prepared.returncode == 0, prepared.stderr
    note_stored(Store(store), scans, failed, seed, tried)


def _command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "poscon", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def main() -> None:
    """Try, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", action="store_true", help="the trained network, by processes")
    given = parser.parse_args()
    tried = promises()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            run = train(folder)
            if given.trained:
                try_trained(folder / "trained", run, given.seed, given.cases, tried)
            else:
                for start in range(0, given.cases, PER_CALL):
                    numbers = range(start, min(start + PER_CALL, given.cases))
                    try_scans(folder / f"{start}", run, given.seed, numbers, tried)
                    so_far = "; ".join(promise.line() for promise in tried.all())
                    print(f"{numbers.stop:,} cases: {so_far}", file=sys.__stderr__, flush=True)
    finish(tried.all())


if __name__ == "__main__":
    main()
