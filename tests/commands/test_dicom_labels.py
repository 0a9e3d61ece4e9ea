"""Label maps in DICOM through the command line: read by every command, and written by predict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_examples import (
    PLANTED,
    assert_nobody,
    phantom,
    uid,
    write_like,
    write_seg,
    write_series,
)
from pydicom import dcmread

from poscon.store.store import Store

Cli = Callable[..., tuple[int, str, str]]
FRACTIONS = "note: 1 label map(s) have fractions (case002): a voxel belongs to a segment if"


@pytest.fixture(scope="module")
def series(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms as DICOM series, without label maps."""
    folder = tmp_path_factory.mktemp("dicom")
    for number in range(2):
        image, _ = phantom(scans, number)
        write_like(
            folder / f"scan{number}",
            np.asanyarray(image.dataobj),
            image.affine,
            name=f"phantom{number}",
            Modality="MR",
            PatientID=f"{PLANTED['PatientID']}-{number}",
            FrameOfReferenceUID=uid("space", number),
        )
    return folder


def label_of(scans: Path, number: int) -> np.ndarray:
    """The label map of a phantom, (slices, rows, columns)."""
    return np.asanyarray(phantom(scans, number)[1].dataobj).transpose(2, 1, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def labelled(series: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a SEG each. One has fractions, all 0 or 1."""
    folder = tmp_path_factory.mktemp("labelled") / "scans"
    shutil.copytree(series, folder)
    for number in range(2):
        labels = label_of(scans, number)
        numbers = range(1, int(labels.max()) + 1)
        planes, kind = labels, "BINARY"
        if number == 1:
            planes, kind = np.stack([labels == n for n in numbers], axis=-1) * 1.0, "FRACTIONAL"
        write_seg(
            *(folder / f"seg{number}.dcm", sorted((folder / f"scan{number}").iterdir())),
            *(planes, [f"structure {n}" for n in numbers], kind),
        )
    return folder


@pytest.fixture(scope="module")
def with_nifti(series: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with label maps in NIfTI."""
    folder = tmp_path_factory.mktemp("with_nifti") / "scans"
    shutil.copytree(series, folder)
    for number in range(2):
        nib.save(phantom(scans, number)[1], folder / f"scan{number}_seg.nii.gz")
    return folder


def same_labels(one: Store, other: Store) -> bool:
    for ours, theirs in zip(one.cases, other.cases, strict=True):
        np.testing.assert_array_equal(one.label(ours), other.label(theirs))
    return True


def test_a_store_with_seg_is_that_with_nifti(
    poscon: Cli, labelled: Path, with_nifti: Path, tmp_path: Path
) -> None:
    how = ("--spacing", "6")
    code, out, err = poscon("prepare", labelled, tmp_path / "seg", *how)
    assert code == 0, err
    assert out.count(FRACTIONS) == 1
    assert poscon("prepare", with_nifti, tmp_path / "nifti", *how)[0] == 0
    ours, theirs = Store(tmp_path / "seg"), Store(tmp_path / "nifti")
    assert same_labels(ours, theirs)
    assert ours.class_names == tuple(f"structure {n + 1}" for n in range(len(ours.class_names)))
    assert ours.cases[0].source_label == "case001_seg.dcm"
    assert_nobody(tmp_path)
    assert not any(planted in out + err for planted in PLANTED.values())


def test_labels_are_added_to_a_store(
    poscon: Cli, series: Path, labelled: Path, with_nifti: Path, tmp_path: Path
) -> None:
    how = ("--spacing", "6")
    assert poscon("prepare", series, tmp_path / "store", *how)[0] == 0
    assert poscon("prepare", with_nifti, tmp_path / "nifti", *how)[0] == 0
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for number in range(2):
        shutil.copy(labelled / f"seg{number}.dcm", drawn / f"case00{number + 1}.dcm")
    code, _, err = poscon("label", tmp_path / "store", drawn)
    assert code == 0, err
    assert err.count(FRACTIONS) == 1
    assert same_labels(Store(tmp_path / "store"), Store(tmp_path / "nifti"))
    assert_nobody(tmp_path / "store")

    shutil.copy(drawn / "case001.dcm", drawn / "case002.dcm")
    code, _, err = poscon("label", tmp_path / "store", drawn)
    assert code == 2
    assert err.startswith(f"error: {drawn}/case002.dcm: ")
    (drawn / "case002.dcm").unlink()
    code, _, err = poscon("label", tmp_path / "store", drawn, "--ignore-label", "9")
    assert code == 2
    assert "--ignore-label has no effect on SEG and RTSTRUCT" in err


def test_what_a_seg_has_drawn_is_in_the_map_to_fill_in(
    poscon: Cli, labelled: Path, scans: Path, tmp_path: Path
) -> None:
    image, label = phantom(scans, 0)
    (tmp_path / "scans").mkdir()
    nib.save(image, tmp_path / "scans" / "p0.nii.gz")
    (tmp_path / "drawn").mkdir()
    shutil.copy(labelled / "seg0.dcm", tmp_path / "drawn" / "p0.dcm")
    (tmp_path / "slices.csv").write_text("case,slice\np0,6\n")
    store, table = tmp_path / "store", tmp_path / "slices.csv"
    assert poscon("prepare", tmp_path / "scans", store, "--spacing", "6")[0] == 0
    code, _, err = poscon("label", store, tmp_path / "drawn", "--labelled-slices", table)
    assert code == 0, err
    how = ("--budget", "2", "--source", tmp_path / "scans")
    code, _, err = poscon("suggest", store, tmp_path / "next", *how)
    assert code == 0, err
    found = np.asanyarray(nib.load(tmp_path / "next" / "labels" / "p0.nii.gz").dataobj)
    truth = np.asanyarray(label.dataobj)
    assert truth[:, :, 6].any()
    np.testing.assert_array_equal(found[:, :, 6], truth[:, :, 6])
    assert (found != 255).all(axis=(0, 1)).sum() == 3  # that one and the two suggested ones


@pytest.fixture(scope="module")
def predicted(
    series: Path, finetuned: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Predictions as NIfTI and as SEG."""
    from poscon.commands.predict import predict

    folder = tmp_path_factory.mktemp("predicted")
    predict(finetuned, series, folder / "nifti")
    predict(finetuned, series, folder / "seg", to="seg")
    return folder / "nifti", folder / "seg"


def test_predict_writes_seg(series: Path, predicted: tuple[Path, Path], finetuned: Path) -> None:
    nifti, seg = predicted
    assert sorted(path.name for path in seg.iterdir()) == [
        *("case001.dcm", "case002.dcm", "labels.json", "predictions.json"),
    ]
    classes = json.loads((seg / "labels.json").read_text())["classes"]
    for number, case in enumerate(("case001", "case002")):
        file = dcmread(seg / f"{case}.dcm")
        images = [dcmread(path) for path in (series / f"scan{number}").iterdir()]
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert file[name].value == images[0][name].value
        assert file.SeriesInstanceUID != images[0].SeriesInstanceUID
        (of_series,) = file.ReferencedSeriesSequence
        assert of_series.SeriesInstanceUID == images[0].SeriesInstanceUID
        named = {item.ReferencedSOPInstanceUID for item in of_series.ReferencedInstanceSequence}
        assert named == {image.SOPInstanceUID for image in images}
        assert [item.SegmentLabel for item in file.SegmentSequence] == [c["name"] for c in classes]
        for item in file.SegmentSequence:
            assert item.SegmentAlgorithmType == "AUTOMATIC"
            assert item.SegmentAlgorithmName == "poscon"
        # the voxels and their place, by a loop over the frames of the file
        image = nib.load(nifti / f"{case}.nii.gz")
        expected = np.asanyarray(image.dataobj).transpose(2, 1, 0)
        found = np.zeros_like(expected)
        slices = np.arange(len(expected))
        places = image.affine[:3, 2:3] * slices + image.affine[:3, 3:]
        for frame, pixels in zip(
            file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True
        ):
            segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient) * [-1, -1, 1]
            away = np.linalg.norm(places.T - place, axis=1)
            assert away.min() < 1e-3
            found[int(away.argmin())][pixels > 0] = classes[segment - 1]["values"][0]
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


def test_seg_that_is_there_is_kept(
    poscon: Cli, series: Path, predicted: tuple[Path, Path], finetuned: Path, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    shutil.copytree(predicted[1], maps)
    code, _, err = poscon("predict", finetuned, series, maps, "--to", "seg")
    assert code == 2
    assert "case001.dcm: exists already" in err
    before = (maps / "case001.dcm").read_bytes()
    (maps / "case002.dcm").unlink()
    assert poscon("predict", finetuned, series, maps, "--to", "seg", "--resume")[0] == 0
    assert (maps / "case001.dcm").read_bytes() == before
    assert (maps / "case002.dcm").is_file()


def test_a_predicted_seg_is_prepared_as_the_same_label_map(
    poscon: Cli, series: Path, predicted: tuple[Path, Path], tmp_path: Path
) -> None:
    nifti, seg = predicted
    for number in range(2):
        for kind in ("with_seg", "with_nifti"):
            shutil.copytree(series / f"scan{number}", tmp_path / kind / f"scan{number}")
        shutil.copy(seg / f"case00{number + 1}.dcm", tmp_path / "with_seg")
        target = tmp_path / "with_nifti" / f"scan{number}_seg.nii.gz"
        shutil.copy(nifti / f"case00{number + 1}.nii.gz", target)
    classes = json.loads((seg / "labels.json").read_text())["classes"]
    labels = ",".join(f"{c['values'][0]}={c['name']}" for c in classes)
    for kind in ("with_seg", "with_nifti"):
        arguments = (tmp_path / kind, tmp_path / "store" / kind, "--labels", labels)
        code, _, err = poscon("prepare", *arguments, "--spacing", "native")
        assert code == 0, err
    stores = [Store(tmp_path / "store" / kind) for kind in ("with_seg", "with_nifti")]
    assert same_labels(*stores)


def test_evaluate_reads_seg_on_both_sides(
    poscon: Cli, predicted: tuple[Path, Path], labelled: Path, with_nifti: Path, tmp_path: Path
) -> None:
    nifti, seg = predicted
    classes = json.loads((seg / "labels.json").read_text())["classes"]
    names = ",".join(f"{c['values'][0]}={c['name']}" for c in classes)
    drawn = tmp_path / "drawn"  # with the names of the predictions
    shutil.copytree(labelled, drawn)
    for path in drawn.glob("*.dcm"):
        file = dcmread(path)
        for item, one in zip(file.SegmentSequence, classes, strict=True):
            item.SegmentLabel = one["name"]
        file.save_as(path)
    results = []
    for number, (ours, theirs, how) in enumerate(
        (
            (nifti, with_nifti, ("--labels", names)),
            (seg, drawn, ()),
            (seg / "case001.dcm", with_nifti / "scan0_seg.nii.gz", ("--labels", names)),
        )
    ):
        out = tmp_path / f"results{number}.json"
        code, _, err = poscon("evaluate", ours, theirs, *how, "--out", out)
        assert code == 0, err
        assert err.count(FRACTIONS) == (theirs == drawn)
        results.append(json.loads(out.read_text())["cases"])
    assert results[0] == results[1]
    first = [row["dice"] for row in results[0] if row["case"] == "case001"]
    assert [row["dice"] for row in results[2]] == first

    (drawn / "seg0.dcm").rename(drawn / "case001.dcm")  # the name of a prediction
    code, out, err = poscon("evaluate", seg, drawn, "--json")
    assert code == 0, err
    assert json.loads(out)["cases"] == results[0]
    code, _, err = poscon("evaluate", seg, seg)
    assert code == 2
    assert "but 2 SEG or RTSTRUCT object(s) of no series that is read; give the folder" in err
    code, _, err = poscon("evaluate", seg / "case001.dcm", drawn / "case001.dcm")
    assert code == 2
    assert "says which grid the series has; give the folder of the series as the references" in err


def test_view_shows_seg_as_the_same_label_map(
    labelled: Path, with_nifti: Path, series: Path, predicted: tuple[Path, Path]
) -> None:
    from poscon.viewer.sources import collect

    nifti, seg = predicted
    ours, theirs = collect(labelled), collect(with_nifti)
    assert ours.classes == ("structure 1", "structure 2", "structure 3", "structure 4")
    for one, other in zip(ours.cases, theirs.cases, strict=True):
        np.testing.assert_array_equal(one.reference().data, other.reference().data)
    ours, theirs = (collect(series, predictions=folder) for folder in (seg, nifti))
    for one, other in zip(ours.cases, theirs.cases, strict=True):
        found = one.prediction().data
        assert found.any()
        np.testing.assert_array_equal(found, other.prediction().data)


def test_to_seg_where_it_cannot_be(
    poscon: Cli, scans: Path, series: Path, finetuned: Path, tmp_path: Path
) -> None:
    image = next((scans / "imagesTr").glob("*.nii.gz"))
    for source in (scans, image):
        code, _, err = poscon("predict", finetuned, source, tmp_path / "maps", "--to", "seg")
        assert code == 2
        assert err.splitlines()[-1] == (
            f"error: {source}: --to seg has no effect on scans that are no DICOM series; leave it "
            "out"
        )
    code, _, err = poscon("predict", finetuned, series, tmp_path / "maps", "--to", "nifti")
    assert code == 2
    assert err == "error: --to nifti: must be seg; leave it out for the format of the scan\n"
    assert not (tmp_path / "maps").exists()

    one = tmp_path / "scans/one"
    shutil.copytree(series / "scan0", one)
    places = {dcmread(path).ImagePositionPatient[2]: path for path in one.iterdir()}
    places[sorted(places)[5]].unlink()
    how = ("--to", "seg", "--on-gap", "interpolate")
    code, _, err = poscon("predict", finetuned, one.parent, tmp_path / "maps", *how)
    assert code == 2
    assert "has interpolated slices, which its images do not have; say --on-gap split" in err
    assert not (tmp_path / "maps").exists()
    how = ("--to", "seg", "--on-gap", "split")
    code, _, err = poscon("predict", finetuned, one.parent, tmp_path / "maps", *how)
    assert code == 0, err
    assert len(list((tmp_path / "maps").glob("*.dcm"))) == 2


def drawn_on(path: Path, value: int) -> np.ndarray:
    """Fill the slices that a label map leaves open; their numbers."""
    image = nib.load(path)
    voxels = np.asanyarray(image.dataobj).copy()
    opened = np.flatnonzero((voxels == 0).all(axis=(0, 1)))
    voxels[2:8, 3:9, opened] = value
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return opened


def test_label_maps_to_fill_in_lie_on_their_series_and_go_back(
    poscon: Cli, series: Path, scans: Path, tmp_path: Path
) -> None:
    """Also if another series has come before them, so that their numbers have changed."""
    store = tmp_path / "store"
    assert poscon("prepare", series, store, "--spacing", "6")[0] == 0
    grown = tmp_path / "grown"
    shutil.copytree(series, grown)
    image, _ = phantom(scans, 1)
    write_like(grown / "another", np.asanyarray(image.dataobj) + 1, image.affine, name="new")
    budget = ("--budget", "4")
    for source, out in ((series, tmp_path / "next"), (grown, tmp_path / "then")):
        code, said, err = poscon("suggest", store, out, *budget, "--source", source)
        assert code == 0, err
        assert "2 label map(s) to fill in" in said
        assert_nobody(out)
        for number in range(2):
            image, _ = phantom(scans, number)
            open_map = nib.load(out / "labels" / f"case{number + 1:03d}.nii.gz")
            assert open_map.shape == image.shape
            np.testing.assert_allclose(open_map.affine, image.affine, atol=1e-4)
            voxels = np.asanyarray(open_map.dataobj)
            assert set(np.unique(voxels)) == {0, 255}
            assert (voxels == 0).all(axis=(0, 1)).sum() == 2

    labels = tmp_path / "next/labels"
    drawn = {path.name[:7]: drawn_on(path, 1) for path in sorted(labels.glob("*.nii.gz"))}
    code, said, err = poscon("label", store, labels, "--labels", "1=organ")
    assert code == 0, err
    assert "4 slice(s) of 2 subject(s) are labelled" in said
    for case in Store(store).cases:
        found = sorted(map(case.file_slice, case.labelled_slice_numbers.tolist()))
        assert found == drawn[case.id].tolist()

    assert poscon("suggest", store, tmp_path / "more", *budget, "--source", grown)[0] == 0
    for name, numbers in drawn.items():  # what is drawn already is there
        voxels = np.asanyarray(nib.load(tmp_path / "more/labels" / f"{name}.nii.gz").dataobj)
        assert (voxels[2:8, 3:9, numbers] == 1).all()
        assert (voxels == 0).all(axis=(0, 1)).sum() == 2


def test_label_maps_to_fill_in_have_what_the_export_has_labelled(
    poscon: Cli, labelled: Path, scans: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labelled.csv"
    table.write_text("case,slice\ncase001,3\ncase002,4\n")
    store, out = tmp_path / "store", tmp_path / "next"
    how = ("--spacing", "native", "--labelled-slices", table)
    assert poscon("prepare", labelled, store, *how)[0] == 0
    grown = tmp_path / "grown"  # with another series on the grid of the first
    shutil.copytree(labelled, grown)
    image, label = phantom(scans, 0)
    write_like(grown / "another", np.asanyarray(image.dataobj) + 1, image.affine, name="new")
    decoy = np.ones(label.shape, np.uint8)
    nib.save(nib.Nifti1Image(decoy, image.affine), grown / "another_seg.nii.gz")
    code, _, err = poscon("suggest", store, out, "--budget", "2", "--source", grown)
    assert code == 0, err
    for number, there in ((0, 3), (1, 4)):
        voxels = np.asanyarray(nib.load(out / f"labels/case{number + 1:03d}.nii.gz").dataobj)
        expected = label_of(scans, number).transpose(2, 1, 0)[..., there]
        np.testing.assert_array_equal(voxels[..., there], expected)


def test_series_that_are_not_there_are_named(poscon: Cli, series: Path, tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    assert poscon("prepare", series, store, "--spacing", "6")[0] == 0
    shutil.copytree(series / "scan0", other / "scan0")
    code, _, err = poscon("suggest", store, tmp_path / "next", "--budget", "4", "--source", other)
    assert code == 2
    assert err == (
        f"error: {other}: no DICOM series has the place and the voxels of case case002 of "
        f"{store}; give the folder that the store was prepared from\n"
    )
    assert not (tmp_path / "next").exists()


def test_a_series_is_found_where_it_lies_and_a_damaged_one_is_named(
    poscon: Cli, series: Path, scans: Path, tmp_path: Path
) -> None:
    """Another series with the very same voxels lies elsewhere."""
    store, grown = tmp_path / "store", tmp_path / "grown"
    assert poscon("prepare", series, store, "--spacing", "6")[0] == 0
    shutil.copytree(series, grown)
    image, _ = phantom(scans, 0)
    moved = image.affine + np.array([[0, 0, 0, 40.0]] * 3 + [[0, 0, 0, 0]])
    write_like(grown / "another", np.asanyarray(image.dataobj), moved, name="sent again")
    budget = ("--budget", "4")
    assert poscon("suggest", store, tmp_path / "next", *budget, "--source", grown)[0] == 0
    found = nib.load(tmp_path / "next/labels/case001.nii.gz")
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)

    shutil.rmtree(grown / "another")
    file = sorted((grown / "scan1").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-200])
    code, _, err = poscon("suggest", store, tmp_path / "then", *budget, "--source", grown)
    assert code == 2
    assert f"({file}: its pixels cannot be read" in err


def test_each_frame_of_a_series_has_a_label_map_of_its_own(poscon: Cli, tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 900, (2, 6, 24, 20)).astype(np.int16)
    for time, volume in enumerate(volumes, start=1):
        how = {"AcquisitionNumber": time, "Modality": "MR"}
        write_series(tmp_path / f"cine/{time}", volume, name="cine", **how)
    store, out = tmp_path / "store", tmp_path / "next"
    assert poscon("prepare", tmp_path / "cine", store)[0] == 0
    budget = ("--budget", "1", "--unit", "subject")
    code, _, err = poscon("suggest", store, out, *budget, "--source", tmp_path / "cine")
    assert code == 0, err
    names = sorted(path.name for path in (out / "labels").glob("*.nii.gz"))
    assert names == ["case001_frame01.nii.gz", "case001_frame02.nii.gz"]
    for name in names:
        assert nib.load(out / "labels" / name).shape == (20, 24, 6)
        drawn_on(out / "labels" / name, 1)
    code, said, err = poscon("label", store, out / "labels", "--labels", "1=heart")
    assert code == 0, err
    assert "12 slice(s) of 1 subject(s) are labelled" in said
