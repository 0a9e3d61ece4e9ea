"""Label maps that are added to a prepared store, from the command line to the arrays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from msgspec.structs import replace

from poscon.commands.finetune import finetune
from poscon.commands.label import label
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.commands.suggest import suggest
from poscon.errors import PosconError
from poscon.files import alone
from poscon.finetuning.supervised import Supervised
from poscon.store.manifest import CaseRecord, read_case
from poscon.store.oddities import find_oddities
from poscon.store.store import Store
from poscon.volumes.case import IGNORE

SHAPE = (12, 10, 8)
AFFINES = {
    "a": np.diag([1.5, 1.5, 6.0, 1.0]),
    "b": np.diag([-1.5, 1.5, -6.0, 1.0]),  # left and downwards
    "c": np.diag([1.5, 1.5, 6.0, 1.0])[[2, 0, 1, 3]],  # slices along another axis of the body
}
Run = Callable[..., tuple[int, str, str]]


def put(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = affine.copy()
    moved[:3, 3] = (-20, 7, 31)
    nib.save(nib.Nifti1Image(voxels, moved), path)
    return path


def drawn(*closed: int) -> np.ndarray:
    """Two classes, 1 and 2; slices 0 and 7 are empty. The closed slices are not labelled."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 2:6, 1:7] = 1
    labels[7:10, 2:8, 1:7] = 2
    labels[:, :, list(closed)] = IGNORE
    return labels


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three MR scans without label maps."""
    for seed, (name, affine) in enumerate(AFFINES.items()):
        voxels = np.random.default_rng(seed).normal(300, 80, SHAPE).round().astype(np.int16)
        put(tmp_path / "scans" / f"{name}.nii.gz", voxels, affine)
    return tmp_path / "scans"


@pytest.fixture
def unlabelled(scans: Path, tmp_path: Path) -> Path:
    prepare(scans, tmp_path / "store", spacing="native", processes=1)
    return tmp_path / "store"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Label maps of a and b, of some slices."""
    put(tmp_path / "maps" / "a.nii.gz", drawn(1, 2, 7), AFFINES["a"])
    put(tmp_path / "maps" / "b.nii.gz", drawn(0, 1, 2, 3), AFFINES["b"])
    return tmp_path / "maps"


GIVEN = {"labels": "1=RV,2=LV", "ignore_label": IGNORE}


def case_of(store: Path, name: str) -> tuple[CaseRecord, np.ndarray]:
    opened = Store(store)
    (case,) = opened.select([name], where="test")
    return case, np.asarray(opened.label(case))


def content(store: Path) -> dict[str, bytes]:
    """The files of a store, byte for byte."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def same_labels(one: Path, other: Path) -> None:
    """The records and arrays of two stores are equal, except where the label maps lie."""
    first, second = Store(one), Store(other)
    assert first.manifest.classes == second.manifest.classes
    for mine, theirs in zip(first.cases, second.cases, strict=True):
        names = {"source_label": theirs.source_label, "label_file": theirs.label_file}
        assert replace(mine, **names) == theirs
        assert mine.labelled == theirs.labelled
        np.testing.assert_array_equal(first.image(mine), second.image(theirs))
        if mine.labelled:
            np.testing.assert_array_equal(first.label(mine), second.label(theirs))


@pytest.mark.parametrize(
    ("ct", "options"),
    [
        (False, {"spacing": "native"}),
        (True, {"spacing": 2.3}),
        (False, {"spacing": 1.1, "reverse": ["b"]}),
        (False, {"plane": "coronal"}),
        (True, {"source_spacing": (2.0, 2.0, 5.0), "spacing": 3.0}),
    ],
)
def test_the_store_is_that_of_prepare_with_the_label_maps(
    ct: bool, options: dict[str, object], scans: Path, maps: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(5)
    if ct:
        for name, affine in AFFINES.items():
            voxels = generator.normal(-100, 300, SHAPE).astype(np.int16)
            put(scans / f"{name}.nii.gz", voxels, affine)
    ragged = drawn(3)
    ragged[generator.random(SHAPE) < 0.3] = IGNORE
    put(maps / "c.nii.gz", ragged, AFFINES["c"])
    prepare(scans, tmp_path / "store", processes=1, **options)
    images = content(tmp_path / "store")
    label(tmp_path / "store", maps, **GIVEN)
    both = tmp_path / "both"
    shutil.copytree(scans, both / "images")
    shutil.copytree(maps, both / "labels")
    prepare(both, tmp_path / "expected", processes=1, **GIVEN, **options)
    for path in (both / "images").iterdir():  # the sources of the images have other names
        path.rename(both / path.name)
    shutil.rmtree(both / "labels")
    expected = Store(tmp_path / "expected")
    assert [case.labelled for case in expected.cases] == [True] * 3
    manifest = tmp_path / "expected" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"images/', '"'))
    same_labels(tmp_path / "store", tmp_path / "expected")
    now = content(tmp_path / "store")
    assert all(now[name] == data for name, data in images.items() if name.endswith("image.npy"))
    assert not any(oddity.kind == "damaged" for oddity in find_oddities(Store(tmp_path / "store")))


def test_every_value_is_a_class_where_nobody_says(
    unlabelled: Path, maps: Path, poscon: Run
) -> None:
    code, out, _ = poscon("label", unlabelled, maps, "--ignore-label", IGNORE)
    assert code == 0
    assert out.startswith(f"9 slice(s) of 2 subject(s) are labelled in {unlabelled}: 9 added, 0 ")
    assert out.endswith("classes class_1, class_2\n")
    case, stored = case_of(unlabelled, "a")
    np.testing.assert_array_equal(stored, drawn(1, 2, 7).transpose(2, 1, 0))
    assert case.labelled_slices == (0, 3, 4, 5, 6)
    assert case.source_label == str(maps / "a.nii.gz")
    assert not Store(unlabelled).select(["c"], where="test")[0].labelled
    for record in Store(unlabelled).cases:
        file = unlabelled / "cases" / record.id / "case.json"
        assert read_case(file) == record


def test_labels_are_merged_and_the_new_ones_come_first(
    unlabelled: Path, maps: Path, poscon: Run, tmp_path: Path
) -> None:
    label(unlabelled, maps, **GIVEN)
    case, before = case_of(unlabelled, "a")
    reader = Store(unlabelled)
    more = drawn(0, 4, 5, 6, 7)
    more[3:5, :, 3] = 0
    more[0, :, 3] = IGNORE
    put(tmp_path / "more" / "a.nii.gz", more, AFFINES["a"])
    code, out, _ = poscon("label", unlabelled, tmp_path / "more", "--ignore-label", IGNORE)
    assert code == 0
    assert "11 slice(s) of 2 subject(s)" in out
    assert "2 added, 1 changed; classes RV, LV" in out
    _, after = case_of(unlabelled, "a")
    new = more.transpose(2, 1, 0)
    np.testing.assert_array_equal(after, np.where(new == IGNORE, before, new))
    np.testing.assert_array_equal(reader.label(case), before)  # a training that goes on
    untouched = content(unlabelled)
    assert poscon("label", unlabelled, tmp_path / "more", "--ignore-label", IGNORE)[0] == 0
    again = content(unlabelled)
    assert again["manifest.json"] == untouched["manifest.json"]
    # the label map before is kept until the next time
    assert len([name for name in untouched if name.startswith("cases/a/label")]) == 2
    assert len([name for name in again if name.startswith("cases/a/label")]) == 1


def test_a_store_with_labels_of_prepare_is_labelled_further(
    scans: Path, maps: Path, tmp_path: Path
) -> None:
    put(scans / "a_seg.nii.gz", drawn(), AFFINES["a"])
    prepare(scans, tmp_path / "store", spacing="native", labels="1=RV,2=LV", processes=1)
    _, whole = case_of(tmp_path / "store", "a")
    found = label(tmp_path / "store", maps, ignore_label=IGNORE)
    assert found.added == {"b": (0, 1, 2, 3)}  # the file of b runs downwards
    assert found.changed == {}
    case, after = case_of(tmp_path / "store", "a")
    np.testing.assert_array_equal(after, whole)
    assert case.label_file == "label.npy"


def test_other_formats_and_segments_of_slicer(
    scans: Path, unlabelled: Path, tmp_path: Path
) -> None:
    """The name of a segment counts, not its value in the file."""
    (tmp_path / "maps").mkdir()
    for file, segments in (("b.mha", ()), ("a.seg.nrrd", ("LV", "RV"))):
        path, name = tmp_path / "maps" / file, file[0]
        affine = np.diag([-1.0, -1, 1, 1]) @ nib.load(scans / f"{name}.nii.gz").affine
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        image = SimpleITK.GetImageFromArray(drawn().T)
        image.SetSpacing(sizes.tolist())
        image.SetDirection((affine[:3, :3] / sizes).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        for number, segment in enumerate(segments):
            image.SetMetaData(f"Segment{number}_Name", segment)
            image.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
        SimpleITK.WriteImage(image, str(path))
        label(unlabelled, path.parent, labels="1=RV,2=LV")
        path.unlink()
        _, stored = case_of(unlabelled, name)
        stack = drawn().transpose(2, 1, 0)
        expected = stack[::-1, :, ::-1] if name == "b" else np.array([0, 2, 1])[stack]
        np.testing.assert_array_equal(stored, expected)


def test_what_suggest_wrote_is_given_back(
    scans: Path, unlabelled: Path, tmp_path: Path, poscon: Run
) -> None:
    first = suggest(unlabelled, tmp_path / "next", budget=6, source=scans)
    stated = json.loads((tmp_path / "next" / "labels" / "labels.json").read_text())
    assert stated == {"classes": [], "ignore": IGNORE}
    chosen = {(each.case, each.slice) for each in first.slices}
    left_out = first.slices[0]
    for path in first.label_maps:
        image = nib.load(path)
        labels = np.array(image.dataobj)
        labels[labels == 0] = drawn()[labels == 0]
        if path.name == f"{left_out.case}.nii.gz":
            labels[:, :, left_out.file_slice] = IGNORE
            other = next(
                n
                for n in range(8)
                if (labels[:, :, n] == IGNORE).all() and n != left_out.file_slice
            )
            labels[:, :, other] = 0  # by mistake
        nib.save(nib.Nifti1Image(labels, None, image.header), path)
    code, out, _ = poscon(
        "label", unlabelled, tmp_path / "next" / "labels",
        "--labels", "1=RV,2=LV", "--suggestion", first.table,
    )  # fmt: skip
    assert code == 0
    summary, missing, *lines = out.splitlines()
    assert "6 added, 0 changed; classes RV, LV" in summary
    assert missing == (
        f"1 suggested slice(s) not labelled: slice {left_out.file_slice} of case {left_out.case}"
    )
    empty = [each for each in first.slices[1:] if each.file_slice in (0, 7)]
    assert bool(empty) == any("without structure" in line for line in lines)
    for each in empty:
        assert any(f"of case {each.case}" in line for line in lines if "structure" in line)
    assert lines[-1].startswith("warning: 1 slice(s) that were not suggested are labelled now: ")
    assert f"slice {other} of case {left_out.case}" in lines[-1]

    # the next round writes what is known, and goes on
    second = suggest(unlabelled, tmp_path / "more", budget=3, source=scans)
    assert not chosen & {(each.case, each.slice) for each in second.slices[1:]}
    stated = json.loads((tmp_path / "more" / "labels" / "labels.json").read_text())
    assert [entry["name"] for entry in stated["classes"]] == ["RV", "LV"]
    before = {case.id: case_of(unlabelled, case.id)[1] for case in Store(unlabelled).cases
              if case.labelled}  # fmt: skip
    found = label(unlabelled, tmp_path / "more" / "labels", suggestion=second.table)
    assert {(case, n) for case, ns in found.added.items() for n in ns} == {
        (each.case, each.slice) for each in second.slices
    }
    assert (found.changed, found.missing, found.unexpected) == ({}, {}, {})
    assert found.empty == {
        name: tuple(sorted(each.slice for each in second.slices if each.case == name))
        for name in found.empty
    }
    for name, known in before.items():
        _, now = case_of(unlabelled, name)
        np.testing.assert_array_equal(now[known != IGNORE], known[known != IGNORE])
    shutil.rmtree(tmp_path / "next")
    shutil.rmtree(tmp_path / "more")
    with pytest.raises(PosconError, match=r"the labels of case . of .* are from it; put it back"):
        suggest(unlabelled, tmp_path / "third", budget=1, source=scans)


def test_an_empty_slice_is_labelled_and_named(unlabelled: Path, maps: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("case,slice\na,0\na,3\nb,0\nb,3\nc,1\n")
    found = label(unlabelled, maps, suggestion=table, **GIVEN)
    assert found.missing == {"c": (1,)}
    assert found.empty == {"a": (0,), "b": (0,)}
    assert found.unexpected == {"a": (4, 5, 6), "b": (1, 2)}
    lines = list(found.lines())
    # slice 0 of the store is slice 7 of the file of b
    assert lines[2].startswith(
        "2 suggested slice(s) without structure: slice 0 of case a; slice 7 of case b; "
    )


def test_a_suggested_slice_that_was_not_drawn_can_be_taken_out(
    unlabelled: Path, tmp_path: Path
) -> None:
    """Slices 0 and 7 are empty, 3 is drawn. Then all three get the value for 'not labelled'."""
    table = tmp_path / "table.csv"
    table.write_text("case,slice\na,0\na,3\n")
    first = put(tmp_path / "first" / "a.nii.gz", drawn(1, 2, 4, 5, 6), AFFINES["a"]).parent
    found = label(unlabelled, first, suggestion=table, **GIVEN)
    assert (found.added, found.empty, found.unexpected) == (
        {"a": (0, 3, 7)},
        {"a": (0,)},
        {"a": (7,)},
    )
    _, before = case_of(unlabelled, "a")
    second = put(tmp_path / "second" / "a.nii.gz", drawn(0, 1, 2, 3, 5, 6, 7), AFFINES["a"]).parent
    found = label(unlabelled, second, suggestion=table, **GIVEN)
    assert (found.added, found.changed, found.withdrawn) == ({"a": (4,)}, {}, {"a": (0,)})
    assert (found.missing, found.empty) == ({"a": (0,)}, {})
    assert any(line.startswith("1 suggested slice(s) taken out") for line in found.lines())
    _, after = case_of(unlabelled, "a")
    assert (after[0] == IGNORE).all()
    for kept in (3, 7):  # what has structure, and what was not suggested
        np.testing.assert_array_equal(after[kept], before[kept])


def test_nothing_is_taken_out_without_the_table(unlabelled: Path, tmp_path: Path) -> None:
    first = put(tmp_path / "first" / "a.nii.gz", drawn(1, 2), AFFINES["a"]).parent
    label(unlabelled, first, **GIVEN)
    second = put(tmp_path / "second" / "a.nii.gz", drawn(0, 1), AFFINES["a"]).parent
    found = label(unlabelled, second, **GIVEN)
    assert (found.withdrawn, found.changed) == ({}, {})
    assert (case_of(unlabelled, "a")[1][0] == 0).all()


def test_a_case_whose_only_slice_is_taken_out_is_not_labelled(
    unlabelled: Path, tmp_path: Path
) -> None:
    as_prepared = Store(unlabelled).cases[0]
    table = tmp_path / "table.csv"
    table.write_text("case,slice\na,0\n")
    first = put(tmp_path / "first" / "a.nii.gz", drawn(1, 2, 3, 4, 5, 6, 7), AFFINES["a"]).parent
    label(unlabelled, first, labels="1=RV,2=LV", ignore_label=IGNORE)
    second = put(tmp_path / "second" / "a.nii.gz", drawn(*range(8)), AFFINES["a"]).parent
    found = label(unlabelled, second, suggestion=table, **GIVEN)
    assert found.withdrawn == {"a": (0,)}
    assert Store(unlabelled).cases[0] == as_prepared


@pytest.mark.parametrize("moment", ["write", "before", "after"])
def test_a_killed_command_leaves_the_store_as_it_was_or_labelled(
    moment: str, unlabelled: Path, maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first label map, before the manifest is written, and after it is."""
    shutil.copytree(unlabelled, tmp_path / "expected")
    label(tmp_path / "expected", maps, **GIVEN)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    place = {"write": "count_labels", "before": "name_labels", "after": "tidy"}[moment]
    home = "poscon.store.labelling" if moment == "write" else "poscon.commands.label"
    with monkeypatch.context() as patch:
        patch.setattr("poscon.commands.label.tidy", killed)  # a killed process tidies nothing
        if moment != "after":
            calls = []
            original = getattr(__import__(home, fromlist=["x"]), place)

            def second(*arguments: object) -> object:
                calls.append(arguments)
                if moment == "before" or len(calls) == 2:
                    raise Killed
                return original(*arguments)

            patch.setattr(f"{home}.{place}", second)
        with pytest.raises(Killed):
            label(unlabelled, maps, **GIVEN)
    labelled = [case.id for case in Store(unlabelled).cases if case.labelled]
    assert labelled == (["a", "b"] if moment == "after" else [])
    label(unlabelled, maps, **GIVEN)
    same_labels(unlabelled, tmp_path / "expected")
    for name in "ab":
        files = {path.name for path in (unlabelled / "cases" / name).iterdir()}
        assert files == {"image.npy", "case.json", case_of(unlabelled, name)[0].label_file}


def test_predictions_are_not_taken_for_drawings(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    """They would replace what a person drew, and the model would learn from itself."""
    assert poscon("label", unlabelled, maps)[0] == 0
    predicted = tmp_path / "predicted"
    put(predicted / "a.nii.gz", drawn(), AFFINES["a"])
    (predicted / "predictions.json").write_text("{}")
    before = [case.stored_sha256 for case in Store(unlabelled).cases]
    code, _, err = poscon("label", unlabelled, predicted)
    assert code == 2
    assert "holds what poscon predict wrote (predictions.json), not what a person drew" in err
    assert [case.stored_sha256 for case in Store(unlabelled).cases] == before


def test_a_second_command_is_refused(unlabelled: Path, maps: Path, poscon: Run) -> None:
    with alone(unlabelled, "label"):
        code, out, err = poscon("label", unlabelled, maps, "--ignore-label", IGNORE)
    assert (code, out) == (2, "")
    assert "another poscon label is at work there" in err


def test_a_pre_training_stays_usable_and_an_unfinished_fine_tuning_does_not(
    scans: Path, unlabelled: Path, maps: Path, tmp_path: Path, power_cut: Callable[..., object]
) -> None:
    tiny = ["network.width=4", "network.levels=2", "size=8", "batch=4"]
    pretrain(unlabelled, tmp_path / "pre", epochs=1, settings=tiny)
    label(unlabelled, maps, **GIVEN)
    few = ["size=8", "batch=2", "checkpoint_every=1", "method=supervised"]
    with power_cut(Supervised, 2):
        finetune(unlabelled, tmp_path / "seg", init=tmp_path / "pre", iterations=4, settings=few)
    put(maps / "b.nii.gz", drawn(0, 1, 2), AFFINES["b"])
    label(unlabelled, maps, **GIVEN)
    with pytest.raises(PosconError, match=r"case 'b' has other labels than .* was started with"):
        finetune(unlabelled, tmp_path / "seg", resume=True)
    found = suggest(
        unlabelled, tmp_path / "next", budget=1, strategy="coverage", init=tmp_path / "pre"
    )
    assert len(found.slices) == 1


def ranges_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["case,class,first,last", *lines]) + "\n")
    return path


def test_ranges_are_added_with_label_maps_or_later(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    """B is stored the other way round; the numbers are those of its file."""
    first = ranges_file(tmp_path / "first.csv", "b,LV,1,6", "c,RV,,")
    label(unlabelled, maps, **GIVEN, ranges=first)
    assert {c.id: dict(c.ranges) for c in Store(unlabelled).cases} == {
        "a": {},
        "b": {"LV": (1, 6)},
        "c": {"RV": None},
    }
    before = {path: data for path, data in content(unlabelled).items() if "manifest" not in path}
    later = ranges_file(tmp_path / "later.csv", "b,RV,1,7", "c,RV,2,3")
    code, out, _ = poscon("label", unlabelled, "--ranges", later)
    assert code == 0
    assert "2 of 3 cases have ranges of structures" in out
    found = {c.id: dict(c.ranges) for c in Store(unlabelled).cases}
    flipped = case_of(unlabelled, "b")[0].geometry.flips[0]
    assert found["b"] == {"LV": (1, 6), "RV": (0, 6) if flipped else (1, 7)}
    assert found["c"] == {"RV": (2, 3)}
    assert before == {p: d for p, d in content(unlabelled).items() if "manifest" not in p}


def test_ranges_that_contradict_label_maps_change_nothing(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    wrong = ranges_file(tmp_path / "wrong.csv", "a,RV,4,4")
    words = "wrong.csv, case a: says that RV is in slices 4 to 4 only, but the label map has it in"
    given = ("--labels", "1=RV,2=LV", "--ignore-label", IGNORE)
    refused(unlabelled, maps, words, poscon, *given, "--ranges", wrong)
    label(unlabelled, maps, **GIVEN)
    label(unlabelled, ranges=ranges_file(tmp_path / "right.csv", "c,RV,0,2"))
    put(tmp_path / "more" / "c.nii.gz", drawn(), AFFINES["c"])
    words = "range of case c: says that RV is in slices 0 to 2 only"
    refused(unlabelled, tmp_path / "more", words, poscon)
    right = ranges_file(tmp_path / "right.csv", "c,RV,0,7")  # mended by the same command
    label(unlabelled, tmp_path / "more", ranges=right)
    assert dict(case_of(unlabelled, "c")[0].ranges) == {"RV": (0, 7)}


def test_ranges_without_label_maps_need_classes(
    unlabelled: Path, tmp_path: Path, poscon: Run
) -> None:
    code, _, err = poscon("label", unlabelled)
    assert (code, "nothing to do" in err) == (2, True)
    file = ranges_file(tmp_path / "ranges.csv", "a,RV,0,2")
    code, _, err = poscon("label", unlabelled, "--ranges", file)
    assert (code, "has no classes yet" in err) == (2, True)
    code, _, err = poscon("label", unlabelled, "--ranges", file, "--ignore-label", 255)
    assert (code, "--ignore-label: no effect without label maps" in err) == (2, True)


def refused(store: Path, maps: Path, words: str, poscon: Run, *options: object) -> None:
    before = content(store)
    code, out, err = poscon("label", store, maps, *options)
    assert (code, out) == (2, ""), err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert content(store) == before


def test_a_label_map_on_another_grid_is_refused(unlabelled: Path, maps: Path, poscon: Run) -> None:
    given = ("--ignore-label", IGNORE)
    a = maps / "a.nii.gz"
    put(a, drawn()[:, :, :7], AFFINES["a"])
    words = f"{a}: shape (12, 10, 7) differs from that of its image a.nii.gz, (12, 10, 8); fix"
    refused(unlabelled, maps, words, poscon, *given)
    moved = nib.load(put(a, drawn(), AFFINES["a"]))
    affine = moved.affine + np.array([[0, 0, 0, 2.0], *np.zeros((3, 4))])
    nib.save(nib.Nifti1Image(drawn(), affine), a)
    words = f"{a}: lies up to 2 mm from its image a.nii.gz (the affines differ); fix or leave out"
    refused(unlabelled, maps, words, poscon, *given)
    turned = nib.load(put(a, drawn(), AFFINES["a"])).as_reoriented([[1, 1], [0, -1], [2, 1]])
    nib.save(turned, a)
    words = f"{a}: has the voxels of its image a.nii.gz, but stores them along other axes"
    refused(unlabelled, maps, words, poscon, *given)
    put(a, drawn(), AFFINES["c"])
    refused(unlabelled, maps, "(the affines differ)", poscon, *given)
    put(maps / "b.nii.gz", drawn(), AFFINES["a"])
    refused(unlabelled, maps, "(and 1 more file(s) with errors)", poscon, *given)


def test_label_maps_that_cannot_be_used(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    given = ("--labels", "1=RV,2=LV", "--ignore-label", IGNORE)
    refused(unlabelled, tmp_path / "none", "no such folder; give the folder of the", poscon, *given)
    (tmp_path / "none").mkdir()
    refused(unlabelled, tmp_path / "none", "no label map in this folder", poscon, *given)
    refused(unlabelled, maps, "label value(s) 2 not declared", poscon, "--labels", "1=RV",
            "--ignore-label", IGNORE)  # fmt: skip
    refused(unlabelled, maps, "255 cannot mean", poscon, "--labels", "255=RV",
            "--ignore-label", IGNORE)  # fmt: skip
    for name in "ab":
        put(tmp_path / "closed" / f"{name}.nii.gz", drawn(*range(8)), AFFINES[name])
        put(tmp_path / "empty" / f"{name}.nii.gz", drawn() * 0, AFFINES[name])
    refused(unlabelled, tmp_path / "closed", "not one voxel of its label maps", poscon, *given)
    refused(unlabelled, tmp_path / "empty", "no label map has a structure", poscon)
    (maps / "labels.json").write_text('{"classes": [], "ignore": 9}')
    refused(unlabelled, maps, "says itself that 9 is the label of what is not", poscon, *given)
    (maps / "labels.json").write_text('{"classes": []}')
    refused(unlabelled, maps, "labels.json: expected", poscon, "--ignore-label", IGNORE)
    (maps / "labels.json").unlink()
    shutil.copy(maps / "a.nii.gz", maps / "z.nii.gz")
    refused(
        unlabelled, maps, "has no case 'z'; a label map has the name of its case", poscon, *given
    )
    shutil.copy(maps / "a.nii.gz", maps / "a.nii")
    refused(unlabelled, maps, "two files for the case 'a'", poscon, *given)


def test_other_classes_than_those_of_the_store_are_refused(
    unlabelled: Path, maps: Path, poscon: Run
) -> None:
    label(unlabelled, maps, **GIVEN)
    for other in ("1=RV", "1=RV,2=LV,3=MYO", "1=LV,2=RV"):
        words = f"--labels: the classes are {other}, but those of {unlabelled} are 1=RV,2=LV; give"
        refused(unlabelled, maps, words, poscon, "--labels", other, "--ignore-label", IGNORE)
    (maps / "labels.json").write_text('{"classes": [{"name": "RV", "values": [1]}]}')
    words = f"{maps}: the classes are 1=RV, but those"
    refused(unlabelled, maps, words, poscon, "--ignore-label", IGNORE)
    (maps / "labels.json").unlink()
    assert poscon("label", unlabelled, maps, "--labels", "2=LV,1=RV", "--ignore-label", 255)[0] == 0
    assert Store(unlabelled).class_names == ("RV", "LV")


def test_tables_that_do_not_fit(unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run) -> None:
    table = tmp_path / "table.csv"
    given = ("--ignore-label", IGNORE, "--suggestion", table)
    refused(unlabelled, maps, "table.csv: cannot be read", poscon, *given)
    table.write_text("case,slice\nz,0\n")
    refused(unlabelled, maps, "there is no case 'z' among those of", poscon, *given)
    table.write_text("case,slice\na,8\n")
    refused(unlabelled, maps, "case a has no slice 8, its slices are 0 to 7", poscon, *given)


def test_stores_that_cannot_be_labelled(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    given = ("--ignore-label", IGNORE)
    code, _, err = poscon("label", "s3://bucket/store", maps, *given)
    assert (code, "in a folder of this machine; copy it there" in err) == (2, True)
    code, _, err = poscon("label", tmp_path / "none", maps, *given)
    assert (code, "not a store" in err) == (2, True)
    assert not (tmp_path / "none").exists()
    image = unlabelled / "cases" / "b" / "image.npy"
    np.save(image, np.zeros_like(np.load(image)))
    refused(unlabelled, maps, "case b: its arrays are not those that were prepared", poscon, *given)
    manifest = json.loads((unlabelled / "manifest.json").read_text())
    for case in manifest["cases"]:
        del case["affine"], case["label_file"]
    (unlabelled / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 4}))
    refused(unlabelled, maps, "written by an earlier poscon, it does not say where", poscon, *given)


# One mask per organ in a folder per case


def put_masks(folder: Path, labels: np.ndarray, affine: np.ndarray, **organs: int) -> Path:
    for organ, value in organs.items():
        put(folder / f"{organ}.nii.gz", (labels == value).astype(np.uint8), affine)
    return folder


def test_masks_give_the_store_of_label_maps(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    """The classes have the names of the masks, sorted; as in the layout of TotalSegmentator."""
    for name, place in (("a", "a"), ("b", "b/segmentations")):
        whole = drawn()
        put_masks(tmp_path / "masks" / place, whole, AFFINES[name], RV=1, LV=2)
        put(maps / f"{name}.nii.gz", whole, AFFINES[name])
    shutil.copytree(unlabelled, tmp_path / "expected")
    (tmp_path / "masks" / "notes").mkdir()
    (tmp_path / "masks" / "notes" / "read.me").touch()
    code, out, _ = poscon("label", unlabelled, tmp_path / "masks")
    assert code == 0
    assert out.endswith("16 added, 0 changed; classes LV, RV\n")
    label(tmp_path / "expected", maps, labels="2=LV,1=RV")
    for name in "ab":
        (mine, stored), (theirs, expected) = (
            case_of(store, name) for store in (unlabelled, tmp_path / "expected")
        )
        np.testing.assert_array_equal(stored, expected)
        assert mine.stored_sha256 == theirs.stored_sha256
    assert case_of(unlabelled, "a")[0].source_label == str(tmp_path / "masks" / "a")


def test_masks_and_label_maps_of_a_store_with_classes(
    unlabelled: Path, maps: Path, tmp_path: Path
) -> None:
    label(unlabelled, maps, **GIVEN)
    put_masks(tmp_path / "more" / "c", drawn(), AFFINES["c"], RV=1, LV=2, spleen=3)
    put(tmp_path / "more" / "a.nii.gz", drawn(), AFFINES["a"])
    slices = tmp_path / "slices.csv"
    slices.write_text("case,slice\na,3\nc,2\nc,7\n")
    found = label(unlabelled, tmp_path / "more", labelled_slices=slices)
    assert found.added == {"c": (2, 7)}
    case, stored = case_of(unlabelled, "c")
    assert case.labelled_slices == (2, 7)
    np.testing.assert_array_equal(stored[2], drawn().transpose(2, 1, 0)[2])
    assert Store(unlabelled).class_names == ("RV", "LV")


def test_the_labelled_slices_of_masks_are_those_of_prepare(
    unlabelled: Path, tmp_path: Path
) -> None:
    """B runs downwards: the numbers are those of its file."""
    put_masks(tmp_path / "masks" / "b", drawn(), AFFINES["b"], RV=1, LV=2)
    slices = tmp_path / "slices.csv"
    slices.write_text("case,slice\nb,0\nb,1\n")
    label(unlabelled, tmp_path / "masks", labelled_slices=slices)
    case, stored = case_of(unlabelled, "b")
    assert case.labelled_slices == (6, 7)
    assert not stored[7].any()
    assert set(np.unique(stored[6])) == {0, 1, 2}
    found = label(unlabelled, tmp_path / "masks", labelled_slices="nonempty")
    assert found.added == {"b": (1, 2, 3, 4, 5)}


def test_masks_that_cannot_be_used(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    masks = tmp_path / "masks"
    (masks / "a").mkdir(parents=True)
    refused(unlabelled, masks, f"{masks / 'a'}: no mask in this folder", poscon)
    put_masks(masks / "a", drawn(), AFFINES["a"], RV=1, LV=2)
    words = "--ignore-label has no effect on a folder with one mask per organ; use --labelled-sl"
    refused(unlabelled, masks, words, poscon, "--ignore-label", 255)
    slices = tmp_path / "slices.csv"
    slices.write_text("case,slice\na,3\nb,3\n")
    options = ("--labelled-slices", slices)
    refused(
        unlabelled,
        masks,
        "slices.csv: names 1 case(s) that have no label map, such as b;",
        poscon,
        *options,
    )
    shutil.copy(maps / "b.nii.gz", masks)
    refused(unlabelled, masks, "b.nii.gz: nothing says what its values mean, but", poscon)
    (masks / "b.nii.gz").unlink()
    put_masks(masks / "z", drawn(), AFFINES["a"], RV=1, LV=2)
    refused(unlabelled, masks, "has no case 'z'; a label map has the name of its case", poscon)
    shutil.rmtree(masks / "z")
    shutil.copy(maps / "a.nii.gz", masks)
    refused(unlabelled, masks, "two files for the case 'a'", poscon)
    (masks / "a.nii.gz").unlink()
    put(masks / "a" / "LV.nii.gz", drawn(), AFFINES["a"])
    refused(unlabelled, masks, "LV.nii.gz: 3 values, but a mask has 0 and one other", poscon)
    put_masks(masks / "a", drawn(), AFFINES["a"], RV=1, LV=2)
    put(masks / "a" / "RV.nii.gz", (drawn() == 1).astype(np.uint8), AFFINES["b"])
    refused(unlabelled, masks, "RV.nii.gz: does not lie where LV.nii.gz does", poscon)
    put_masks(masks / "a", drawn(), AFFINES["a"], RV=1, LV=2)
    (masks / "a" / "LV.nii.gz").unlink()
    refused(unlabelled, masks, "no mask of 'LV'", poscon, "--labels", "1=RV,2=LV")


# Taking labels out


def test_a_removed_label_leaves_the_store_as_prepared(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    before = content(unlabelled)
    label(unlabelled, maps, **GIVEN)
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    code, out, _ = poscon("label", unlabelled, "--remove", names)
    assert code == 0
    assert out == (
        f"0 slice(s) of 0 subject(s) are labelled in {unlabelled}: 9 of 2 case(s) removed; "
        "classes none\n"
    )
    after = content(unlabelled)
    assert {name: after[name] for name in before} == before
    # a training that goes on reads the label maps that were there, until the next time
    assert len(after.keys() - before.keys()) == 2
    other = label(unlabelled, maps, labels="1=left,2=right", ignore_label=IGNORE)
    assert other.store.class_names == ("left", "right")
    assert len(content(unlabelled).keys() - before.keys()) == 2


def test_the_labels_of_other_cases_and_all_ranges_stay(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    label(unlabelled, maps, **GIVEN, ranges=ranges_file(tmp_path / "r.csv", "a,RV,0,7"))
    case, stored = case_of(unlabelled, "b")
    removed = label(unlabelled, remove=["a"])
    assert removed.removed == {"a": (0, 3, 4, 5, 6)}
    found = {record.id: record for record in Store(unlabelled).cases}
    assert [found[name].labelled for name in "abc"] == [False, True, False]
    assert dict(found["a"].ranges) == {"RV": (0, 7)}
    assert found["b"] == case
    np.testing.assert_array_equal(case_of(unlabelled, "b")[1], stored)
    assert Store(unlabelled).class_names == ("RV", "LV")
    code, out, _ = poscon("label", unlabelled, "--remove", "a", "--remove", "b")
    assert code == 0
    assert "4 of 1 case(s) removed; classes RV, LV" in out  # the range needs its class
    assert not any(oddity.kind == "damaged" for oddity in find_oddities(Store(unlabelled)))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_removal_leaves_all_labels_or_none(
    moment: str, unlabelled: Path, maps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(unlabelled, maps, **GIVEN)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    place = {"before": "name_labels", "after": "tidy"}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(f"poscon.commands.label.{place}", killed)
        with pytest.raises(Killed):
            label(unlabelled, remove=["a", "b"])
    labelled = [case.id for case in Store(unlabelled).cases if case.labelled]
    assert labelled == ([] if moment == "after" else ["a", "b"])
    label(unlabelled, remove=["a", "b"])
    for record in Store(unlabelled).cases:
        assert not record.labelled
        file = unlabelled / "cases" / record.id / "case.json"
        assert read_case(file) == record


def test_removals_that_are_refused(
    unlabelled: Path, maps: Path, tmp_path: Path, poscon: Run
) -> None:
    label(unlabelled, maps, **GIVEN)
    before = content(unlabelled)
    for options, words in (
        (("--remove", "z"), "1 name(s) are neither a case nor a subject of"),
        ((maps, "--remove", "a"), "--remove: takes labels out of the store; to add label maps"),
        (("--remove", "a", "--labels", "1=RV"), "--labels: no effect without label maps"),
        (("--remove", tmp_path / "none.json:key"), "cannot read the list of names"),
        (("--remove", tmp_path / "none.txt"), "none.txt: cannot read the list of names"),
    ):
        code, out, err = poscon("label", unlabelled, *options)
        assert (code, out) == (2, "")
        assert words in err
    image = unlabelled / "cases" / "b" / "image.npy"
    kept = np.load(image)
    np.save(image, np.zeros_like(kept))
    assert "case b: its arrays are not those" in poscon("label", unlabelled, "--remove", "b")[2]
    np.save(image, kept)
    assert content(unlabelled) == before
