"""The page "I have scans and one afternoon": its commands, in its order, on the phantom."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.cli import main
from poscon.store.store import Store

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "one-afternoon.md"
QUICK = {
    "prepare": ["--spacing", "6", "--processes", "1"],
    "finetune": ["--iterations", "2", "-s", "network.width=4", "-s", "size=32"],
}
"""What makes the commands quick; --minutes is left out."""


def commands() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    poscon ")]


def draw(labels_of: str, truth: Path) -> None:
    """Fill in, or correct, the label maps of a suggestion as a person would."""
    for path in sorted(Path(labels_of).glob("*.nii.gz")):
        image = nib.load(path)
        labels = np.array(image.dataobj)
        organs = np.asanyarray(nib.load(truth / path.name).dataobj) > 0
        labels[labels != 255] = organs[labels != 255]
        nib.save(nib.Nifti1Image(labels, None, image.header), path)


def test_the_commands_lead_from_scans_to_label_maps(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scans / "imagesTr", "scans/images")
    done = []
    for command, *arguments in commands():
        if command == "view":  # it serves until Ctrl-C; tests/commands/test_view.py has it
            continue
        if command == "label":
            draw(arguments[1], scans / "labelsTr")
        if "--minutes" in arguments:
            at = arguments.index("--minutes")
            del arguments[at : at + 2]
        monkeypatch.setattr(sys, "argv", ["poscon", command, *arguments, *QUICK.get(command, [])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, (command, arguments)
        done.append(command)
    assert done == [
        *("prepare", "inspect", "suggest", "label", "inspect", "finetune", "predict"),
        *("suggest", "label", "finetune"),
    ]
    labelled = Store("scans.store").cases
    assert sum(len(case.labelled_slice_numbers) for case in labelled) == 40
    for run, slices in (("first", 20), ("second", 40)):
        roles = json.loads(Path(f"runs/{run}/cases.json").read_text())
        assert sum(len(entry["labelled_slices"]) for entry in roles) == slices
    names = {path.name for path in Path("scans/images").iterdir()}
    assert {path.name for path in Path("predictions").glob("*.nii.gz")} == names
