import csv
import io
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from poscon.commands.evaluate import evaluate
from poscon.commands.prepare import prepare
from poscon.errors import PartlyDone, PosconError
from poscon.evaluation.results import Counted, Unlabelled
from poscon.evaluation.writing import summary_table

SPACING = (1.5, 1.5, 8.0)


def save(path, labels, spacing=SPACING, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(labels, dtype), np.diag([*spacing, 1.0])), path)
    return path


def heart(rv=1, myo=2, lv=3):
    labels = np.zeros((8, 8, 4), int)
    labels[1:3, 1:5, 1:3] = rv
    labels[4:7, 2:6, 1:3] = myo
    labels[5:6, 3:5, 1:3] = lv
    return labels


def name_values(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    classes = [{"name": name, "values": [value]} for name, value in values.items()]
    (folder / "labels.json").write_text(json.dumps({"classes": classes}))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def by_class(evaluation):
    return {row.class_name: row for row in evaluation.rows}


def test_volumes_allow_for_a_tilted_gantry(tmp_path):
    """Tilted by 25 degrees, slices that lie 5 mm apart along the table are 4.53 mm thick."""
    tilt = np.radians(25)
    affine = np.diag([2.0, 2.0, 5.0 * np.cos(tilt), 1.0])
    affine[1, 2] = 5.0 * np.sin(tilt)
    expected = int((heart() == 1).sum()) * 2 * 2 * 5 * np.cos(tilt) / 1000
    voxels = np.random.default_rng(0).normal(300, 80, (8, 8, 4)).astype(np.int16)
    labels = heart().astype(np.uint8)
    for name, values in (("a", voxels), ("a_seg", labels), ("b", labels)):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), tmp_path / name[0] / f"{name}.nii.gz")
    shutil.move(tmp_path / "b" / "b.nii.gz", tmp_path / "b" / "a.nii.gz")
    rv, *_ = evaluate(tmp_path / "b", tmp_path / "a").rows
    assert (rv.volume_ml, rv.reference_volume_ml) == pytest.approx((expected, expected))
    (case,) = prepare(tmp_path / "a", tmp_path / "store", spacing=1.0, processes=1).cases
    assert case.voxel_ml == pytest.approx(5 * np.cos(tilt) / 1000)


def test_scans_beside_their_label_maps_are_not_taken_for_references(folders):
    predictions, scans = folders
    for name in ("a", "b"):
        save(predictions / f"{name}.nii.gz", heart())
        save(
            scans / f"{name}.nii.gz",
            np.random.default_rng(0).normal(300, 80, (8, 8, 4)),
            dtype=float,
        )
        save(scans / f"{name}_seg.nii.gz", heart())
    evaluation = evaluate(predictions, scans)
    assert evaluation.classes == ("class_1", "class_2", "class_3")
    assert [row.dice for row in evaluation.rows] == [1.0] * 6


def test_two_files(tmp_path):
    a, b = save(tmp_path / "a.nii.gz", heart()), save(tmp_path / "b.nii", heart())
    evaluation = evaluate(a, b)
    assert evaluation.classes == ("class_1", "class_2", "class_3")
    assert [(r.case, r.subject, r.dice, r.hd95_mm, r.assd_mm) for r in evaluation.rows] == [
        ("a", "a", 1.0, 0.0, 0.0)
    ] * 3
    assert evaluation.rows[0].volume_ml == pytest.approx(16 * 18 / 1000)
    assert evaluation.rows[0].spacing == SPACING


def test_classes_are_matched_by_name(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart(rv=1, myo=2, lv=3))
    save(references / "p1.nii.gz", heart(rv=3, myo=2, lv=1))
    name_values(predictions, RV=1, MYO=2, LV=3)
    evaluation = evaluate(predictions, references, labels="1=LV,2=MYO,3=RV")
    assert evaluation.classes == ("LV", "MYO", "RV")
    assert [row.dice for row in evaluation.rows] == [1.0, 1.0, 1.0]


def test_references_mean_the_same_as_predictions_where_nothing_else_is_said(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    name_values(predictions, RV=1, MYO=2, LV=3)
    assert evaluate(predictions, references).classes == ("RV", "MYO", "LV")


def test_labels_name_both_where_predictions_say_nothing(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    evaluation = evaluate(predictions, references, labels="2=MYO,1+3=BLOOD")
    assert by_class(evaluation)["BLOOD"].dice == 1.0


def test_class_names_must_agree(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    name_values(predictions, RV=1, MYO=2, LV=3)
    with pytest.raises(PosconError, match=r"\(RV, MYO, LV\).*\(right, wall, left\).*--labels"):
        evaluate(predictions, references, labels="1=right,2=wall,3=left")


def test_damaged_labels_file(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    (predictions / "labels.json").write_text('{"classes": [{"name": "RV"}]}')
    with pytest.raises(PosconError, match=r"labels\.json: expected"):
        evaluate(predictions, references)


def acdc(root, patients=("patient001", "patient002")):
    for patient in patients:
        for frame in ("frame01", "frame12"):
            folder = root / patient
            save(folder / f"{patient}_{frame}.nii.gz", np.ones((8, 8, 4)), dtype=np.int16)
            save(folder / f"{patient}_{frame}_gt.nii.gz", heart())
    return root


def test_references_in_a_data_set(folders):
    predictions, references = folders
    acdc(references)
    save(predictions / "patient002_frame01.nii.gz", heart(rv=7, myo=8, lv=9))
    name_values(predictions, LV=9, MYO=8, RV=7)
    evaluation = evaluate(predictions, references)
    assert evaluation.classes == ("RV", "MYO", "LV")
    assert {(r.case, r.subject, r.dice) for r in evaluation.rows} == {
        ("patient002_frame01", "patient002", 1.0)
    }
    assert evaluation.unmatched == (
        "patient001_frame01",
        "patient001_frame12",
        "patient002_frame12",
    )
    assert evaluate(predictions, references, layout="acdc") == evaluation


def test_one_prediction_file_leaves_no_reference_unmatched(folders):
    predictions, references = folders
    acdc(references)
    file = save(predictions / "patient002_frame01.nii.gz", heart())
    assert evaluate(file, references).unmatched == ()


def test_spacing_that_the_data_set_states_overrides_the_header(folders):
    predictions, references = folders
    folder = references / "A1B2C3"
    for frame in ("ED", "ES"):
        save(folder / f"A1B2C3_sa_{frame}.nii.gz", np.ones((8, 8, 4)), (1.0, 1.0, 1.0), np.int16)
        save(folder / f"A1B2C3_sa_{frame}_gt.nii.gz", heart(), (1.0, 1.0, 1.0))
    save(predictions / "A1B2C3_sa_ED.nii.gz", heart(), (1.0, 1.0, 1.0))
    assert evaluate(predictions, references).rows[0].spacing == (1.25, 1.25, 10.0)
    stated = evaluate(predictions, references, source_spacing=(1.0, 1.0, 5.0)).rows[0]
    assert stated.spacing == (1.0, 1.0, 5.0)
    assert stated.volume_ml == pytest.approx(4 * 5 / 1000)  # RV is 3 in M&Ms


def test_a_prediction_without_reference_is_reported(folders, tmp_path):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    alone = evaluate(predictions, references)
    save(predictions / "p2.nii.gz", heart())
    evaluation = evaluate(predictions, references, tmp_path / "results.json")
    assert evaluation.rows == alone.rows
    assert evaluation.without_reference == ("p2",)
    assert json.loads((tmp_path / "results.json").read_text())["without_reference"] == ["p2"]
    assert "1 prediction(s) without a reference: p2" in printed(evaluation)


def test_what_a_folder_of_scans_has_no_labels_of_is_no_hindrance(folders):
    """ACDC's cine series, which ``predict`` segments too."""
    predictions, references = folders
    acdc(references, ["patient001"])
    save(references / "patient001" / "patient001_4d.nii.gz", np.ones((8, 8, 4, 3)), dtype=np.int16)
    save(predictions / "patient001_frame01.nii.gz", heart())
    save(predictions / "patient001_4d.nii.gz", np.stack([heart()] * 3, -1))
    evaluation = evaluate(predictions, references)
    assert {row.case for row in evaluation.rows} == {"patient001_frame01"}
    assert evaluation.without_reference == ("patient001_4d",)


def test_no_prediction_has_a_reference(folders):
    predictions, references = folders
    save(predictions / "p2.nii.gz", heart())
    save(predictions / "p3.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    with pytest.raises(PosconError, match=r"p2\.nii\.gz: no reference named 'p2' in "):
        evaluate(predictions, references)


def test_swapped_folders_are_refused(folders):
    """Dice would be the same. Volumes and ranges would have the other sign."""
    predictions, references = folders
    for folder in folders:
        save(folder / "p1.nii.gz", heart())
    (predictions / "predictions.json").write_text("{}")
    with pytest.raises(PosconError, match="name the predictions first and the references second"):
        evaluate(references, predictions)
    evaluate(predictions, references)
    (references / "predictions.json").write_text("{}")  # of another model
    evaluate(predictions, references)


def test_reference_without_prediction_is_reported(folders, tmp_path):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    for name in ("p1", "p2", "p3"):
        save(references / f"{name}.nii.gz", heart())
    evaluation = evaluate(predictions, references, tmp_path / "results.json")
    assert evaluation.unmatched == ("p2", "p3")
    assert json.loads((tmp_path / "results.json").read_text())["unmatched"] == ["p2", "p3"]
    assert "2 reference(s) without a prediction: p2, p3" in printed(evaluation)


def printed(evaluation):
    console = Console(width=120, file=io.StringIO())
    console.print(summary_table(evaluation))
    return console.file.getvalue()


def test_frames_are_cases(tmp_path):
    reference = np.stack([heart(), np.zeros((8, 8, 4)), heart()], axis=-1)
    prediction = np.stack([heart(), heart(), heart(lv=0)], axis=-1)
    a, b = save(tmp_path / "a.nii.gz", prediction), save(tmp_path / "b.nii.gz", reference)
    evaluation = evaluate(a, b, labels="1=RV,2=MYO,3=LV")
    assert [(r.case, r.class_name, r.dice) for r in evaluation.rows] == [
        ("a_frame01", "RV", 1.0),
        ("a_frame01", "MYO", 1.0),
        ("a_frame01", "LV", 1.0),
        ("a_frame03", "RV", 1.0),
        ("a_frame03", "MYO", 1.0),
        ("a_frame03", "LV", 0.0),
    ]
    assert evaluation.not_annotated == ("a_frame02",)
    assert "1 case(s) or frame(s) without annotation: a_frame02" in printed(evaluation)


def test_summary(folders):
    predictions, references = folders
    half = heart()
    half[1:3, 1:5, 2] = 0  # half of RV
    save(predictions / "p1.nii.gz", half)
    save(references / "p1.nii.gz", heart())
    save(predictions / "p2.nii.gz", heart(lv=0))  # LV is missed
    save(references / "p2.nii.gz", heart())
    save(predictions / "p3.nii.gz", heart(rv=0))  # RV is neither there nor predicted
    save(references / "p3.nii.gz", heart(rv=0))
    save(predictions / "p4.nii.gz", heart(rv=0, myo=0, lv=0))  # nothing to measure at all
    save(references / "p4.nii.gz", heart(rv=0, myo=0, lv=0))
    evaluation = evaluate(predictions, references, labels="1=RV,2=MYO,3=LV")
    rv, myo, lv, mean = evaluation.summary()

    assert [(s.name, s.measured, s.missed) for s in (rv, myo, lv, mean)] == [
        ("RV", 2, 0),
        ("MYO", 3, 0),
        ("LV", 3, 1),
        ("mean", 3, 1),
    ]
    assert rv.dice.mean == pytest.approx(np.mean([2 / 3, 1]))
    assert rv.dice.std == pytest.approx(np.std([2 / 3, 1], ddof=1))
    assert lv.dice.mean == pytest.approx(2 / 3)
    assert lv.hd95_mm.mean == pytest.approx(np.linalg.norm([8 * 1.5, 8 * 1.5, 4 * 8]) / 3)
    per_case = [np.mean([2 / 3, 1, 1]), np.mean([1, 1, 0]), 1]
    assert mean.dice.mean == pytest.approx(np.mean(per_case))
    assert mean.dice.std == pytest.approx(np.std(per_case, ddof=1))
    assert "0.833 ± 0.236" in printed(evaluation)


def test_one_case_has_no_standard_deviation(tmp_path):
    a, b = save(tmp_path / "a.nii", heart()), save(tmp_path / "b.nii", heart())
    spread = evaluate(a, b).summary()[0].dice
    assert spread.mean == 1.0
    assert math.isnan(spread.std)


def test_a_false_structure_has_no_relative_volume_and_stays_in_the_other_means(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart(rv=0))
    save(references / "p1.nii.gz", heart(lv=0))
    save(predictions / "p2.nii.gz", heart())
    save(references / "p2.nii.gz", heart(rv=1))
    evaluation = evaluate(predictions, references, labels="1=RV,2=MYO,3=LV")
    rv, _, lv, mean = evaluation.summary()
    assert (rv.rvd.mean, rv.nsd.mean) == (-0.5, 0.5)
    assert (lv.measured, lv.dice.mean, lv.nsd.mean) == (2, 0.5, 0.5)
    assert lv.rvd.mean == 0.0
    assert math.isnan(lv.rvd.std)
    of_case = by_class(evaluation)  # of the last case of each class
    assert (of_case["LV"].rvd, of_case["RV"].rvd) == (0.0, 0.0)
    missed, myo = evaluation.rows[0], evaluation.rows[1]
    assert mean.rvd.mean == pytest.approx(np.mean([(missed.rvd + myo.rvd) / 2, 0.0]))


def test_the_tolerance_of_the_surfaces_is_stated(folders, poscon):
    predictions, references = folders
    save(predictions / "p1.nii.gz", np.roll(heart(rv=0, lv=0), 1, 0))
    save(references / "p1.nii.gz", heart(rv=0, lv=0))
    found = [
        evaluate(predictions, references, labels="2=MYO", nsd_tolerance=mm).rows[0]
        for mm in (0.1, 1.4, 1.5)
    ]
    assert found[0].nsd == found[1].nsd < found[2].nsd == 1.0
    assert found[1].nsd_tolerance_mm == 1.4
    given = (predictions, references, "--labels", "2=MYO", "--nsd-tolerance")
    code, out, _ = poscon("evaluate", *given, "1.5")
    assert code == 0
    assert "NSD" in out
    assert "(1.5" in out
    for wrong in ("0", "nan", "inf", "-1"):
        code, _, err = poscon("evaluate", *given, wrong)
        assert code == 2
        assert err == f"error: --nsd-tolerance {wrong}: must be above 0 mm, and finite\n"


@pytest.mark.parametrize("number", [1, 2])
def test_both_files_or_none(folders, tmp_path, monkeypatch, number):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    original, calls = Path.write_text, []

    def full(path, *arguments, **options):
        calls.append(path)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PosconError, match="No space left on device"):
        evaluate(predictions, references, tmp_path / "new" / "results", labels="1=RV,2=MYO,3=LV")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_for_the_results_is_looked_at_first(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PosconError, match=r"file: cannot be written into .it is no folder"):
        evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "file" / "below" / "results")


def test_a_link_to_nothing_is_no_place_for_the_results(tmp_path):
    (tmp_path / "results.json").symlink_to(tmp_path / "nothing")
    with pytest.raises(PosconError, match=r"results\.json: cannot be written .it is a link to"):
        evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "results")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_place_for_the_results_is_found_first(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PosconError, match=r"closed: cannot be written into; name another place"):
        evaluate(tmp_path / "missing", tmp_path / "missing", tmp_path / "closed" / "results")


def test_a_full_disk_does_not_take_the_table(folders, tmp_path, monkeypatch, poscon):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(references / "p1.nii.gz", heart())

    def full(evaluation, paths):
        raise PosconError("results.csv: cannot be written (No space left on device)")

    monkeypatch.setattr("poscon.commands.evaluate.write_evaluation", full)
    given = ("evaluate", predictions, references, "--labels", "1=RV,2=MYO,3=LV")
    code, out, err = poscon(*given, "--out", tmp_path / "results")
    assert (code, err) == (
        2,
        "error: results.csv: cannot be written (No space left on device)\n",
    )
    assert "MYO" in out
    assert "1.000" in out


def test_json_and_csv(folders, tmp_path):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart(rv=0))
    save(references / "p1.nii.gz", heart(rv=0))
    evaluate(predictions, references, tmp_path / "new" / "results", labels="1=RV,2=MYO,3=LV")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["results.csv", "results.json"]

    content = json.loads((tmp_path / "new" / "results.json").read_text())
    assert set(content) == {
        "summary",
        "cases",
        "unmatched",
        "without_reference",
        "not_annotated",
        "failed",
        "counted",
        "unlabelled",
        "rules",
    }
    assert content["cases"][0] == {
        "case": "p1",
        "subject": "p1",
        "class": "RV",
        "dice": None,
        "hd95_mm": None,
        "assd_mm": None,
        "nsd": None,
        "rvd": None,
        "nsd_tolerance_mm": 2.0,
        "volume_ml": 0.0,
        "reference_volume_ml": 0.0,
        "spacing": list(SPACING),
        "range": {
            **dict.fromkeys(("first", "last", "reference_first", "reference_last")),
            **dict.fromkeys(("first_slices", "last_slices", "first_mm", "last_mm")),
            "state": "neither",
        },
        "seen": [],
    }
    assert [row["name"] for row in content["summary"]["ranges"]] == ["RV", "MYO", "LV", "all"]
    assert content["summary"]["ranges"][0]["mean_slices"] is None
    rv, myo, _ = content["summary"]["classes"]
    assert (rv["name"], rv["measured"], rv["dice"]) == ("RV", 0, {"mean": None, "std": None})
    assert (myo["name"], myo["measured"], myo["dice"]["mean"]) == ("MYO", 1, 1.0)
    assert content["summary"]["mean"]["name"] == "mean"
    assert any("exactly one" in rule for rule in content["rules"])

    with (tmp_path / "new" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["RV", "MYO", "LV"]
    assert (rows[0]["dice"], rows[1]["dice"], rows[1]["spacing_z_mm"]) == ("", "1.0", "8.0")
    assert [(row["range"], row["first"], row["last_mm"]) for row in rows[:2]] == [
        ("neither", "", ""),
        ("both", "1", "0.0"),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("backwards", [False, True])
def test_ranges_are_in_slices_of_the_file(tmp_path, order, backwards):
    """Whichever axis has the slices, and whichever way they run."""
    prediction, reference = heart(), heart()
    prediction[..., 2] = 0  # ends a slice too early
    affine = np.diag([*SPACING, 1.0])
    if backwards:
        affine[2, 2] = -affine[2, 2]
    affine = affine[:, [*order, 3]]
    for name, labels in (("a.nii", prediction), ("b.nii", reference)):
        image = nib.Nifti1Image(labels.transpose(order).astype(np.uint8), affine)
        nib.save(image, tmp_path / name)
    evaluation = evaluate(tmp_path / "a.nii", tmp_path / "b.nii")
    for row in evaluation.rows:
        assert (row.range.first_slices, row.range.last_slices) == (0, -1)
        assert (row.range.reference_first, row.range.reference_last) == (1, 2)
        assert row.range.last_mm == -8.0
    assert "3 of 6 first and last slices are right" in printed(evaluation)
    assert "0.50 slices (4.0 mm)" in " ".join(printed(evaluation).split())


def test_ranges_of_a_partly_labelled_reference(tmp_path):
    reference = heart()
    reference[..., 3] = 9
    a, b = save(tmp_path / "a.nii", heart()), save(tmp_path / "b.nii", reference)
    for row in evaluate(a, b, ignore_label=9).rows:
        assert (row.range.first_slices, row.range.last_slices) == (0, None)


def test_a_range_is_of_the_whole_prediction(tmp_path):
    prediction, reference = heart(), heart()
    prediction[0, 0, 3] = 1
    reference[:, :, 3] = [9] * 8
    reference[0, 0, 0] = 9
    a, b = save(tmp_path / "a.nii", prediction), save(tmp_path / "b.nii", reference)
    found = by_class(evaluate(a, b, ignore_label=9))["class_1"].range
    assert (found.last, found.reference_last, found.state) == (3, None, "both")


@pytest.mark.parametrize("name", ["results", "results.csv"])
def test_existing_results_are_kept_and_nothing_is_computed(tmp_path, name):
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(PosconError, match=r"results\.csv: exists already.*another name"):
        evaluate(tmp_path / "missing", tmp_path / "missing", tmp_path / name)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("results.csv", "mine")]


@pytest.mark.parametrize(("name", "message"), [("a.xlsx", r"\.json or \.csv"), ("", "is a folder")])
def test_out_of_another_kind(tmp_path, name, message):
    with pytest.raises(PosconError, match=message):
        evaluate(tmp_path / "p", tmp_path / "r", tmp_path / name)


def test_shape_mismatch(tmp_path):
    a = save(tmp_path / "a.nii.gz", heart()[:-1])
    b = save(tmp_path / "b.nii.gz", heart())
    with pytest.raises(
        PosconError, match=r"a\.nii\.gz: shape \(7, 8, 4\).*b\.nii\.gz, \(8, 8, 4\)"
    ):
        evaluate(a, b)


def test_place_mismatch(tmp_path):
    b = save(tmp_path / "b.nii.gz", heart())
    tolerance = 0.05 * 1.5  # mm, of the smallest voxel side
    a = save(tmp_path / "a.nii.gz", heart(), (1.5, 1.5, 8.0 + 0.99 * tolerance / 3))
    assert evaluate(a, b).rows
    a = save(tmp_path / "a.nii.gz", heart(), (1.5, 1.5, 8.0 + 1.01 * tolerance / 3))
    with pytest.raises(PosconError, match=r"a\.nii\.gz: does not lie.*b\.nii\.gz.*0\.0758 mm"):
        evaluate(a, b)


def test_two_files_of_one_name(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    save(predictions / "p1.nii", heart())
    save(references / "p1.nii", heart())
    with pytest.raises(PosconError, match="has the same name"):
        evaluate(predictions, references)


def test_same_file(tmp_path):
    a = save(tmp_path / "a.nii.gz", heart())
    with pytest.raises(PosconError, match="same file"):
        evaluate(a, tmp_path)


def test_one_reference_for_many_predictions(tmp_path):
    for name in "ab":
        save(tmp_path / "p" / f"{name}.nii.gz", heart())
    with pytest.raises(PosconError, match="one reference for 2 predictions"):
        evaluate(tmp_path / "p", save(tmp_path / "r.nii.gz", heart()))


def test_layout_of_a_single_reference(tmp_path):
    a, b = save(tmp_path / "a.nii", heart()), save(tmp_path / "b.nii", heart())
    with pytest.raises(PosconError, match="--layout: has no effect"):
        evaluate(a, b, layout="acdc")


def test_images_are_not_label_maps(tmp_path):
    image = np.arange(8 * 8 * 8).reshape(8, 8, 8)
    a = save(tmp_path / "a.nii", image, dtype=np.int16)
    b = save(tmp_path / "b.nii", image, dtype=np.int16)
    with pytest.raises(PosconError, match="is this an image"):
        evaluate(a, b)


@pytest.mark.parametrize("dimensions", [3, 4])
def test_nothing_to_evaluate(tmp_path, dimensions):
    empty = np.zeros((4, 4, 4, 2)[:dimensions])
    a, b = save(tmp_path / "a.nii", empty), save(tmp_path / "b.nii", empty)
    with pytest.raises(PosconError, match="empty"):
        evaluate(a, b)
    if dimensions == 4:
        with pytest.raises(PosconError, match="no frame is annotated"):
            evaluate(a, b, labels="1=RV")


@pytest.mark.parametrize("place", ["predictions", "references"])
def test_missing_places(tmp_path, place):
    places = {"predictions": save(tmp_path / "a.nii", heart())}
    places["references"] = places["predictions"]
    places[place] = tmp_path / "missing"
    with pytest.raises(PosconError, match="missing: no such file or folder"):
        evaluate(**places)


def test_empty_folder(tmp_path):
    (tmp_path / "p").mkdir()
    with pytest.raises(PosconError, match="no label map"):
        evaluate(tmp_path / "p", tmp_path)


def test_impossible_spacing(tmp_path):
    a, b = save(tmp_path / "a.nii", heart()), save(tmp_path / "b.nii", heart())
    with pytest.raises(PosconError, match="--source-spacing"):
        evaluate(a, b, source_spacing=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("bad", ["truncated", "shape", "place", "value", "empty"])
@pytest.mark.parametrize("labels", ["1=RV,2=MYO,3=LV", None])
def test_a_pair_that_cannot_be_measured_does_not_stop_the_others(folders, tmp_path, bad, labels):
    predictions, references = folders
    for name in ("p1", "p2", "p3"):
        save(predictions / f"{name}.nii.gz", heart())
        save(references / f"{name}.nii.gz", heart())
    file = predictions / "p2.nii.gz"
    if bad == "truncated":
        file.write_bytes(file.read_bytes()[:40])
    elif bad == "empty":
        file.write_bytes(b"")
    elif bad == "shape":
        save(file, heart()[:-1])
    elif bad == "place":
        image = nib.load(file)
        affine = image.affine.copy()
        affine[0, 3] += 50
        nib.save(nib.Nifti1Image(heart().astype(np.uint8), affine), file)
    else:
        labels = labels or "1=RV,2=MYO,3=LV"
        save(file, np.where(heart() == 1, 77, heart()).astype(np.uint8))
    with pytest.raises(PartlyDone, match=r"p2\.nii\.gz.*; 1 of 3 pair\(s\)") as caught:
        evaluate(predictions, references, tmp_path / "results", labels=labels)
    evaluation = caught.value.result
    assert {row.case for row in evaluation.rows} == {"p1", "p3"}
    assert set(evaluation.failed) == {"p2"}
    content = json.loads((tmp_path / "results.json").read_text())
    assert "p2.nii.gz" in content["failed"]["p2"]
    assert "1 pair(s) that could not be measured: p2" in printed(evaluation)


@pytest.mark.parametrize(
    "classes",
    [
        [{"name": "RV", "values": [1]}, {"name": "RV", "values": [2]}],
        [{"name": "RV", "values": [1]}, {"name": "MYO", "values": [1]}],
        [{"name": "RV", "values": [2.7]}],
        [{"name": "RV", "values": [True]}],
        [{"name": "RV", "values": [-1]}],
        [{"name": "RV", "values": [10**20]}],
        [{"name": "RV", "values": []}],
        [{"name": "RV", "values": "12"}],
        [{"name": "", "values": [1]}],
        [{"name": None, "values": [1]}],
        [],
        "RV",
    ],
)
@pytest.mark.parametrize("side", ["predictions", "references"])
def test_labels_file_that_says_something_impossible(folders, classes, side):
    for folder in folders:
        save(folder / "p1.nii.gz", heart())
    wrong = folders[0].parent / side / "labels.json"
    wrong.write_text(json.dumps({"classes": classes}))
    with pytest.raises(PosconError) as caught:
        evaluate(*folders)
    assert str(caught.value).startswith(f"{wrong}: ")
    assert "\n" not in str(caught.value)


def test_a_labels_file_that_says_only_what_is_not_labelled(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart())
    labels = heart()
    labels[:, :, 0] = 9
    save(references / "p1.nii.gz", labels)
    (references / "labels.json").write_text('{"classes": [], "ignore": 9}')
    evaluation = evaluate(*folders)
    assert evaluation.classes == ("class_1", "class_2", "class_3")
    assert evaluation.unlabelled.voxels == (labels == 9).sum()


def test_a_key_that_is_twice_in_a_labels_file(folders):
    for folder in folders:
        save(folder / "p1.nii.gz", heart())
    (folders[0] / "labels.json").write_text('{"classes": [], "classes": []}')
    with pytest.raises(PosconError, match=r"labels\.json: 'classes' occurs twice"):
        evaluate(*folders)


def test_the_references_labels_file_counts(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", heart(rv=1, myo=2, lv=3))
    save(references / "p1.nii.gz", heart(rv=3, myo=2, lv=1))
    name_values(predictions, RV=1, MYO=2, LV=3)
    name_values(references, LV=1, MYO=2, RV=3)
    evaluation = evaluate(predictions, references)
    assert evaluation.classes == ("LV", "MYO", "RV")
    assert {row.dice for row in evaluation.rows} == {1.0}
    name_values(references, liver=1, spleen=2, RV=3)
    with pytest.raises(PosconError, match="are not the references'"):
        evaluate(predictions, references)


@pytest.mark.parametrize("place", ["labelsTr/dataset.json", "dataset.json"])
def test_dataset_json_says_what_the_values_of_a_folder_mean(tmp_path, place):
    predictions, references = tmp_path / "p", tmp_path / "d" / "labelsTr"
    save(predictions / "p1.nii.gz", heart(rv=1, myo=2, lv=3))
    save(references / "p1.nii.gz", heart(rv=3, myo=2, lv=1))
    name_values(predictions, RV=1, MYO=2, LV=3)
    labels = {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
    (tmp_path / "d" / place).write_text(json.dumps({"labels": labels}))
    evaluation = evaluate(predictions, references)
    assert evaluation.classes == ("LV", "MYO", "RV")
    assert {row.dice for row in evaluation.rows} == {1.0}


def test_values_found_must_be_whole(tmp_path):
    a = save(tmp_path / "a.nii.gz", heart() * 0.9, dtype=np.float32)
    b = save(tmp_path / "b.nii.gz", heart())
    with pytest.raises(PosconError, match=r"a\.nii\.gz: label values must be whole"):
        evaluate(a, b)


def test_headers_are_not_believed(tmp_path):
    a = save(tmp_path / "a.nii.gz", heart(), (0.0015, 0.0015, 0.008))
    b = save(tmp_path / "b.nii.gz", heart(), (0.0015, 0.0015, 0.008))
    with pytest.raises(
        PosconError, match=r"a\.nii\.gz: .*0\.0015 x 0\.0015.*with --source-spacing$"
    ):
        evaluate(a, b)
    (row, *_) = evaluate(a, b, source_spacing=SPACING).rows
    assert (row.spacing, row.dice, row.hd95_mm) == (SPACING, 1.0, 0.0)


def test_references_with_one_mask_per_organ(tmp_path):
    labels = heart()
    save(tmp_path / "d" / "s1" / "ct.nii.gz", labels)
    for value, organ in enumerate(("a", "b", "c"), start=1):
        save(tmp_path / "d" / "s1" / "segmentations" / f"{organ}.nii.gz", labels == value)
    save(tmp_path / "p" / "s1.nii.gz", heart(rv=3, myo=2, lv=1))
    name_values(tmp_path / "p", c=1, b=2, a=3)
    evaluation = evaluate(tmp_path / "p", tmp_path / "d")
    assert evaluation.classes == ("a", "b", "c")
    assert {row.dice for row in evaluation.rows} == {1.0}


# References that are partly labelled


def partly(labels, value=9):
    """Slice 2 is not labelled, nor are some voxels of slice 1."""
    labels = labels.copy()
    labels[..., 2] = value
    labels[:2, :, 1] = value
    return labels


def other():
    """A prediction that is wrong in labelled and in unlabelled voxels."""
    prediction = heart()
    prediction[2, 1:4, 1] = 2
    prediction[:, :, 2] = 3
    return prediction


def test_both_maps_are_cut_to_the_labelled_voxels(tmp_path):
    a = save(tmp_path / "a.nii.gz", other())
    b = save(tmp_path / "b.nii.gz", partly(heart()))
    evaluation = evaluate(a, b, ignore_label=9)
    counted = partly(heart()) != 9
    cut = [
        save(tmp_path / f"cut/{k}.nii.gz", m * counted) for k, m in enumerate((other(), heart()))
    ]
    whole = evaluate(*cut).rows  # ranges are not cut
    assert evaluation.rows == tuple(
        replace(theirs, case="a", subject="a", range=ours.range)
        for ours, theirs in zip(evaluation.rows, whole, strict=True)
    )
    assert evaluation.unlabelled == Unlabelled(int((~counted).sum()), 1, 1)
    assert evaluation.counted == Counted(3, 4, 1)
    assert evaluation.classes == ("class_1", "class_2", "class_3")
    # what lies in unlabelled voxels changes nothing
    elsewhere = np.where(counted, other(), np.random.default_rng(0).integers(0, 4, counted.shape))
    again = evaluate(save(tmp_path / "a2.nii.gz", elsewhere), b, ignore_label=9)
    assert [r.dice for r in again.rows] == [r.dice for r in evaluation.rows]


def test_what_does_not_count_is_said_in_one_line(tmp_path):
    a = save(tmp_path / "a.nii.gz", other())
    b = save(tmp_path / "b.nii.gz", partly(heart()))
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(evaluate(a, b, ignore_label=9)))
    said = " ".join(console.file.getvalue().split())
    assert "3 of 4 slices of 1 case(s) count; the references do not label the others" in said
    assert "80 voxels of 1 reference(s) are not labelled and do not count (1 slices" in said


def test_the_ignore_label_of_dataset_json(folders):
    predictions, references = folders
    save(predictions / "p1.nii.gz", other())
    save(references / "p1.nii.gz", partly(heart(), 4))
    labels = {"background": 0, "RV": 1, "MYO": 2, "LV": 3, "ignore": 4}
    for folder in folders:  # nnU-Net copies it beside its predictions
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    evaluation = evaluate(predictions, references)
    assert evaluation.unlabelled.voxels == 80
    assert evaluation.classes == ("RV", "MYO", "LV")
    save(predictions / "p1.nii.gz", partly(heart(), 4))
    with pytest.raises(PosconError, match=r"label value\(s\) 4 not declared"):
        evaluate(predictions, references)


def test_an_ignore_label_that_is_a_class(tmp_path):
    a, b = save(tmp_path / "a.nii.gz", heart()), save(tmp_path / "b.nii.gz", heart())
    with pytest.raises(PosconError, match="--ignore-label: the value 1 cannot mean"):
        evaluate(a, b, labels="1=RV,2=MYO,3=LV", ignore_label=1)


def test_a_reference_without_any_label_is_not_annotated(folders):
    predictions, references = folders
    for name in ("p1", "p2"):
        save(predictions / f"{name}.nii.gz", heart())
    save(references / "p1.nii.gz", heart())
    save(references / "p2.nii.gz", np.full((8, 8, 4), 9))
    evaluation = evaluate(predictions, references, ignore_label=9)
    assert evaluation.not_annotated == ("p2",)
    assert {row.case for row in evaluation.rows} == {"p1"}
