"""DICOM through the command line; who was scanned is in nothing that is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_examples import PLANTED, assert_nobody, phantom, write_like

from poscon.errors import PosconError
from poscon.models import load_model
from poscon.store.store import Store

Cli = Callable[..., tuple[int, str, str]]
SUBJECTS = 2
HIDDEN = "Planted^Patient"
"""Name of a folder."""


@pytest.fixture(scope="module")
def series(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms as DICOM series with label maps."""
    folder = tmp_path_factory.mktemp("dicom")
    for number in range(SUBJECTS):
        image, label = phantom(scans, number)
        place = folder / HIDDEN / f"scan{number}"
        write_like(
            place,
            np.asanyarray(image.dataobj),
            image.affine,
            name=f"phantom{number}",
            Modality="MR",
            PatientID=f"{PLANTED['PatientID']}-{number}",
        )
        nib.save(label, f"{place}_seg.nii.gz")
    return folder


@pytest.fixture(scope="module")
def as_nifti(series: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scans as NIfTI."""
    folder = tmp_path_factory.mktemp("nifti")
    for number in range(SUBJECTS):
        image, label = phantom(scans, number)
        nib.save(image, folder / f"case{number + 1:03d}.nii.gz")
        nib.save(label, folder / f"case{number + 1:03d}_seg.nii.gz")
    return folder


def test_a_store_of_dicom_is_that_of_the_same_scans_in_nifti(
    poscon: Cli, series: Path, as_nifti: Path, tmp_path: Path
) -> None:
    code, out, err = poscon("prepare", series, tmp_path / "dicom", "--spacing", "6")
    assert code == 0, err
    assert "2 cases of 2 subjects, layout dicom" in out
    assert f"case001: {series}/{HIDDEN}/scan0/phantom0-" in err
    assert (
        poscon("prepare", as_nifti, tmp_path / "nifti", "--spacing", "6", "--modality", "MR")[0]
        == 0
    )
    ours, theirs = Store(tmp_path / "dicom"), Store(tmp_path / "nifti")
    for one, other in zip(ours.cases, theirs.cases, strict=True):
        assert one.id == other.id
        assert one.pixels_sha256 == other.pixels_sha256
        np.testing.assert_array_equal(ours.image(one), theirs.image(other))
        np.testing.assert_array_equal(ours.label(one), theirs.label(other))
    assert [case.subject for case in ours.cases] == ["patient001", "patient002"]


def test_who_was_scanned_is_in_nothing_that_is_written(
    poscon: Cli, series: Path, finetuned: Path, tmp_path: Path
) -> None:
    store, run, maps = tmp_path / "store", tmp_path / "run", tmp_path / "maps"
    small = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32", "-s", "batch=4"]
    said = []
    for arguments in (
        ("prepare", series, store, "--spacing", "6"),
        ("inspect", store, "--out", tmp_path / "sheet.png"),
        ("pretrain", store, run, "-s", "epochs=1", *small),
        ("report", run),
        ("predict", finetuned, series, maps),
        ("predict", finetuned, series, tmp_path / "seg", "--to", "seg"),
        ("evaluate", maps, series, "--out", tmp_path / "results"),
    ):
        code, out, err = poscon(*arguments)
        assert code == 0, err
        said.append((out + err).replace(HIDDEN, ""))  # the user's own name of a folder
    assert "note: a SEG names the patient and the study of its series" in said[5]
    segments = list((tmp_path / "seg").glob("*.dcm"))
    assert segments
    for path in segments:  # an archive files it by its patient
        content = path.read_bytes()
        path.unlink()
        assert PLANTED["PatientID"].encode() in content
        assert PLANTED["InstitutionName"].encode() not in content
    assert len(list((tmp_path / "seg").iterdir())) == 2
    assert_nobody(tmp_path)
    assert not any(planted in text for text in said for planted in PLANTED.values())
    assert len(json.loads((tmp_path / "results.json").read_text())["cases"]) > 0

    labels = nib.load(maps / "case002.nii.gz")
    image = nib.load(f"{series}/{HIDDEN}/scan1_seg.nii.gz")
    assert labels.shape == image.shape
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-4)


def test_an_unfinished_store_names_nobody(
    poscon: Cli, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("poscon.commands.prepare.conclude", killed)
        poscon("prepare", series, tmp_path / "store", "--spacing", "6")
    assert (tmp_path / "store/preparing.json").is_file()
    assert_nobody(tmp_path)
    assert poscon("prepare", series, tmp_path / "store", "--spacing", "6")[0] == 0


def test_names_are_written_where_they_are_asked_for(
    poscon: Cli, series: Path, tmp_path: Path
) -> None:
    how = ["--spacing", "6", "--case-name", "PatientID"]
    assert poscon("prepare", series, tmp_path / "store", *how)[0] == 0
    found = [case.id for case in Store(tmp_path / "store").cases]
    assert found == ["PLANTED-ID-4711-0", "PLANTED-ID-4711-1"]


def test_some_series_of_an_export_are_prepared_predicted_and_evaluated(
    poscon: Cli, series: Path, finetuned: Path, tmp_path: Path
) -> None:
    """Under the numbers that they have among all, so that `evaluate` finds their references."""
    chosen = ["--series", "PatientID=*-1"]
    code, _, err = poscon("prepare", series, tmp_path / "store", "--spacing", "6", *chosen)
    assert code == 0, err
    assert [case.id for case in Store(tmp_path / "store").cases] == ["case002"]
    assert "file(s) of series that --series does not choose" in err
    assert_nobody(tmp_path / "store")
    code, _, err = poscon("predict", finetuned, series, tmp_path / "maps", *chosen)
    assert code == 0, err
    assert [path.name for path in (tmp_path / "maps").glob("*.nii.gz")] == ["case002.nii.gz"]
    assert poscon("evaluate", tmp_path / "maps", series, "--out", tmp_path / "results")[0] == 0
    measured = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert {row["case"] for row in measured} == {"case002"}

    none, one = ["--series", "Modality=PT"], series / HIDDEN / "scan0_seg.nii.gz"
    code, _, err = poscon("predict", finetuned, series, tmp_path / "none", *none)
    assert code == 2
    assert err.endswith("fits; change the pattern (Modality is 'MR' in 2 series)\n")
    assert not (tmp_path / "none").exists()
    code, _, err = poscon("predict", finetuned, one, tmp_path / "one", *chosen)
    assert code == 2
    assert "--series: no effect on a single scan" in err


def test_a_gap_in_one_of_two_series(
    poscon: Cli, series: Path, finetuned: Path, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(series, scans)
    first = scans / HIDDEN / "scan0"
    places = {}
    for file in first.iterdir():
        places[float(pydicom.dcmread(file).ImagePositionPatient[2])] = file
    files = [places[key] for key in sorted(places)]
    files[len(files) // 2].unlink()
    (scans / HIDDEN / "scan0_seg.nii.gz").unlink()

    code, _, err = poscon("prepare", scans, tmp_path / "store")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {first}/phantom0-")
    assert "1 missing between" in err
    assert not (tmp_path / "store").exists()

    code, _, err = poscon("predict", finetuned, scans, tmp_path / "maps")
    assert code == 2
    assert [path.name for path in (tmp_path / "maps").glob("*.nii.gz")] == ["case002.nii.gz"]
    code, _, err = poscon("predict", finetuned, scans, tmp_path / "all", "--on-gap", "interpolate")
    assert code == 0, err
    assert "interpolated slices (case001)" in err
    assert nib.load(tmp_path / "all/case001.nii.gz").shape[2] == len(files)


def test_an_option_of_dicom_on_other_scans(poscon: Cli, scans: Path, tmp_path: Path) -> None:
    for option in (
        ["--on-gap", "split"],
        ["--case-name", "PatientID"],
        ["--series", "Modality=CT"],
    ):
        code, _, err = poscon("prepare", scans, tmp_path / "store", *option)
        assert code == 2
        assert err == f"error: {option[0]}: has no effect on the layout 'msd'; leave it out\n"
    assert not (tmp_path / "store").exists()


def test_a_folder_with_one_series_in_python(series: Path, finetuned: Path) -> None:
    model = load_model(finetuned)
    image = nib.load(f"{series}/{HIDDEN}/scan0_seg.nii.gz")
    labels = model.segment(series / HIDDEN / "scan0")
    assert labels.shape == image.shape
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-4)
    with pytest.raises(PosconError, match="holds 2 DICOM series; give the folder of one"):
        model.segment(series)


def test_a_label_map_of_another_series_is_not_kept(
    poscon: Cli, series: Path, finetuned: Path, tmp_path: Path
) -> None:
    scans, first = tmp_path / "scans", tmp_path / "scans/a"
    shutil.copytree(series / HIDDEN / "scan1", scans / "b")
    assert poscon("predict", finetuned, scans, tmp_path / "maps")[0] == 0
    assert poscon("predict", finetuned, scans, tmp_path / "maps", "--resume")[0] == 0
    shutil.copytree(series / HIDDEN / "scan0", first)  # is case001 now
    code, _, err = poscon("predict", finetuned, scans, tmp_path / "maps", "--resume")
    assert code == 2
    assert "maps/case001.nii.gz: is the label map of another series" in err
