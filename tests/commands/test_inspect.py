import csv

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from poscon.commands.inspect import inspect, inspection_tables
from poscon.commands.prepare import prepare
from poscon.errors import PosconError

SHAPE = (16, 16, 10)
LABELS = "1=cone,2=ball"


def anatomy(shape=SHAPE, *, reverse=False, seed=0):
    """(X, Y, Z) label map: a class that widens towards the top, another one in the middle."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for z in range(1, shape[2] - 1):
        label[1:8, 1 : 2 + max(1, z * 10 // shape[2]) + rng.integers(2), z] = 1
    label[10:13, 4:8, shape[2] // 4 : shape[2] // 2] = 2
    return label[:, :, ::-1] if reverse else label


class Source:
    """A folder of scans in the plain layout, written case by case."""

    def __init__(self, folder):
        self.folder = folder
        self.n = 0

    def add(self, label=None, *, name=None, shape=SHAPE, spacing=(1.0, 1.0, 5.0), seed=None):
        seed = self.n if seed is None else seed
        name = name or f"p{self.n:02d}"
        self.n += 1
        shape = shape if label is None else label.shape
        voxels = np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)
        for kind, data in (("images", voxels), ("labels", label)):
            if data is not None:
                path = self.folder / "source" / kind / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1.0])), path)

    def add_usual(self, n=6, **how):
        for _ in range(n):
            self.add(anatomy(seed=self.n), **how)

    def prepare(self, **how):
        how = {"modality": "MR", "spacing": "native", **how}
        return prepare(self.folder / "source", self.folder / "store", processes=1, **how).path


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path)


def of_kind(inspection, kind):
    return {f.case: f.text for f in inspection.findings if f.kind == kind}


def shown(inspection):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*inspection_tables(inspection), sep="\n")
    return capture.get()


def test_nothing_odd(source):
    source.add_usual()
    source.add()
    store = source.prepare(labels=LABELS)
    inspection = inspect(store)
    assert inspection.oddities == []
    assert (inspection.cases, inspection.subjects) == (7, 7)
    assert (inspection.labelled_cases, inspection.labelled_subjects) == (6, 6)
    assert inspection.modalities == {"MR": 7}
    assert inspection.planes == {"axial": 7}
    assert (inspection.slices, inspection.slice_range) == (70, (10, 10))
    assert (inspection.row_range, inspection.column_range) == ((16, 16), (16, 16))
    assert (inspection.in_plane_mm, inspection.slice_mm) == ((1.0, 1.0), (5.0, 5.0))
    cone, ball = inspection.classes
    assert (cone.name, ball.name) == ("cone", "ball")
    assert (ball.cases, ball.voxels) == (6, 6 * 3 * 4 * 3)
    assert ball.ml == pytest.approx(ball.voxels * 5 / 1000)
    arrays = 7 * SHAPE[0] * SHAPE[1] * SHAPE[2] * 2
    labels = 6 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert inspection.stored_bytes == arrays + labels
    assert inspection.contact_sheet == store / "contact_sheet.png"
    assert inspection.contact_sheet.is_file()
    text = shown(inspection)
    assert "Nothing odd." in text
    assert "6 of 6 subjects" in text


def test_a_store_without_labels(source):
    source.add()
    inspection = inspect(source.prepare())
    assert (inspection.oddities, inspection.classes) == ([], ())
    assert "none" in shown(inspection)


def test_table_of_cases(source, tmp_path):
    source.add_usual(5)
    source.add(np.zeros(SHAPE, np.uint8), name="empty")
    source.add(name="unlabelled")
    store = source.prepare(labels=LABELS)
    inspection = inspect(store, tmp_path / "pictures" / "my.png")
    assert inspection.case_table == tmp_path / "pictures" / "my_cases.csv"
    with inspection.case_table.open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert (rows["p00"]["ball_ml"], rows["p00"]["odd"]) == ("0.18", "")
    assert (rows["empty"]["cone_ml"], rows["unlabelled"]["cone_ml"]) == ("0", "")
    assert rows["empty"]["odd"] == "labelled, but empty: its label map has no foreground"
    assert not (store / "contact_sheet.png").exists()


def test_long_stores_are_cut_short_on_the_terminal_only(source):
    for _ in range(23):
        source.add(np.zeros(SHAPE, np.uint8))
    inspection = inspect(source.prepare(labels=LABELS))
    assert len(inspection.oddities) == 24
    text = shown(inspection)
    assert "labelled, but empty (23)" in text
    assert "... and 13 more" in text
    assert "... and 3 more" in text


def test_damaged_arrays(source):
    source.add_usual()
    store = source.prepare(labels=LABELS)
    changed = store / "cases" / "p01" / "image.npy"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    (store / "cases" / "p02" / "label.npy").unlink()
    (store / "cases" / "p03" / "image.npy").write_bytes(b"")
    np.save(store / "cases" / "p04" / "image.npy", np.zeros((2, 2, 2), np.float16))
    damaged = of_kind(inspect(store), "damaged")
    assert sorted(damaged) == ["p01", "p02", "p03", "p04"]
    assert "hash differs" in damaged["p01"]
    assert "label.npy: cannot be read" in damaged["p02"]
    assert "image.npy: cannot be read" in damaged["p03"]
    assert "of shape (2, 2, 2), should be float16 of (10, 1, 16, 16)" in damaged["p04"]


def test_all_damaged(source):
    source.add()
    store = source.prepare()
    (store / "cases" / "p00" / "image.npy").unlink()
    with pytest.raises(PosconError, match="no case can be read"):
        inspect(store)


def test_same_scan_under_two_names(source):
    source.add(seed=1)
    source.add(seed=2)
    source.add(seed=1)
    twice = of_kind(inspect(source.prepare()), "the same scan twice")
    assert list(twice) == ["p02"]
    assert "the same scan as p00, but subject p02 and not p00" in twice["p02"]


@pytest.mark.parametrize(("n_reversed", "those"), [(1, ""), (3, " those of")])
def test_slices_that_run_the_other_way(source, n_reversed, those):
    source.add_usual(8 - n_reversed)
    for i in range(n_reversed):
        source.add(anatomy(reverse=True, seed=i), name=f"reversed{i}")
    inspection = inspect(source.prepare(labels=LABELS))
    other_way = of_kind(inspection, "slices that may run the other way")
    assert sorted(other_way) == [f"reversed{i}" for i in range(n_reversed)]
    usual = 8 - n_reversed
    assert f"against{those} {usual} of 8 scans" in other_way["reversed0"]


def test_no_direction_is_seen_where_there_is_none(source):
    rng = np.random.default_rng(0)
    for _ in range(20):
        label = np.zeros((16, 16, 30), np.uint8)
        for c in (1, 2, 3):
            low = rng.integers(0, 25)
            label[c * 4 : c * 4 + 3, :8, low : low + rng.integers(1, 5)] = c
        source.add(label)
    inspection = inspect(source.prepare())
    assert not of_kind(inspection, "slices that may run the other way")


def test_symmetric_labels_have_no_direction(source):
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 4:8, 2:8] = 1
    for _ in range(6):
        source.add(label)
    assert inspect(source.prepare()).oddities == []


def test_missing_class(source):
    source.add_usual()
    source.add(np.where(anatomy() == 2, 0, anatomy()), name="without")
    missing = of_kind(inspect(source.prepare(labels=LABELS)), "a class is missing")
    assert missing == {"without": "ball is missing; 6 of 7 annotated cases have it"}


def test_a_class_that_many_lack_is_not_missed(source):
    source.add_usual(4)
    for _ in range(3):
        source.add(np.where(anatomy() == 2, 0, anatomy()))
    assert not of_kind(inspect(source.prepare(labels=LABELS)), "a class is missing")


def test_a_class_in_one_case(source):
    """A slip of the pen, or another value for a structure."""
    source.add_usual(5)
    slip = anatomy(seed=9)
    slip[0, 0, :3] = 40
    source.add(slip, name="slip")
    found = of_kind(inspect(source.prepare()), "a class in one case")
    assert found == {"slip": "the only one of 6 annotated cases with class_40 (3 stored voxels)"}


def test_unusual_volume(source):
    source.add_usual()
    label = anatomy()
    label[9:15, 1:15, :] = 2
    source.add(label, name="large")
    unusual = of_kind(inspect(source.prepare(labels=LABELS)), "an unusual volume")
    assert unusual == {"large": "ball has 4.2 ml, the median is 0.18 ml"}


def test_few_slices(source):
    source.add(shape=(16, 16, 3))
    source.add(shape=(16, 16, 4))
    assert list(of_kind(inspect(source.prepare()), "few slices")) == ["p00"]


def test_unusual_geometry(source):
    for _ in range(4):
        source.add()
    source.add(spacing=(1.0, 1.0, 11.0), name="thick")
    source.add(spacing=(2.5, 2.5, 5.0), name="wide")
    inspection = inspect(source.prepare())
    assert of_kind(inspection, "an unusual slice spacing") == {
        "thick": "slices 11 mm apart, the median is 5 mm"
    }
    assert of_kind(inspection, "an unusual extent in plane") == {
        "wide": "a slice measures 40 x 40 mm, the median is 16 x 16 mm"
    }


def test_mixed_planes(source):
    source.add()
    source.add(spacing=(1.0, 5.0, 1.0))
    inspection = inspect(source.prepare())
    (text,) = inspection.oddities
    assert text == (
        "axial in 1 (such as p00), coronal in 1 (such as p01); choose one with prepare --plane"
    )
    assert inspection.planes == {"axial": 1, "coronal": 1}


def test_stated_spacing_is_said_once(source):
    source.add()
    source.add()
    inspection = inspect(source.prepare(source_spacing=(1.0, 1.0, 8.0)))
    assert inspection.oddities == ["that of 2 of 2 cases was stated by --source-spacing"]


def test_replaces_its_own_files_and_no_others(source, tmp_path):
    source.add()
    store = source.prepare()
    inspect(store)
    inspection = inspect(store)
    assert not [path for path in store.iterdir() if path.name.startswith(".")]
    inspection.case_table.write_text("my,notes\n")
    with pytest.raises(PosconError, match="no table of poscon"):
        inspect(store)
    assert inspection.case_table.read_text() == "my,notes\n"
    with pytest.raises(PosconError, match=r"ends in \.png"):
        inspect(store, tmp_path / "sheet.jpg")


def test_real_scans_that_run_the_other_way(shared_data, tmp_path):
    """Told from the pictures: these five of forty subjects run from base to apex."""
    store = prepare(shared_data / "mms", tmp_path / "store").path
    other_way = of_kind(inspect(store), "slices that may run the other way")
    subjects = {case.split("_")[0] for case in other_way}
    assert subjects == {"A0S9V9", "A1E9Q1", "A4B5U4", "B8J7R4", "C6J5P1"}
    assert len(other_way) == 10


def test_padded_cases_are_listed(source):
    source.add_usual()
    volume = np.random.default_rng(3).normal(-900, 10, SHAPE).astype(np.int16)
    volume[:4] = -2000
    path = source.folder / "source" / "images" / "padded.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.diag([1, 1, 5, 1])), path)
    inspection = inspect(source.prepare(labels=LABELS, modality="CT"))
    assert list(of_kind(inspection, "padded")) == ["padded"]
    assert "25.0% of the voxels are padding" in of_kind(inspection, "padded")["padded"]


def test_what_was_passed_over_is_shown(source):
    source.add_usual()
    (source.folder / "source" / "notes.txt").write_text("notes")
    (source.folder / "source" / "gone").symlink_to(source.folder / "nowhere")
    text = shown(inspect(source.prepare(labels=LABELS)))
    assert "passed over: 1 file(s) of another kind (.txt): notes.txt" in text
    assert "passed over: 1 out of reach, a link to nothing: gone" in text
