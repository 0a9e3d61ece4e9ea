"""DICOM through the command line; who was scanned is in nothing that is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_examples import PLANTED, assert_nobody, phantom, uid, write_like, write_series

from poscon.errors import PosconError
from poscon.models import load_model
from poscon.store.store import Store
from poscon.viewer.sources import collect

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


@pytest.fixture
def with_a_cine(series: Path, tmp_path: Path) -> Path:
    """The same series, and a time series whose label map is of an unknown frame."""
    folder = tmp_path / "export"
    shutil.copytree(series, folder)
    frames = np.random.default_rng(0).integers(0, 900, (2, 6, 24, 20)).astype(np.int16)
    for time, frame in enumerate(frames, start=1):
        tags = {"AcquisitionNumber": time, "Modality": "MR", "PatientID": "cine"}
        write_series(
            folder / "cine", frame, name=f"cine-{time}", SeriesInstanceUID=uid("c"), **tags
        )
    label = nib.Nifti1Image(np.zeros((20, 24, 6), np.uint8), np.eye(4))
    nib.save(label, folder / "cine_seg.nii.gz")
    return folder


def test_a_series_that_cannot_be_used_is_passed_over_by_every_command(
    poscon: Cli, with_a_cine: Path, finetuned: Path, tmp_path: Path
) -> None:
    store, maps = tmp_path / "store", tmp_path / "maps"
    chosen = ["--series", f"PatientID={PLANTED['PatientID']}*"]
    results = ["--out", tmp_path / "results.json"]
    budget = ["--budget", "1", "--source", with_a_cine]
    for command in (
        ["prepare", with_a_cine, store, "--spacing", "6"],
        ["predict", finetuned, with_a_cine, maps],
        ["evaluate", maps, with_a_cine, *results],
        ["suggest", store, tmp_path / "next", *budget],
    ):
        code, _, err = poscon(*command)
        assert code == 2
        assert "cine_seg.nii.gz: the label map of a series with 2 frames" in err
        code, _, err = poscon(*command, *chosen)
        assert code == 0, err
        if command[0] == "prepare":  # so that `suggest` has something to choose
            assert poscon("label", store, "--remove", "case001")[0] == 0
    measured = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert {row["case"] for row in measured} == {"case001", "case002"}
    with pytest.raises(PosconError, match="cine_seg"):
        collect(with_a_cine)
    assert len(collect(with_a_cine, series=chosen[1]).cases) == 2
    assert len(collect(maps, scans=with_a_cine, series=chosen[1]).cases) == 2


@pytest.mark.parametrize("option", [["--series", "Modality=MR"], ["--on-gap", "split"]])
def test_options_of_dicom_on_references_of_another_kind(
    poscon: Cli, as_nifti: Path, tmp_path: Path, option: list[str]
) -> None:
    """And on a store of such, on a single file, and on a store that is shown."""
    one, maps, store = as_nifti / "case001_seg.nii.gz", tmp_path / "maps", tmp_path / "store"
    maps.mkdir()
    for number in (1, 2):
        shutil.copy(as_nifti / f"case00{number}_seg.nii.gz", maps / f"case00{number}.nii.gz")
    shutil.copytree(maps, tmp_path / "references")
    for references, said in (
        (as_nifti, "has no effect on the layout"),
        (tmp_path / "references", "is a folder of label maps"),
        (one, "is one file, not a data set"),
    ):
        predictions = maps / "case001.nii.gz" if references == one else maps
        code, _, err = poscon("evaluate", predictions, references, *option)
        assert (code, said in err) == (2, True), err
        assert err.startswith(f"error: {option[0]}: has no effect")
    assert poscon("prepare", as_nifti, store, "--spacing", "6")[0] == 0
    with pytest.raises(PosconError, match=f"{option[0]}: no effect"):
        collect(store, **{option[0][2:].replace("-", "_"): option[1]})
    if option[0] == "--series":
        assert poscon("label", store, "--remove", "case001")[0] == 0
        for source, said in ((["--source", as_nifti], "was not prepared from"), ([], "without")):
            how = ["--budget", "1", *source, *option]
            code, _, err = poscon("suggest", store, tmp_path / "next", *how)
            assert (code, said in err) == (2, True), err
            assert not (tmp_path / "next").exists()


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

    parts = ["--on-gap", "split", "--series", f"PatientID={PLANTED['PatientID']}-0"]
    for out, how in (("parts", []), ("seg", ["--to", "seg"])):
        code, _, err = poscon("predict", finetuned, scans, tmp_path / out, *parts, *how)
        assert code == 0, err
    for number in (1, 2):
        shutil.copy(tmp_path / f"seg/case001_{number}.dcm", scans / f"drawn{number}.dcm")
    assert poscon("evaluate", tmp_path / "parts", scans)[0] == 2
    results = tmp_path / "results.json"
    code, _, err = poscon("evaluate", tmp_path / "parts", scans, *parts, "--out", results)
    assert code == 0, err
    measured = json.loads(results.read_text())["cases"]
    assert {row["case"] for row in measured} == {"case001_1", "case001_2"}
    assert {row["dice"] for row in measured} <= {None, 1.0}


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
