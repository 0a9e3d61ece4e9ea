import csv
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from poscon.commands.align import align
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.suggest import COLUMNS, suggest
from poscon.errors import PosconError
from poscon.store.slices import read_slice_table
from poscon.store.store import Store
from poscon.suggestion import STRATEGIES
from poscon.volumes.case import IGNORE
from poscon.volumes.ranges import read_ranges
from poscon.volumes.scan import read_scan

OBLIQUE = Rotation.from_euler("xyz", (12, -9, 17), degrees=True).as_matrix()
AXES = {
    "axial": (np.diag([2.0, 2, 6]), 2),
    "turned": (np.array([[0, 2.0, 0], [-2, 0, 0], [0, 0, -6]]), 2),  # slices run downwards
    "sagittal": (np.array([[0, 0, -6.0], [2, 0, 0], [0, 2, 0]]), 2),
    "thick_first": (np.diag([6.0, 2, 2]), 0),
}
"""The directions of the file's axes, and the axis along which the slices lie."""


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Oblique scans in four orders of the axes, none with a label map."""
    folder = tmp_path_factory.mktemp("oblique")
    generator = np.random.default_rng(0)
    for name, (axes, slice_axis) in AXES.items():
        shape = [20, 24, 20]
        shape[slice_axis] = 9
        data = gaussian_filter(generator.standard_normal(shape), 2) * 1000
        affine = np.eye(4)
        affine[:3, :3] = OBLIQUE @ axes
        affine[:3, 3] = (-31, 12, 55)
        image = nib.Nifti1Image(data.astype(np.int16), affine)
        image.set_qform(affine, code=2)
        image.set_sform(affine, code=3)
        nib.save(image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def oblique_store(oblique: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oblique") / "store"
    prepare(oblique, path, spacing="native", layout="plain", processes=1)
    return path


@pytest.fixture(scope="module")
def partly(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The phantoms with two labelled subjects of five, and their store."""
    folder = tmp_path_factory.mktemp("partly")
    source = folder / "source"
    shutil.copytree(scans, source)
    for number in (1, 2, 4):
        (source / "labelsTr" / f"phantom_{number:03d}.nii.gz").unlink()
    content = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps({**content, "training": []}))
    prepare(source, folder / "store", spacing=6.0, processes=1)
    return source, folder / "store"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_that_gives_labels_back_can_be_pasted(
    oblique: Path, oblique_store: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "next slices"
    code, said, _ = poscon("suggest", oblique_store, out, "--budget", 2, "--source", oblique)
    assert code == 0
    command = said.partition("give them back: poscon ")[2].strip()
    code, said, err = poscon(*shlex.split(command))
    assert (code, said) == (2, "")
    assert "next slices/labels: no label map has a structure" in err  # nothing is drawn yet


def test_label_maps_are_open_at_the_chosen_slices_of_any_scan(
    oblique: Path, oblique_store: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    code, said, _ = poscon(
        "suggest", oblique_store, tmp_path / "out", "--budget", 14, "--source", oblique
    )
    assert code == 0
    assert "14 slice(s) of 4 subject(s)" in said
    rows = table(tmp_path / "out" / "suggestion.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["rank"]) for row in rows] == list(range(1, 15))
    assert {row["strategy"] for row in rows} == {"spread"}
    assert (tmp_path / "out" / "suggestion.png").read_bytes().startswith(b"\x89PNG")
    cases = {case.id: case for case in Store(oblique_store).cases}
    for name, (_, axis) in AXES.items():
        scan = nib.load(oblique / f"{name}.nii.gz")
        labels = nib.load(tmp_path / "out" / "labels" / f"{name}.nii.gz")
        np.testing.assert_array_equal(labels.affine, scan.affine)
        assert labels.shape == scan.shape
        assert (int(labels.header["qform_code"]), int(labels.header["sform_code"])) == (2, 3)
        assert labels.get_data_dtype() == np.uint8
        chosen = [row for row in rows if row["case"] == name]
        numbers = [int(row["file_slice"]) for row in chosen]
        values = np.moveaxis(np.asanyarray(labels.dataobj), axis, 0)
        closed = np.setdiff1d(np.arange(9), numbers)
        assert (values[numbers] == 0).all()
        assert (values[closed] == IGNORE).all()
        # what is open in the file is what was chosen in the store
        voxels = np.moveaxis(np.asanyarray(scan.dataobj), axis, 0)
        stored = Store(oblique_store).image(cases[name])
        for row in chosen:
            assert float(row["position"]) == pytest.approx((int(row["slice"]) + 1) / 9, abs=1e-5)
            here = np.sort(stored[int(row["slice"]), 0].ravel()).astype(float)
            there = np.sort(voxels.reshape(9, -1), axis=1)
            scaled = (there - voxels.mean()) / voxels.std()
            nearest = np.abs(scaled - here).mean(axis=1).argmin()
            assert nearest == int(row["file_slice"])


def test_what_was_drawn_is_labelled_and_the_next_round_goes_on(
    partly: tuple[Path, Path],
    scans: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    source, store = partly
    first = suggest(store, tmp_path / "first", budget=4, source=source)
    drawn = tmp_path / "drawn"
    shutil.copytree(source, drawn)
    truth = {}
    for path in first.label_maps:
        image = nib.load(path)
        labels = np.array(image.dataobj)
        truth[path.name] = np.asanyarray(nib.load(scans / "labelsTr" / path.name).dataobj)
        labels[labels == 0] = truth[path.name][labels == 0]
        nib.save(nib.Nifti1Image(labels, None, image.header), drawn / "labelsTr" / path.name)
    again = tmp_path / "again"
    options = ["--spacing", 6, "--processes", 1, "--ignore-label", IGNORE]
    code, _, complained = poscon("prepare", drawn, again, *options)
    assert code == 0, complained
    chosen = {(each.case, each.slice) for each in first.slices}
    records = {case.id: case for case in Store(again).cases}
    for name in {each.case for each in first.slices}:
        expected = sorted(number for case, number in chosen if case == name)
        assert records[name].labelled_slice_numbers.tolist() == expected

    second = suggest(again, tmp_path / "second", budget=4, source=drawn)
    whole = suggest(store, tmp_path / "whole", budget=8)
    assert [(e.case, e.slice) for e in second.slices] == [
        (e.case, e.slice) for e in whole.slices[4:]
    ]
    kept = 0
    for path in second.label_maps:
        before = np.asanyarray(nib.load(drawn / "labelsTr" / path.name).dataobj)
        labels = np.asanyarray(nib.load(path).dataobj)
        closed = labels == IGNORE
        known = before != IGNORE
        np.testing.assert_array_equal(labels[known], before[known])  # what was drawn stays
        assert not closed[known].any()
        assert not labels[~known & ~closed].any()
        kept += int((labels[known] > 0).sum())
    assert kept


def test_labels_of_two_files_stay_when_a_map_is_given_back(
    scans: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    """The last file given does not have the slices of the first; the store has both."""
    store, drawn, case = tmp_path / "store", tmp_path / "drawn", "phantom_000"
    (tmp_path / "first.csv").write_text(f"case,slice\n{case},10\n{case},11\n")
    prepare(scans, store, spacing=6.0, processes=1, labelled_slices=tmp_path / "first.csv")
    truth = nib.load(scans / "labelsTr" / f"{case}.nii.gz")
    labels = np.zeros(truth.shape, np.uint8)
    labels[:, :, 13] = np.asanyarray(truth.dataobj)[:, :, 13]
    drawn.mkdir()
    nib.save(nib.Nifti1Image(labels, truth.affine), drawn / f"{case}.nii.gz")
    assert poscon("label", store, drawn, "--labelled-slices", "nonempty")[0] == 0
    (record,) = (one for one in Store(store).cases if one.id == case)
    assert record.labelled_slice_numbers.tolist() == [10, 11, 13]
    before = Store(store).label(record)
    assert all(np.unique(before[n]).size > 1 for n in (10, 11, 13))

    found = suggest(store, tmp_path / "next", budget=2, source=scans, cases=[case])
    shown = np.asanyarray(nib.load(found.label_maps[0]).dataobj)
    assert (shown[:, :, (10, 11)] == IGNORE).all()
    np.testing.assert_array_equal(shown[:, :, 13], labels[:, :, 13])
    code, out, _ = poscon("label", store, tmp_path / "next" / "labels")
    assert code == 0
    assert "2 added, 0 changed" in out
    (record,) = (one for one in Store(store).cases if one.id == case)
    after = Store(store).label(record)
    np.testing.assert_array_equal(after[[10, 11, 13]], before[[10, 11, 13]])


def test_values_that_the_files_alone_know_are_not_labelled(scans: Path, tmp_path: Path) -> None:
    """The store was prepared with another value for "not labelled" than the map to fill in has."""
    source, case = tmp_path / "scans", "phantom_000"
    shutil.copytree(scans, source)
    path = source / "labelsTr" / f"{case}.nii.gz"
    truth = nib.load(path)
    labels = np.asanyarray(truth.dataobj).astype(np.uint8)
    labels[:8, :, 12] = 9
    labels[:, :, :11] = 9
    nib.save(nib.Nifti1Image(labels, truth.affine), path)
    prepare(source, tmp_path / "store", spacing="native", processes=1, ignore_label=9)
    (made,) = suggest(
        tmp_path / "store", tmp_path / "next", budget=1, source=source, cases=[case]
    ).label_maps
    shown = np.asanyarray(nib.load(made).dataobj)
    np.testing.assert_array_equal(
        shown[:, :, 11:], np.where(labels == 9, IGNORE, labels)[:, :, 11:]
    )


def test_the_value_for_not_labelled(partly: tuple[Path, Path], tmp_path: Path) -> None:
    source, store = partly
    found = suggest(store, tmp_path / "a", budget=1, source=source, ignore_label=9)
    assert set(np.unique(read_scan(found.label_maps[0]).data)) == {0, 9}
    found = suggest(store, tmp_path / "b", budget=1, source=source, ignore_label=300)
    assert set(np.unique(read_scan(found.label_maps[0]).data)) == {0, 300}
    stating = tmp_path / "stating"
    shutil.copytree(source, stating)
    content = json.loads((stating / "dataset.json").read_text())
    content["labels"] = {**content["labels"], "7": "ignore"}
    (stating / "dataset.json").write_text(json.dumps(content))
    found = suggest(store, tmp_path / "c", budget=1, source=stating)
    assert set(np.unique(read_scan(found.label_maps[0]).data)) == {0, 7}
    with pytest.raises(PosconError, match="--ignore-label 2: the value 2 cannot mean"):
        suggest(store, tmp_path / "d", budget=1, source=source, ignore_label=2)
    with pytest.raises(PosconError, match=r"--ignore-label 3000000000: .* no whole number from 0"):
        suggest(store, tmp_path / "d", budget=1, source=source, ignore_label=3_000_000_000)
    with pytest.raises(PosconError, match="--ignore-label: no effect without --source"):
        suggest(store, tmp_path / "d", budget=1, ignore_label=2)


def test_predictions_to_correct_are_those_of_predict(
    partly: tuple[Path, Path], finetuned: Path, tmp_path: Path
) -> None:
    source, store = partly
    found = suggest(store, tmp_path / "out", budget=4, model=finetuned, source=source)
    assert {each.subject for each in found.slices} <= {"phantom_001", "phantom_002", "phantom_004"}
    content = json.loads((tmp_path / "out" / "labels" / "labels.json").read_text())
    assert [c["name"] for c in content["classes"]] == ["lower", "middle", "upper", "tube"]
    for path in found.label_maps:
        (whole,) = predict(finetuned, source / "imagesTr" / path.name, tmp_path / path.name)
        labels, expected = read_scan(path).data, read_scan(whole).data
        is_open = labels != IGNORE
        assert 0 < is_open.mean() < 1
        # the store keeps pixels in half precision
        assert (labels == expected)[is_open].mean() > 0.995
    assert any((read_scan(path).data % IGNORE).any() for path in found.label_maps)


def test_ranges_to_fill_in(partly: tuple[Path, Path], tmp_path: Path) -> None:
    source, store = partly
    found = suggest(store, tmp_path / "out", budget=2, source=source)
    assert found.ranges == tmp_path / "out" / "ranges.csv"
    names, cases = Store(store).class_names, sorted({each.case for each in found.slices})
    assert [(row["case"], row["class"]) for row in table(found.ranges)] == [
        (case, name) for case in cases for name in names
    ]
    with pytest.raises(PosconError, match=r"ranges\.csv, line 2: first '\?' .* must be filled in"):
        read_ranges(found.ranges, names)
    found.ranges.write_text(found.ranges.read_text().replace("?,?", "1,2"))
    assert read_ranges(found.ranges, names) == {
        case: dict.fromkeys(names, (1, 2)) for case in cases
    }


def test_no_ranges_without_names_of_classes_or_without_scans(
    partly: tuple[Path, Path], oblique: Path, oblique_store: Path, tmp_path: Path
) -> None:
    assert suggest(oblique_store, tmp_path / "a", budget=1, source=oblique).ranges is None
    assert suggest(partly[1], tmp_path / "b", budget=1).ranges is None
    assert not list(tmp_path.glob("*/ranges.csv"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_chooses_what_is_not_labelled(
    name: str, partly: tuple[Path, Path], pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    _, store = partly
    given = {
        "init": pretrained if name in ("coverage", "typical", "hybrid") else None,
        "model": finetuned if name in ("uncertain", "hybrid") else None,
    }
    first = suggest(store, tmp_path / "a", budget=5, strategy=name, **given)
    again = suggest(store, tmp_path / "b", budget=5, strategy=name, **given)
    assert first.slices == again.slices
    assert first.label_maps == ()
    chosen = {(case, number) for case, ns in read_slice_table(first.table).items() for number in ns}
    assert chosen == {(each.case, each.slice) for each in first.slices}  # as finetune takes it
    assert len({(each.case, each.slice) for each in first.slices}) == 5
    labelled = {case.id for case in Store(store).cases if case.labelled}
    assert not labelled & {each.case for each in first.slices}


@pytest.mark.parametrize("strategy", [None, "random", "coverage", "typical"])
def test_whole_subjects(
    strategy: str | None, partly: tuple[Path, Path], pretrained: Path, tmp_path: Path
) -> None:
    source, store = partly
    init = pretrained if strategy in ("coverage", "typical") else None
    found = suggest(
        store,
        tmp_path / "out",
        budget=2,
        unit="subject",
        strategy=strategy,
        init=init,
        source=source,
    )
    subjects = {each.subject for each in found.slices}
    assert len(subjects) == 2
    assert {each.rank for each in found.slices} == {1, 2}
    shapes = {case.subject: case.shape[0] for case in Store(store).cases}
    assert len(found.slices) == sum(shapes[subject] for subject in subjects)
    assert len(found.label_maps) == 2
    assert not any(read_scan(path).data.any() for path in found.label_maps)


def test_frames_and_other_formats(tmp_path: Path) -> None:
    """A frame of a series has a 3-D label map; NRRD stays NRRD."""
    generator = np.random.default_rng(1)
    affine = np.diag([2.0, 2, 8, 1])
    (tmp_path / "in").mkdir()
    series = nib.Nifti1Image(generator.random((12, 14, 5, 3), np.float32), affine)
    nib.save(series, tmp_path / "in" / "cine.nii")
    still = SimpleITK.GetImageFromArray(generator.random((6, 14, 12)).astype(np.float32))
    still.SetSpacing((2, 2, 8))
    SimpleITK.WriteImage(still, str(tmp_path / "in" / "still.nrrd"))
    prepare(tmp_path / "in", tmp_path / "store", layout="plain", processes=1)
    found = suggest(tmp_path / "store", tmp_path / "out", budget=9, source=tmp_path / "in")
    names = {path.name for path in found.label_maps}
    assert "still.nrrd" in names
    frames = [path for path in found.label_maps if path.name.endswith(".nii.gz")]
    assert frames
    for path in frames:
        assert nib.load(path).shape == (12, 14, 5)
        np.testing.assert_array_equal(nib.load(path).affine, affine)
    labels = SimpleITK.ReadImage(str(tmp_path / "out" / "labels" / "still.nrrd"))
    assert labels.GetSpacing() == (2, 2, 8)
    assert set(np.unique(SimpleITK.GetArrayFromImage(labels))) == {0, IGNORE}


def test_cases_and_exclude_narrow_the_choice(partly: tuple[Path, Path], tmp_path: Path) -> None:
    _, store = partly
    found = suggest(
        store,
        tmp_path / "out",
        budget=3,
        cases=["phantom_001", "phantom_002", "phantom_003"],
        exclude=["phantom_002"],
    )
    assert {each.case for each in found.slices} == {"phantom_001"}


def test_suggestions_by_learned_positions(
    partly: tuple[Path, Path], tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    copied = tmp_path / "store"
    shutil.copytree(partly[1], copied)
    given = ("suggest", copied, tmp_path / "out", "--budget", 4, "--position", "learned")
    code, _, err = poscon(*given)
    assert code == 2
    assert "use poscon align first" in err
    assert not (tmp_path / "out").exists()
    align(copied)
    assert poscon(*given)[0] == 0
    rows = table(tmp_path / "out" / "suggestion.csv")
    assert len({row["subject"] for row in rows}) == 3
    cases = {case.id: case for case in Store(copied).cases}
    for row in rows:
        axis = cases[row["case"]].axis
        assert axis is not None
        step = (axis.last - axis.first) / (cases[row["case"]].shape[0] - 1)
        assert float(row["position"]) == pytest.approx(axis.first + step * int(row["slice"]), 1e-4)


def test_an_encoder_that_only_draws_is_said_to(
    partly: tuple[Path, Path],
    pretrained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, store = partly
    suggest(store, tmp_path / "out", budget=3, init=pretrained)
    assert "strategy spread does not choose by the encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", 100000], "slice(s) without labels are left to choose from; ask for fewer"),
        (["--budget", 4, "--unit", "subject"], "only 3 subject(s) without labels are left"),
        (["--budget", 2, "--unit", "case"], "--unit case: is unknown; write slice or subject"),
        (["--budget", 2, "--strategy", "sprad"], "did you mean 'spread'"),
        (["--budget", 2, "--strategy", ""], "strategy '' is unknown"),
        (["--budget", 2, "--device", "cpu"], "--device: no effect without --init or --model"),
        (["--budget", 2, "--strategy", "coverage"], "needs an encoder"),
        (["--budget", 2, "--strategy", "uncertain"], "needs a model"),
        (["--budget", 2, "--model", "{finetuned}"], "--model: no effect"),
        (["--budget", 2, "--unit", "subject", "--strategy", "ends"], "chooses by position"),
        (["--budget", 2, "--position", "left"], "--position left: is unknown"),
        (["--budget", 2, "--source", "nowhere"], "--source nowhere: no such folder"),
        (["--budget", 2, "--source", "{store}"], "dataset.json"),
        (["--budget", 2, "--model", "{pretrained}", "--source", "{source}"], "a pre-training run"),
        (["--budget", 2, "--init", "nowhere"], "nowhere: no such folder"),
        (["--budget", 2, "--exclude", "nowhere.txt"], "cannot read the list of names"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    options: list[object],
    words: str,
    partly: tuple[Path, Path],
    pretrained: Path,
    finetuned: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    source, store = partly
    places = {
        "{finetuned}": finetuned,
        "{pretrained}": pretrained,
        "{store}": store,
        "{source}": source,
    }
    given = [places.get(str(option), option) for option in options]
    code, said, complained = poscon("suggest", store, tmp_path / "out", *given)
    assert code == 2
    assert said == ""
    assert complained.count("\n") == 1
    assert words in complained
    assert not list(tmp_path.iterdir())


def test_more_refusals(
    partly: tuple[Path, Path], oblique_store: Path, finetuned: Path, tmp_path: Path
) -> None:
    source, store = partly
    suggest(store, tmp_path / "out", budget=1)
    with pytest.raises(PosconError, match="exists already; choose another folder"):
        suggest(store, tmp_path / "out", budget=1)
    with pytest.raises(PosconError, match="--budget 0: must be at least 1"):
        suggest(store, tmp_path / "new", budget=0)
    with pytest.raises(PosconError, match="in the folder of the scans"):
        suggest(store, source / "new", budget=1, source=source)
    with pytest.raises(PosconError, match=r"prepare the store with --spacing 6"):
        suggest(oblique_store, tmp_path / "new", budget=1, strategy="uncertain", model=finetuned)
    other = tmp_path / "other" / "imagesTr"
    other.mkdir(parents=True)
    shutil.copy(source / "dataset.json", tmp_path / "other")
    image = nib.load(source / "imagesTr" / "phantom_001.nii.gz")
    for number in range(5):  # the same names and shapes, another orientation
        flipped = np.diag([-1.0, -1, 1, 1]) @ image.affine
        data = np.asanyarray(image.dataobj)
        nib.save(nib.Nifti1Image(data, flipped), other / f"phantom_{number:03d}.nii.gz")
    with pytest.raises(PosconError, match="its shape or its orientation differs"):
        suggest(store, tmp_path / "new", budget=1, source=tmp_path / "other")
    for scan in other.iterdir():
        scan.rename(scan.with_name(f"other_{scan.name}"))
    with pytest.raises(PosconError, match="was prepared from it"):
        suggest(store, tmp_path / "new", budget=1, source=tmp_path / "other")
    other_classes = tmp_path / "classes.store"
    prepare(source, other_classes, labels="1=a,2=b,3=c,4=d", spacing=6.0, processes=1)
    with pytest.raises(PosconError, match="its classes are a, b, c, d, those of the model"):
        suggest(other_classes, tmp_path / "new", budget=1, model=finetuned, source=source)
    assert not (tmp_path / "new").exists()
