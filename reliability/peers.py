"""The same file given to poscon and to nnU-Net or MONAI: what does each of them do with it?

    python reliability/peers.py --seed 0
    python reliability/peers.py --nnunet-python NNUNET/bin/python --seed 0

Each trial is a failure that users of nnU-Net or MONAI have reported in public. It makes a small
data set in nnU-Net's layout that has this one flaw, and gives it to each tool with a command of its
own documentation. MONAI is installed with poscon. nnU-Net has a Python of its own, whose path is an
option; without it only poscon and MONAI are tried. poscon must refuse the file in one line that
names it, or read it rightly. What the others do is printed, and is not judged.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from outcomes import Promise, finish

from poscon.volumes.phantom import PHANTOM_LABELS, draw_phantom

CASES = 3
FLAWED = 1
"""Number of the case with the flaw. It is not the first, by which nnU-Net chooses its reader."""
DATASET = "Dataset001_Phantom"
TELLING = re.compile(
    r"^error:|^Warning: |^ITK ERROR|NaN pixel|^(\w|\.)*(UnpicklingError|KeyError):"
)
"""Lines that say what a tool thinks of its input."""
SHEAR = 0.002
SHIFT_MM = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a tool did.

    Attributes:
        tool: its name and version.
        code: exit code.
        said: the line that says most.
        seen: what else came of it.
    """

    tool: str
    code: int
    said: str
    seen: str = ""


@dataclass(frozen=True)
class Trial:
    """A flaw.

    Attributes:
        words: what it is.
        reported: where users have reported what it does.
        spoil: function that puts it into a data set.
        right: whether poscon is right to read the file; else it must refuse it.
    """

    words: str
    reported: str
    spoil: Callable[[Path], None]
    right: bool = False


class Payload:
    """An object whose unpickling runs code: it makes an empty file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def write_dataset(folder: Path, seed: int) -> None:
    """Write drawn scans in nnU-Net's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(CASES):
        drawn = draw_phantom(seed, number, "mr")
        nib.save(nib.Nifti1Image(drawn.image, drawn.affine), image_of(folder, number))
        nib.save(nib.Nifti1Image(drawn.labels, drawn.affine), label_of(folder, number))
    labels = {c.name: c.values[0] for c in PHANTOM_LABELS.classes}
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **labels},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=1))


def image_of(folder: Path, number: int) -> Path:
    return folder / "imagesTr" / f"case_{number}_0000.nii.gz"


def label_of(folder: Path, number: int) -> Path:
    return folder / "labelsTr" / f"case_{number}.nii.gz"


def shear(folder: Path) -> None:
    """The axes of a scan and its label map are not quite at right angles; no qform is stated."""
    for path in (image_of(folder, FLAWED), label_of(folder, FLAWED)):
        image = nib.load(path)
        affine = image.affine.copy()
        affine[:3, 0] += SHEAR * affine[:3, 1]
        sheared = nib.Nifti1Image(np.asarray(image.dataobj), affine)
        sheared.set_sform(affine, 1)
        sheared.set_qform(None, 0)
        nib.save(sheared, path)


def put_nan(folder: Path) -> None:
    """One voxel of a scan is not a number."""
    path = image_of(folder, FLAWED)
    image = nib.load(path)
    data = np.asarray(image.dataobj).astype(np.float32)
    data[tuple(n // 2 for n in data.shape)] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)


def move_label(folder: Path) -> None:
    """By its header a label map lies elsewhere than its scan; both have as many voxels."""
    path = label_of(folder, FLAWED)
    image = nib.load(path)
    affine = image.affine.copy()
    affine[2, 3] += SHIFT_MM
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


NNUNET = "https://github.com/MIC-DKFZ/nnUNet"
ITK = "https://github.com/InsightSoftwareConsortium/ITK"
"""The library by which nnU-Net reads NIfTI files."""
TRIALS = {
    "axes": Trial("axes that are not quite at right angles", f"{NNUNET}/issues/2265", shear, True),
    "nan": Trial("a voxel that is not a number", f"{ITK}/pull/6683", put_nan),
    "elsewhere": Trial("a label map that lies elsewhere", f"{NNUNET}/issues/2526", move_label),
}
CODE = Trial("code in a file of weights", f"{NNUNET}/pull/2683", lambda _: None)


def run(command: list[object], tool: str, **variables: str) -> tuple[Outcome, str]:
    """Run a command; its outcome, and all that it printed."""
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **variables},
    )
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    telling = [line for line in lines if TELLING.search(line)] or lines[-1:] or [""]
    return Outcome(tool, result.returncode, telling[0]), result.stdout


def poscon(*arguments: object) -> Outcome:
    return run([sys.executable, "-m", "poscon", *arguments], "poscon")[0]


class NnUnet:
    """nnU-Net in a Python of its own.

    Args:
        python: that Python.
        place: folder for what it writes.
    """

    def __init__(self, python: Path, place: Path) -> None:
        self.python = python
        asked = "from importlib.metadata import version; print(version('nnunetv2'))"
        _, told = run([python, "-c", asked], "")
        self.tool = f"nnU-Net {told.strip()}"
        self.folders = {
            name: str(place / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")
        } | {"nnUNet_results": str(place / "nnUNet_results")}

    def command(self, name: str, *arguments: object) -> Outcome:
        """Run one of its commands."""
        return run([self.python.parent / name, *arguments], self.tool, **self.folders)[0]

    def preprocess(self) -> Outcome:
        """Check and preprocess the data set as its documentation says, with one process."""
        how = ("--verify_dataset_integrity", "-npfp", 1, "-np", 1, "-c", "2d")
        return self.command("nnUNetv2_plan_and_preprocess", "-d", 1, *how)

    def not_finite(self) -> str:
        """How many voxels of what it has preprocessed are not finite, in words."""
        code = (
            "import sys, blosc2, numpy as np; from pathlib import Path\n"
            "found = sorted(Path(sys.argv[1]).rglob('case_?.b2nd'))\n"
            "bad = sum(int((~np.isfinite(np.asarray(blosc2.open(str(f))[:]))).sum()) "
            "for f in found)\n"
            "print(f'{bad} voxels of {len(found)} preprocessed cases are not finite')"
        )
        return run([self.python, "-c", code, self.folders["nnUNet_preprocessed"]], "")[0].said


def monai_pair(folder: Path) -> Outcome:
    """MONAI's documented way to load a scan with its label map."""
    code = (
        "import sys; from monai.transforms import *\n"
        "keys = ['image', 'label']\n"
        "crop = RandCropByPosNegLabeld(keys, 'label', (32, 32, 8), num_samples=1)\n"
        "first = [LoadImaged(keys), EnsureChannelFirstd(keys), NormalizeIntensityd('image')]\n"
        "made = Compose([*first, crop])(dict(zip(keys, sys.argv[1:], strict=True)))[0]\n"
        "bad = int((~made['image'].isfinite()).sum())\n"
        "apart = float((made['image'].affine - made['label'].affine).abs().max())\n"
        "print(f'a patch: {bad} voxels are not finite; the affines differ by {apart:g} mm')"
    )
    files = (image_of(folder, FLAWED), label_of(folder, FLAWED))
    return run([sys.executable, "-c", code, *files], f"MONAI {_version('monai')}")[0]


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def try_dataset(trial: Trial, place: Path, seed: int, nnunet: Path | None) -> list[Outcome]:
    """Give a flawed data set to each tool; poscon's outcome is the first."""
    folder = place / "nnUNet_raw" / DATASET
    write_dataset(folder, seed)
    trial.spoil(folder)
    found = [poscon("prepare", folder, place / "store", "--processes", 1)]
    if nnunet is not None:
        peer = NnUnet(nnunet, place)
        one = peer.preprocess()
        found.append(replace(one, seen=peer.not_finite() if one.code == 0 else ""))
    found.append(monai_pair(folder))
    return found


def try_code(place: Path, seed: int, nnunet: Path | None) -> list[Outcome]:
    """Give a file of weights that has code in it to each tool; poscon's outcome is the first."""
    folder = place / "nnUNet_raw" / DATASET
    write_dataset(folder, seed)
    mark, model = place / "the-code-ran", place / "model"
    (model / "fold_0").mkdir(parents=True)
    weights = model / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": Payload(mark)}, weights)
    (model / "dataset.json").write_text((folder / "dataset.json").read_text())
    (model / "plans.json").write_text(json.dumps({"configurations": {}}))

    def judged(one: Outcome) -> Outcome:
        ran = mark.exists()
        mark.unlink(missing_ok=True)
        return replace(one, seen="the code ran" if ran else "the code did not run")

    prepared = poscon("prepare", folder, place / "store", "--processes", 1)
    assert prepared.code == 0, prepared.said
    started = poscon("finetune", place / "store", place / "run", "--init", weights)
    found = [judged(started)]
    if nnunet is not None:
        scans = ("-i", folder / "imagesTr", "-o", place / "out", "-m", model)
        few = ("-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
        peer = NnUnet(nnunet, place)
        found.append(judged(peer.command("nnUNetv2_predict_from_modelfolder", *scans, *few)))
    code = (
        "import sys, torch; from monai.handlers import CheckpointLoader\n"
        "from types import SimpleNamespace as S\n"
        "loader = CheckpointLoader(sys.argv[1], {'network_weights': torch.nn.Linear(1, 1)})\n"
        "loader(S(state=S(max_epochs=1)))"
    )
    loaded, _ = run([sys.executable, "-c", code, weights], f"MONAI {_version('monai')}")
    return [*found, judged(loaded)]


def held(trial: Trial, ours: Outcome) -> bool:
    """Whether poscon read what it should read, or refused the rest in one line."""
    if trial.right:
        return ours.code == 0
    return ours.code == 2 and ours.said.startswith("error: ") and ours.seen != "the code ran"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnunet-python", type=Path, help="Python that has nnU-Net 2")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.nnunet_python is None:
        print("nnU-Net is not tried: say with --nnunet-python which Python has it")
    promise = Promise("poscon refuses the file in one line, or reads it rightly")
    for trial in (CODE, *TRIALS.values()):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if trial is CODE:
                found = try_code(place, chosen.seed, chosen.nnunet_python)
            else:
                found = try_dataset(trial, place, chosen.seed, chosen.nnunet_python)
        print(f"\n{trial.words} (reported: {trial.reported})")
        for one in found:
            said = one.said.replace(folder, "...")
            parts = filter(None, [f"exit code {one.code}", one.seen, said])
            print(f"  {one.tool}: {'; '.join(parts)}", flush=True)
        promise.note(held(trial, found[0]), f"{trial.words}: {found[0]}")
    print()
    finish([promise])


if __name__ == "__main__":
    main()
