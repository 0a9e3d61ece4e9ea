"""ACDC."""

from pathlib import Path

import pytest
from layout_examples import ids, labelled, put, put_acdc

from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset


@pytest.mark.parametrize("home", ["", "training", "database/training"])
def test_acdc(tmp_path: Path, home: str) -> None:
    put_acdc(tmp_path / home)
    dataset = read_dataset(tmp_path)
    found = [(case.id, case.subject, case.frame) for case in dataset.cases]
    assert found == [
        ("patient001_frame01", "patient001", "ED"),
        ("patient001_frame12", "patient001", "ES"),
        ("patient002_frame02", "patient002", "ED"),
        ("patient002_frame09", "patient002", "ES"),
    ]
    assert labelled(dataset) == ids(dataset)
    assert dataset.labels is not None
    assert dict(zip(dataset.labels.names, dataset.labels.values, strict=True)) == {
        "RV": 1,
        "MYO": 2,
        "LV": 3,
    }
    assert dataset.preparation == {"spacing": 1.25, "plane": "auto"}
    assert {case.modality for case in dataset.cases} == {"MR"}


def test_acdc_training_and_testing(tmp_path: Path) -> None:
    put_acdc(tmp_path / "training")
    put(tmp_path, "testing/patient101/patient101_frame01.nii.gz")
    dataset = read_dataset(tmp_path)
    assert len(labelled(dataset)) == 4
    assert dataset.cases[-1].id == "patient101_frame01"
    assert dataset.cases[-1].frame == "frame01"  # there is no Info.cfg
    put(tmp_path, "testing/patient001/patient001_frame01.nii.gz")
    with pytest.raises(PosconError, match="two files for the case 'patient001_frame01'"):
        read_dataset(tmp_path)


def test_acdc_cine_adds_the_frames_that_have_no_file_of_their_own(tmp_path: Path) -> None:
    put_acdc(tmp_path)
    put(tmp_path, "patient002/patient002_4d.nii.gz", frames=10)
    dataset = read_dataset(tmp_path)
    cine = [case for case in dataset.cases if case.frame_index is not None]
    assert [case.id for case in cine] == [
        f"patient002_4d_frame{number:02d}" for number in (1, 3, 4, 5, 6, 7, 8, 10)
    ]
    assert [case.frame_index for case in cine] == [0, 2, 3, 4, 5, 6, 7, 9]
    assert [case.frame for case in cine][:2] == ["frame01", "frame03"]
    assert {case.subject for case in cine} == {"patient002"}
    assert all(case.label is None for case in cine)
    assert len(labelled(dataset)) == 4


def test_acdc_phase_counts_from_end_diastole(tmp_path: Path) -> None:
    put_acdc(tmp_path)
    assert [case.phase for case in read_dataset(tmp_path).cases] == [None] * 4
    put(tmp_path, "patient002/patient002_4d.nii.gz", frames=10)  # frame 2 is ED
    dataset = read_dataset(tmp_path)
    phases = {case.id.removeprefix("patient"): case.phase for case in dataset.cases}
    assert phases["001_frame01"] is None  # nothing says how many frames there are
    assert phases["002_frame02"] == 0
    assert phases["002_frame09"] == pytest.approx(0.7)
    assert phases["002_4d_frame01"] == pytest.approx(0.9)
    assert phases["002_4d_frame03"] == pytest.approx(0.1)
    info = tmp_path / "patient001" / "Info.cfg"
    info.write_text(info.read_text() + "\nNbFrame: 30\n")
    cases = {case.id: case.phase for case in read_dataset(tmp_path).cases}
    assert cases["patient001_frame01"] == 0
    assert cases["patient001_frame12"] == pytest.approx(11 / 30)
    info.write_text("ED: 1\nES: 12\nNbFrame: 5\n")  # frame 12 of 5 there cannot be
    cases = {case.id: case.phase for case in read_dataset(tmp_path).cases}
    assert cases["patient001_frame12"] is None


@pytest.mark.parametrize("stated", ["ED: 0\n", "ED: 11\n", "ES: 4\n", "ED: two\n", ""])
def test_acdc_without_an_end_diastole_among_its_frames_has_no_phase(
    stated: str, tmp_path: Path
) -> None:
    put(tmp_path, "patient001/patient001_4d.nii.gz", frames=10)
    (tmp_path / "patient001" / "Info.cfg").write_text(stated)
    assert {case.phase for case in read_dataset(tmp_path).cases} == {None}


def test_acdc_cine_alone(tmp_path: Path) -> None:
    put(tmp_path, "patient001/patient001_4d.nii.gz", frames=2)
    (tmp_path / "patient001" / "Info.cfg").write_text("ED: 1\nES: 2\n")
    dataset = read_dataset(tmp_path)
    assert [case.frame for case in dataset.cases] == ["ED", "ES"]
