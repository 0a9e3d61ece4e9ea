"""What is listed for each kind of place, and that volumes come out as they lie."""

import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from poscon.commands.evaluate import evaluate
from poscon.errors import PosconError
from poscon.pictures.contact_sheet import COLOURS
from poscon.store.manifest import AxisRecord
from poscon.store.store import Store
from poscon.viewer.resources import resources
from poscon.viewer.sources import TEST, collect
from poscon.viewer.volume import canonical, class_file, image_file
from poscon.volumes.case import IGNORE

NIIVUE = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""SHA-256 of ``dist/niivue.umd.js`` in the npm package @niivue/niivue 0.69.0."""


@pytest.fixture(scope="module")
def predictions(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of two cases: the references, moved by one and by three voxels."""
    folder = tmp_path_factory.mktemp("view") / "predictions"
    folder.mkdir()
    for number, shift in ((1, 1), (3, 3)):
        image = nib.load(scans / "labelsTr" / f"phantom_00{number}.nii.gz")
        moved = np.roll(np.asanyarray(image.dataobj), shift, axis=0)
        nib.save(nib.Nifti1Image(moved, image.affine), folder / f"phantom_00{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def results(predictions: Path, scans: Path) -> Path:
    out = predictions.parent / "results"
    evaluate(predictions, scans, out)
    return out


def listed(**arguments: Any) -> list[tuple[str, str, bool, bool]]:
    """Group, id, and whether there are reference and prediction, in the order of the list."""
    found = collect(**arguments)
    return [(c.group, c.id, c.has_reference, c.has_prediction) for c in found.cases]


def voxels(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_bytes(content)
    return np.asanyarray(image.dataobj), image.affine


# ------------------------------------------------------------------------------ what is listed


def test_one_scan_with_its_label_maps(scans: Path, predictions: Path) -> None:
    scan, name = scans / "imagesTr" / "phantom_001.nii.gz", "phantom_001.nii.gz"
    assert listed(source=scan) == [("", "phantom_001", False, False)]
    for labels in (scans / "labelsTr" / name, scans / "labelsTr", scans):
        for predicted in (predictions / name, predictions):
            arguments = {"source": scan, "labels": labels, "predictions": predicted}
            assert listed(**arguments) == [("", "phantom_001", True, True)]


def test_a_folder_of_scans_has_the_references_of_its_layout(scans: Path, predictions: Path) -> None:
    found = listed(source=scans, predictions=predictions)
    assert [(name, reference) for _, name, reference, _ in found] == [
        (f"phantom_00{number}", True) for number in range(5)
    ]
    assert [name for *_, name, _, predicted in found if predicted] == ["phantom_001", "phantom_003"]
    assert collect(scans).classes == ("lower", "middle", "upper", "tube")


def test_a_table_of_paths_is_a_data_set(scans: Path, tmp_path: Path) -> None:
    image, label = (scans / f / "phantom_000.nii.gz" for f in ("imagesTr", "labelsTr"))
    (tmp_path / "data.csv").write_text(f"image,label\n{image},{label}\n")
    assert listed(source=tmp_path / "data.csv") == [("", "phantom_000", True, False)]


def test_of_predictions_only_their_cases_are_listed(scans: Path, predictions: Path) -> None:
    found = listed(source=predictions, scans=scans)
    assert found == [("", f"phantom_00{number}", True, True) for number in (1, 3)]


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_the_worst_cases_come_first(
    scans: Path, predictions: Path, results: Path, suffix: str
) -> None:
    found = collect(predictions, scans=scans, results=results.with_suffix(suffix))
    assert [case.id for case in found.cases] == ["phantom_003", "phantom_001"]
    content = json.loads(resources(found)["cases.json"].content())
    measured = json.loads(results.with_suffix(".json").read_text())["cases"]
    for entry in content["cases"]:
        rows = [row for row in measured if row["case"] == entry["id"] and row["dice"] is not None]
        assert entry["dice"] == pytest.approx({row["class"]: row["dice"] for row in rows})
        assert entry["mean_dice"] == pytest.approx(np.mean([row["dice"] for row in rows]))


def test_cases_without_a_result_come_last(scans: Path, predictions: Path, results: Path) -> None:
    found = collect(scans, predictions=predictions, results=results.with_suffix(".csv"))
    names = [case.id for case in found.cases]
    assert names == [f"phantom_00{number}" for number in (3, 1, 0, 2, 4)]


def test_a_store(store: Path, predictions: Path) -> None:
    found = listed(source=store, predictions=predictions)
    assert {group for group, *_ in found} == {"labelled"}
    assert [name for _, name, _, predicted in found if predicted] == ["phantom_001", "phantom_003"]
    assert len(found) == len(Store(store).cases)


def test_a_run_has_its_cases_by_role(finetuned: Path, pretrained: Path, predictions: Path) -> None:
    of_run = json.loads((finetuned / "cases.json").read_text())
    labelled = sorted(entry["id"] for entry in of_run if entry["by"] == "finetune")
    assert [(group, name) for group, name, *_ in listed(source=finetuned)] == [
        ("labelled", name) for name in labelled
    ]
    found = listed(source=finetuned, predictions=predictions)
    unseen = [name for name in ("phantom_001", "phantom_003") if name not in labelled]
    assert [(group, name) for group, name, *_ in found] == [
        *((TEST, name) for name in unseen),
        *(("labelled", name) for name in labelled),
    ]
    assert {group for group, *_ in listed(source=pretrained)} == {"pretrain"}


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "nowhere"}, "nowhere: no such file or folder"),
        ({"source": "{scans}", "scans": "{scans}"}, "no label map in this folder"),
        ({"source": "{predictions}", "scans": "{scans}", "predictions": "{predictions}"},
         "--predictions: no effect"),
        ({"source": "{store}", "labels": "{scans}"}, "--labels: no effect, {store} is a store"),
        ({"source": "{finetuned}", "scans": "{scans}"}, "--scans: no effect, {finetuned} is a run"),
        ({"source": "{finetuned}", "layout": "plain"}, "--layout: no effect"),
        ({"source": "{scan}", "layout": "plain"}, "--layout: no effect, {scan} is one scan"),
        ({"source": "{results}"}, "give the predictions, their --scans, and the table as"),
        ({"source": "{scan}", "results": "{results}"}, "names no case of the 1 that are shown"),
        ({"source": "{scan}", "results": "{scan}"}, "cannot be read as results"),
        ({"source": "{scan}", "labels": "{predictions}"}, "has the name of a case"),
        ({"source": "{scans}", "predictions": "{label}"}, "one label map for 5 scans"),
        ({"source": "{label}"}, "label map"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line(
    scans: Path, store: Path, finetuned: Path, predictions: Path, results: Path,
    arguments: dict[str, str], words: str,
) -> None:  # fmt: skip
    places = {
        "scans": scans,
        "scan": scans / "imagesTr" / "phantom_000.nii.gz",
        "label": scans / "labelsTr" / "phantom_000.nii.gz",
        "store": store,
        "finetuned": finetuned,
        "predictions": predictions,
        "results": results.with_suffix(".csv"),
    }
    given: dict[str, Any] = {name: text.format(**places) for name, text in arguments.items()}
    for name in ("labels", "predictions", "scans", "results"):
        if name in given:
            given[name] = Path(given[name])
    with pytest.raises(PosconError, match=re.escape(words.format(**places))) as caught:
        collect(**given).cases[0].image(0)
    assert "\n" not in str(caught.value)


def test_predictions_of_poscon_need_their_scans(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text('{"model_sha256": "", "cases": {}, "failed": {}}')
    with pytest.raises(PosconError, match="say with --scans where their scans are"):
        collect(tmp_path)


def test_a_label_map_on_another_grid_is_refused(scans: Path, tmp_path: Path) -> None:
    image = nib.load(scans / "labelsTr" / "phantom_000.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 40
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), moved), tmp_path / "p.nii.gz")
    scan = scans / "imagesTr" / "phantom_000.nii.gz"
    (case,) = collect(scan, predictions=tmp_path / "p.nii.gz").cases
    with pytest.raises(PosconError, match="lies up to 40 mm from its image"):
        case.prediction()


# ------------------------------------------------------------------------------ what is served


def test_a_volume_in_any_axis_order_comes_out_the_same() -> None:
    data = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    turned = np.flip(data, 0).transpose(2, 0, 1)  # slices, then leftwards, then forwards
    of_turned = np.zeros((4, 4))
    of_turned[2, 0], of_turned[0, 1], of_turned[1, 2] = 4, -2, 3
    of_turned[:, 3] = [2, 0, 0, 1]
    for volume in (canonical(data, affine), canonical(turned, of_turned)):
        values, placed = voxels(image_file(volume))
        np.testing.assert_array_equal(values, data)
        np.testing.assert_allclose(placed, affine)


def test_every_format_is_served_as_the_same_nifti(scans: Path, tmp_path: Path) -> None:
    file = scans / "imagesTr" / "phantom_000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / "phantom_000.nrrd"))
    contents = []
    for source in (file, tmp_path / "phantom_000.nrrd"):
        (case,) = collect(source).cases
        contents.append(voxels(image_file(case.image(0))))
    np.testing.assert_array_equal(contents[0][0], contents[1][0])
    np.testing.assert_allclose(contents[0][1], contents[1][1], atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantom_000.nrrd"]


def test_classes_are_matched_by_name(scans: Path, predictions: Path, tmp_path: Path) -> None:
    """A prediction whose values have other meanings gets the reference's colours."""
    image = nib.load(scans / "labelsTr" / "phantom_000.nii.gz")
    values = np.asanyarray(image.dataobj)
    nib.save(nib.Nifti1Image((values == 2).astype(np.uint8) * 9, image.affine),
             tmp_path / "phantom_000.nii.gz")  # fmt: skip
    (tmp_path / "labels.json").write_text('{"classes": [{"name": "middle", "values": [9]}]}')
    (case,) = collect(tmp_path, scans=scans).cases
    reference, prediction = (
        voxels(class_file(v))[0] for v in (case.reference(), case.prediction())
    )
    np.testing.assert_array_equal(prediction, np.where(reference == 2, 2, 0))


def test_values_that_nobody_explains_are_their_own_classes(scans: Path, tmp_path: Path) -> None:
    image = nib.load(scans / "labelsTr" / "phantom_000.nii.gz")
    values = np.asanyarray(image.dataobj).astype(np.int16)
    nib.save(nib.Nifti1Image(values * 7, image.affine), tmp_path / "label.nii.gz")
    scan = scans / "imagesTr" / "phantom_000.nii.gz"
    found = collect(scan, labels=tmp_path / "label.nii.gz")
    assert found.classes is None
    served = voxels(class_file(found.cases[0].reference()))[0]
    assert np.unique(served).tolist() == [7 * int(v) for v in np.unique(values)]
    nib.save(nib.Nifti1Image(values * 100, image.affine), tmp_path / "label.nii.gz")
    with pytest.raises(PosconError, match=r"put a labels\.json beside it"):
        collect(scan, labels=tmp_path / "label.nii.gz").cases[0].reference()
    (tmp_path / "labels.json").write_text('{"classes": [], "ignore": 400}')
    nib.save(nib.Nifti1Image(np.where(values == 4, 400, values), image.affine),
             tmp_path / "label.nii.gz")  # fmt: skip
    (case,) = collect(scan, labels=tmp_path / "label.nii.gz").cases
    served = voxels(class_file(case.reference()))[0]
    assert (served == IGNORE).sum() == (values == 4).sum()


def test_slices_and_positions_of_a_scan_are_those_of_a_store(scans: Path, store: Path) -> None:
    of_scan = {case.id: case for case in collect(scans).cases}
    for case in collect(store).cases:
        assert case.place() == of_scan[case.id].place()
        place = case.place()
        assert (place.plane, place.axis) == ("axial", 2)
        n = case.image(0).data.shape[place.axis]
        assert place.relative == pytest.approx([(i + 1) / n for i in range(n)])


def test_a_stored_case_lies_as_its_scan_does(scans: Path, store: Path) -> None:
    """Shrunk in plane, both have the same structures at the same places."""
    of_scan = {case.id: case for case in collect(scans).cases}
    for case in collect(store, predictions=scans / "labelsTr").cases:
        whole = of_scan[case.id].reference()
        for volume in (case.reference(), case.prediction()):
            assert volume.data.shape[2] == whole.data.shape[2]
            for index in (1, 2, 3):
                centres = [
                    np.argwhere(v.data == index).mean(0) / np.array(v.data.shape)
                    for v in (whole, volume)
                ]
                np.testing.assert_allclose(*centres, atol=0.03)


def test_learned_positions_are_shown(store: Path) -> None:
    (case, *_) = collect(store).cases
    axis = AxisRecord(first=90.0, last=-10.0, against=True, clearness=1.0, determined=True)
    record = msgspec.structs.replace(case.record, axis=axis)  # type: ignore[attr-defined]
    learned = replace(case, record=record).place().learned  # type: ignore[type-var]
    assert learned is not None
    assert (learned[0], learned[-1]) == (90.0, -10.0)
    assert np.ptp(np.diff(learned)) == pytest.approx(0, abs=1e-9)


@pytest.fixture
def table(scans: Path, predictions: Path) -> dict[str, Any]:
    return resources(collect(scans, predictions=predictions))


def test_the_table_has_every_name_that_the_list_has(table: dict[str, Any]) -> None:
    content = json.loads(table["cases.json"].content())
    assert content["colours"] == list(COLOURS)
    names = {name for case in content["cases"] for name in case["files"].values() if name}
    names |= {channel["file"] for case in content["cases"] for channel in case["channels"]}
    assert names == {name for name in table if name.startswith("case-")}
    page = table[""].content().decode()
    for name in re.findall(r'(?:src|href)="([^":]+)"', page):
        assert name in table
    assert not re.search(r"https?://", page + table["view.js"].content().decode().replace(
        "http://www.w3.org/2000/svg", ""))  # fmt: skip


def test_niivue_is_the_published_file() -> None:
    folder = Path(__file__).parents[2] / "src" / "poscon" / "viewer" / "page"
    packed = folder / "niivue.umd.js.gz"
    assert hashlib.sha256(gzip.decompress(packed.read_bytes())).hexdigest() == NIIVUE
    assert "Copyright (c) 2021, Niivue" in (folder / "niivue.LICENSE.txt").read_text()
