"""``poscon.prepare`` on small files of known content, interrupted, on wrong files and real ones."""

import gzip
import json
import shutil
import unicodedata
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import poscon.commands.prepare as module
from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.files import alone
from poscon.positions import relative_positions
from poscon.store.manifest import Preparation
from poscon.store.preparation import case_geometry, prepare_image, read_case_volumes
from poscon.store.store import Store
from poscon.volumes.case import Case
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.scan import read_header

SHAPE = (9, 8, 5)  # of a volume in RAS+
SPACING = (1.5, 1.25, 6.0)
AFFINE = np.array([[1.4, -0.2, 0.3, -40], [0.2, 1.2, 0.1, 25], [-0.1, 0, 6.0, 7], [0, 0, 0, 1]])
CODES = [
    "".join("LRPAIS"[2 * axis + sign] for axis, sign in zip(order, signs, strict=True))
    for order in permutations(range(3))
    for signs in product((0, 1), repeat=3)
]


def scan(seed=0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 80, shape).round().astype(np.int16)


def segmentation(shape=SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[1:5, 2:6, 1:4] = 1
    labels[4:8, 1:6, 2:5] = 3
    return labels


def put(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def put_as(path: Path, code: str, voxels: np.ndarray) -> Path:
    """A RAS+ volume written in another of the 48 axis orders."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
    )
    moved = nib.orientations.apply_orientation(voxels, turn)
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, voxels.shape)
    return put(path, np.ascontiguousarray(moved), affine)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three labelled cases."""
    folder = tmp_path / "scans"
    for seed, name in enumerate(["a", "b", "c"]):
        put(folder / f"{name}.nii.gz", scan(seed))
        put(folder / f"{name}_seg.nii.gz", segmentation())
    return folder


def refusal(*args, **kwargs) -> str:
    with pytest.raises(PosconError) as caught:
        prepare(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is stored


def test_what_is_stored_is_the_normalised_stack(source, tmp_path):
    store = prepare(source, tmp_path / "store", spacing="native")
    assert [case.id for case in store.cases] == ["a", "b", "c"]
    case, volume = store.cases[1], scan(1).astype(float)
    expected = ((volume - volume.mean()) / volume.std()).transpose(2, 1, 0)
    image, label = store.image(case)[:, 0], store.label(case)
    assert image.dtype == np.float16
    np.testing.assert_allclose(image, expected, atol=2e-3)
    classes = np.select([segmentation() == 1, segmentation() == 3], [1, 2])
    np.testing.assert_array_equal(label, classes.transpose(2, 1, 0))
    assert store.class_names == ("class_1", "class_3")
    assert [c.values for c in store.manifest.classes] == [(1,), (3,)]
    assert case.shape == image.shape == (5, 8, 9)
    assert case.spacing == pytest.approx((6.0, 1.25, 1.5))
    np.testing.assert_array_equal(case.positions, relative_positions(5))
    assert case.class_voxels == tuple(np.bincount(label.ravel(), minlength=3)[1:])
    assert (case.source, case.source_label) == ("b.nii.gz", "b_seg.nii.gz")
    assert case.channels[0].intensity.mean == pytest.approx(volume.mean())
    assert store.manifest.preparation == Preparation(
        plane="auto", spacing=None, source_spacing=None, modality=None
    )


def test_the_folder_holds_the_store_and_nothing_else(source, tmp_path):
    prepare(source, tmp_path / "store")
    files = set(content(tmp_path / "store"))
    cases = {f"cases/{c}/{f}" for c in "abc" for f in ("image.npy", "label.npy", "case.json")}
    assert files == {"manifest.json"} | cases


def test_preparing_twice_gives_the_same_bytes(source, tmp_path):
    prepare(source, tmp_path / "one")
    prepare(source, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_processes_do_not_change_the_result(source, tmp_path):
    prepare(source, tmp_path / "one", processes=1)
    prepare(source, tmp_path / "two", processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize(
    ("processes", "voxels", "started"),
    [(None, 10**9, False), (None, 1, True), (1, 1, False), (2, 10**9, True)],
)
def test_processes_are_started_where_there_is_work_for_them(
    source, tmp_path, monkeypatch, processes, voxels, started
):
    seen = []
    original = module._prepare_cases

    def recording(told, done, workers):
        seen.append(workers is not None)
        return original(told, done, None)

    monkeypatch.setattr(module, "_prepare_cases", recording)
    monkeypatch.setattr(module, "_WORTH_PROCESSES", voxels)
    prepare(source, tmp_path / "store", processes=processes)
    assert seen == [started]


@pytest.mark.slow
def test_nor_does_ray(source, tmp_path, monkeypatch):
    """Relative paths, a bad file, and what is not finished done by another run."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (poscon[cluster])")
    prepare(source, tmp_path / "one", processes=1)
    put(source / "b.nii.gz", np.full(SHAPE, np.nan, np.float32))
    monkeypatch.chdir(tmp_path)
    message = refusal("scans", "two", engine="ray")
    assert message.startswith(f"{source / 'b.nii.gz'}: ")
    assert {path.name for path in Path("two/cases").iterdir()} == {"a", "c"}
    assert not ray.is_initialized()
    put(source / "b.nii.gz", scan(1))
    before = Path("two/cases/a/image.npy").stat()
    prepare("scans", "two", engine="ray")
    assert Path("two/cases/a/image.npy").stat() == before
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_no_cluster_leaves_nothing(source, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (poscon[cluster])")
    told = {"engine": "ray", "address": "127.0.0.1:1"}
    message = refusal(source, tmp_path / "store", **told)
    assert message.startswith("--address 127.0.0.1:1: no Ray cluster there")
    assert not (tmp_path / "store").exists()


def test_the_axis_order_of_the_file_does_not_matter(tmp_path):
    """One volume in all 48 orders: the same stored bytes, the same hash, the same record."""
    for code in CODES:
        put_as(tmp_path / "scans" / f"{code}.nii", code, scan())
        put_as(tmp_path / "scans" / f"{code}_seg.nii", code, segmentation())
    store = prepare(tmp_path / "scans", tmp_path / "store", spacing=1.0, processes=1)
    assert len(store.cases) == 48
    assert len({case.stored_sha256 for case in store.cases}) == 1
    assert len({case.pixels_sha256 for case in store.cases}) == 1
    first = store.cases[0]
    for case in store.cases[1:]:
        assert store.image(case).tobytes() == store.image(first).tobytes()
        assert store.label(case).tobytes() == store.label(first).tobytes()
        assert case.channels[0].intensity == first.channels[0].intensity
        assert case.class_voxels == first.class_voxels
        assert case.spacing == pytest.approx(first.spacing)
        assert case.geometry.plane == "axial"


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_prepare_image_is_exactly_equal_for_every_axis_order(tmp_path, modality):
    stacks, records = [], []
    shape = (23, 19, 11)  # sums of this many values depend on their order
    for code in CODES[::5]:
        path = put_as(tmp_path / "a.nii", code, scan(0, shape).astype(np.float32) + 0.1)
        case, preparation = (
            Case("a", "a", path),
            Preparation(plane="auto", spacing=1.0, source_spacing=None, modality=None),
        )
        geometry = case_geometry(read_header(path), preparation)
        stack, (record,) = prepare_image(
            read_case_volumes(case), geometry, 1.0, [modality], "a scan"
        )
        stacks.append(stack.tobytes())
        records.append(record)
    assert len(set(stacks)) == 1
    assert all(record == records[0] for record in records)


def test_hashes_tell_scans_apart(tmp_path):
    changed = scan()
    changed[3, 3, 3] += 1
    put(tmp_path / "scans" / "a.nii", scan())
    put(tmp_path / "scans" / "another_name.nii.gz", scan().astype(np.float32))
    put(tmp_path / "scans" / "changed.nii", changed)
    put(tmp_path / "scans" / "mirrored.nii", scan()[::-1].copy())
    store = prepare(tmp_path / "scans", tmp_path / "store")
    a, another, other, mirrored = (case.pixels_sha256 for case in store.cases)
    assert a == another
    assert len({a, other, mirrored}) == 3


def test_plane(source, tmp_path):
    store = prepare(source, tmp_path / "store", plane="sagittal", spacing="native")
    case = store.cases[0]
    assert case.shape == (9, 5, 8)
    assert case.spacing == pytest.approx((1.5, 6.0, 1.25))
    assert case.geometry.plane == "sagittal"


@pytest.mark.parametrize("mm", [0.7, 1.0, 2.5])
def test_spacing(source, tmp_path, mm):
    store = prepare(source, tmp_path / "store", spacing=mm)
    case = store.cases[0]
    assert case.shape == (5, round(8 * 1.25 / mm), round(9 * 1.5 / mm))
    rows, columns = case.shape[1:]
    assert case.spacing == pytest.approx((6.0, 8 * 1.25 / rows, 9 * 1.5 / columns))
    assert store.image(case)[:, 0].shape == store.label(case).shape == case.shape
    assert set(np.unique(store.label(case))) == {0, 1, 2}


def test_automatic_spacing_is_the_median(tmp_path):
    for name, mm in {"a": 1.0, "b": 1.2, "c": 2.0}.items():
        put(tmp_path / "scans" / f"{name}.nii", scan(), np.diag([mm, mm, 8, 1]))
    store = prepare(tmp_path / "scans", tmp_path / "store")
    assert store.manifest.preparation.spacing == pytest.approx(1.2)
    assert [case.shape[1:] for case in store.cases] == [(7, 8), (8, 9), (13, 15)]


def test_nearly_equal_spacing_needs_no_resampling(tmp_path):
    for name, mm in {"a": 1.0, "b": 1.001}.items():
        put(tmp_path / "scans" / f"{name}.nii", scan(), np.diag([mm, mm, 8, 1]))
    store = prepare(tmp_path / "scans", tmp_path / "store")
    assert store.manifest.preparation.spacing == pytest.approx(1.0005)  # for scans to come
    assert all(case.shape == (5, 8, 9) for case in store.cases)


def test_labels_never_mix_classes(tmp_path):
    """1 borders on 3 everywhere; 2, declared but absent, must not come up between them."""
    labels = np.ones((16, 16, 3), np.uint8)
    labels[:, ::2] = 3
    labels[8:] = 4 - labels[8:]
    put(tmp_path / "scans" / "a.nii", scan(0, labels.shape), np.diag([1, 1, 5, 1]))
    put(tmp_path / "scans" / "a_seg.nii", labels, np.diag([1, 1, 5, 1]))
    for mm in (0.6, 1.7, 3.1):
        store = prepare(
            tmp_path / "scans", tmp_path / f"store-{mm}", spacing=mm, labels="1=A,2=B,3=C"
        )
        case = store.cases[0]
        assert set(np.unique(store.label(case))) <= {1, 3}
        assert case.class_voxels[1] == 0


def test_declared_labels_decide_names_and_order(source, tmp_path):
    store = prepare(source, tmp_path / "store", labels="3=LV,1=RV", spacing="native")
    assert store.class_names == ("LV", "RV")
    label = store.label(store.cases[0])
    np.testing.assert_array_equal(label == 1, (segmentation() == 3).transpose(2, 1, 0))


def test_ct_is_clipped_mr_is_not(tmp_path):
    volume = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.int16)
    volume[0, 0, 0] = 20000
    put(tmp_path / "scans" / "a.nii", volume)
    ct = prepare(tmp_path / "scans", tmp_path / "ct", modality="CT", spacing="native")
    mr = prepare(tmp_path / "scans", tmp_path / "mr", modality="MR", spacing="native")
    guessed = prepare(tmp_path / "scans", tmp_path / "guessed", spacing="native")
    low, high = np.percentile(volume, (1, 99))
    intensity = ct.cases[0].channels[0].intensity
    assert (intensity.low, intensity.high) == pytest.approx((low, high))
    clipped = volume.clip(low, high)
    expected = ((clipped - clipped.mean()) / clipped.std()).transpose(2, 1, 0)
    np.testing.assert_allclose(ct.image(ct.cases[0])[:, 0], expected, atol=3e-3)
    assert mr.cases[0].channels[0].intensity.low is None
    assert mr.image(mr.cases[0]).max() > 15
    assert guessed.cases[0].channels[0].intensity == intensity  # it goes below -200
    for store in (ct, mr):
        image = store.image(store.cases[0]).astype(float)
        assert image.mean() == pytest.approx(0, abs=1e-3)
        assert image.std() == pytest.approx(1, abs=1e-3)


def test_a_case_without_labels_among_others(source, tmp_path):
    (source / "b_seg.nii.gz").unlink()
    store = prepare(source, tmp_path / "store")
    assert [case.labelled for case in store.cases] == [True, False, True]
    assert store.cases[1].class_voxels is None
    assert not (tmp_path / "store/cases/b/label.npy").exists()
    with pytest.raises(PosconError, match=r"b/label\.npy"):
        store.label(store.cases[1])


def test_how_many_label_maps_were_found_and_what_they_hold_is_said(source, tmp_path, poscon):
    """A label map that was not found, and a value that is a slip, are seen at once."""
    (source / "b_seg.nii.gz").unlink()
    odd = segmentation()
    odd[0, 0, 0] = 40
    put(source / "c_seg.nii.gz", odd)
    out = poscon("prepare", source, tmp_path / "store")[1]
    assert "2 of 3 cases have a label map; classes class_1, class_3, class_40" in out
    for path in source.glob("*_seg.nii.gz"):
        path.unlink()
    out = poscon("prepare", source, tmp_path / "none")[1]
    assert "0 of 3 cases have a label map\n" in out


def test_a_value_that_cannot_be_a_label_names_its_file(source, tmp_path):
    odd = segmentation().astype(np.int16)
    odd[0, 0, 0] = -1
    put(source / "b_seg.nii.gz", odd)
    message = refusal(source, tmp_path / "store")
    assert message.startswith(f"{source / 'b_seg.nii.gz'}: -1 is no whole number from 0")
    ignored = prepare(source, tmp_path / "ignored", ignore_label=-1)
    assert ignored.class_names == ("class_1", "class_3")


def test_names_that_a_mac_has_taken_apart(tmp_path):
    """An accent may be a character of its own in a file name; it looks the same."""
    whole, apart = (unicodedata.normalize(form, "Mü") for form in ("NFC", "NFD"))
    assert whole != apart
    put(tmp_path / "scans" / "images" / f"{whole}.nii.gz", scan(0))
    put(tmp_path / "scans" / "labels" / f"{apart}.nii.gz", segmentation())
    put(tmp_path / "scans" / "images" / "b.nii.gz", scan(1))
    opened = prepare(tmp_path / "scans", tmp_path / "store")
    assert {case.subject: case.labelled for case in opened.cases} == {whole: True, "b": False}


def test_a_case_a_frame(tmp_path):
    series = np.stack([scan(seed) for seed in range(3)], axis=-1)
    put(tmp_path / "scans" / "cine.nii.gz", series)
    put(tmp_path / "scans" / "still.nii.gz", scan(1))
    store = prepare(tmp_path / "scans", tmp_path / "store")
    *frames, still = store.cases
    assert [case.id for case in frames] == ["cine_frame01", "cine_frame02", "cine_frame03"]
    assert {case.subject for case in frames} == {"cine"}
    assert [case.frame_index for case in frames] == [0, 1, 2]
    np.testing.assert_array_equal(store.image(frames[1]), store.image(still))
    assert frames[1].pixels_sha256 == still.pixels_sha256
    assert len({case.pixels_sha256 for case in frames}) == 3


def test_reversed_cases(source, tmp_path):
    names = tmp_path / "reversed.txt"
    names.write_text("b  # head first\n")
    straight = prepare(source, tmp_path / "straight")
    turned = prepare(source, tmp_path / "turned", reverse=names)
    for here, there in zip(straight.cases, turned.cases, strict=True):
        step = -1 if here.id == "b" else 1
        np.testing.assert_array_equal(turned.image(there), straight.image(here)[::step])
        np.testing.assert_array_equal(turned.label(there), straight.label(here)[::step])
        np.testing.assert_array_equal(there.positions, here.positions)
        assert there.pixels_sha256 == here.pixels_sha256
    names.write_text("b\nd\n")
    message = refusal(source, tmp_path / "other", reverse=names)
    assert "1 name(s)" in message
    assert ": d" in message
    assert not (tmp_path / "other").exists()


def test_stated_spacing_replaces_the_headers(tmp_path):
    put(tmp_path / "scans" / "a.nii", scan(), np.eye(4))
    store = prepare(
        tmp_path / "scans", tmp_path / "store", source_spacing=(8.0, 2.0, 1.0), spacing=1.0
    )
    case = store.cases[0]
    assert case.geometry.plane == "sagittal"
    assert case.shape == (9, 5, 16)
    assert case.spacing == pytest.approx((8.0, 1.0, 1.0))
    assert case.spacing_from == "user"
    assert store.manifest.preparation.source_spacing == (8.0, 2.0, 1.0)
    headers = prepare(tmp_path / "scans", tmp_path / "headers")
    assert headers.cases[0].spacing_from == "header"


def test_recipe_and_settings(source, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("prepare: {spacing: 2.0, plane: coronal, modality: CT}")
    store = prepare(
        source, tmp_path / "store", recipe=str(recipe), settings=["plane=axial"], modality="MR"
    )
    assert store.manifest.preparation == Preparation(
        plane="axial", spacing=2.0, source_spacing=None, modality="MR"
    )


# Interruption


def finishing(monkeypatch, stop_at: str, error: BaseException) -> list[str]:
    """Let the preparation of one case fail; returns the ids of those that were worked on."""
    done: list[str] = []
    original = module.prepare_case

    def prepare_case(job, case, header, reverse):
        done.append(case.id)
        if case.id == stop_at:
            part = job.store / "cases" / f".writing-{case.id}-1"
            part.mkdir(parents=True, exist_ok=True)
            (part / "image.npy").write_bytes(b"half")
            raise error
        original(job, case, header, reverse)

    monkeypatch.setattr(module, "prepare_case", prepare_case)
    return done


def test_an_interrupted_preparation_is_completed(source, tmp_path, monkeypatch):
    target = tmp_path / "store"
    with monkeypatch.context() as patch:
        assert finishing(patch, "b", KeyboardInterrupt()) == []
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target)
    with pytest.raises(PosconError, match=r"store: an unfinished store; run the same") as caught:
        Store(target)
    assert "\n" not in str(caught.value)
    before = (target / "cases/a/image.npy").stat()
    with monkeypatch.context() as patch:
        worked_on = finishing(patch, "nobody", RuntimeError())
        store = prepare(source, target)
    assert worked_on == ["b", "c"]
    after = (target / "cases/a/image.npy").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [case.id for case in store.cases] == ["a", "b", "c"]
    prepare(source, tmp_path / "at_once")
    assert content(target) == content(tmp_path / "at_once")


@pytest.mark.parametrize(
    "other",
    [
        {"spacing": 3.0},
        {"plane": "coronal"},
        {"modality": "CT"},
        {"labels": "1=A,3=B"},
        {"source_spacing": (1.0, 1.0, 2.0)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_an_unfinished_store_of_other_settings_is_left_alone(source, tmp_path, monkeypatch, other):
    target = tmp_path / "store"
    with monkeypatch.context() as patch:
        finishing(patch, "b", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target)
    before = content(target)
    assert "an unfinished store with other settings" in refusal(source, target, **other)
    assert content(target) == before


def test_what_has_changed_since_is_prepared_again(source, tmp_path, monkeypatch):
    """Files come, go and are mended between two attempts; the store is as if made at once."""
    with monkeypatch.context() as patch:
        finishing(patch, "c", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "store")
    put(source / "a.nii.gz", scan(5))
    (source / "b.nii.gz").unlink()
    (source / "b_seg.nii.gz").unlink()
    put(source / "d.nii.gz", scan(7))
    (tmp_path / "reverse.txt").write_text("c")
    told = {"reverse": tmp_path / "reverse.txt"}
    resumed = prepare(source, tmp_path / "store", **told)
    anew = prepare(source, tmp_path / "anew", **told)
    assert resumed.manifest == anew.manifest
    assert content(tmp_path / "store") == content(tmp_path / "anew")


def test_one_bad_file_does_not_stop_the_others(source, tmp_path):
    """Everything that can be prepared is; what cannot is named; nothing pretends to be a store."""
    put(source / "b.nii.gz", np.full(SHAPE, 7, np.int16))
    target = tmp_path / "store"
    message = refusal(source, target)
    assert message.startswith(f"{source / 'b.nii.gz'}: every voxel has the value 7")
    assert sorted(p.name for p in (target / "cases").iterdir()) == ["a", "c"]
    with pytest.raises(PosconError, match="unfinished"):
        Store(target)


def test_all_bad_files_are_counted(source, tmp_path):
    for name in "ab":
        put(source / f"{name}.nii.gz", np.full(SHAPE, 7, np.int16))
    message = refusal(source, tmp_path / "store")
    assert "a.nii.gz" in message
    assert message.endswith("(and 1 more file(s) with errors)")


# Refusals


def single(tmp_path: Path, image, label=None, label_affine=None) -> Path:
    folder = tmp_path / "scans"
    put(folder / "a.nii.gz", image)
    if label is not None:
        put(folder / "a_seg.nii.gz", label, label_affine)
    return folder


def refused_at_once(source: Path, file: str, **kwargs) -> str:
    """The message names the file, and there is no store, not even an empty folder."""
    target = source.parent / "store"
    message = refusal(source, target, **kwargs)
    assert message.startswith(f"{source / file}: ")
    assert not target.exists()
    return message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path, value):
    volume = scan().astype(np.float32)
    volume[1, 1, 1] = value
    assert "1 voxel(s) are NaN" in refused_at_once(single(tmp_path, volume), "a.nii.gz")


@pytest.mark.parametrize("value", [0, -1024, 7])
def test_a_constant_volume(tmp_path, value):
    volume = np.full(SHAPE, value, np.int16)
    assert "every voxel" in refused_at_once(single(tmp_path, volume), "a.nii.gz")


def test_a_constant_frame_is_named(tmp_path):
    series = np.stack([scan(), scan() * 0 + 5], axis=-1)
    message = refusal(single(tmp_path, series), tmp_path / "store")
    assert message.startswith(f"{tmp_path / 'scans/a.nii.gz'} (a_frame02): every voxel")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("file", ["a.nii.gz", "a_seg.nii.gz"])
def test_a_file_that_is_cut_off(tmp_path, share, file):
    folder = single(tmp_path, scan(), scan(1) % 5)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(share * len(whole))])
    refused_at_once(folder, file, labels="1=A,2=B,3=C,4=D")


def test_an_uncompressed_file_that_is_cut_off(tmp_path):
    path = put(tmp_path / "scans" / "a.nii", scan())
    path.write_bytes(path.read_bytes()[:-10])
    refused_at_once(path.parent, "a.nii")


def test_a_label_map_of_another_shape(tmp_path):
    folder = single(tmp_path, scan(), segmentation()[:-1])
    message = refused_at_once(folder, "a_seg.nii.gz")
    assert "shape (8, 8, 5) differs" in message
    assert "a.nii.gz, (9, 8, 5)" in message


def test_a_label_map_elsewhere(tmp_path):
    away = np.diag([*SPACING, 1.0])
    away[0, 3] = 3
    folder = single(tmp_path, scan(), segmentation(), away)
    assert "lies up to 3 mm from its image" in refused_at_once(folder, "a_seg.nii.gz")


def test_a_label_map_that_is_flipped(tmp_path):
    """Same place, other direction: the corner voxels are far apart, and it is said why."""
    flipped = np.diag([-SPACING[0], *SPACING[1:], 1.0])
    flipped[0, 3] = SPACING[0] * (SHAPE[0] - 1)
    folder = single(tmp_path, scan(), segmentation(), flipped)
    words = (
        "has the voxels of its image a.nii.gz, but stores them along other axes or the other way"
    )
    assert words in refused_at_once(folder, "a_seg.nii.gz")


def test_a_label_map_with_another_spacing(tmp_path):
    wider = np.diag([1.5, 1.25, 6.1, 1.0])
    folder = single(tmp_path, scan(), segmentation(), wider)
    refused_at_once(folder, "a_seg.nii.gz")


def test_rounding_in_a_label_maps_header_is_forgiven(tmp_path):
    near = np.diag([*SPACING, 1.0])
    near[:3, 3] = 0.02
    folder = single(tmp_path, scan(), segmentation(), near)
    assert prepare(folder, tmp_path / "store").cases[0].labelled


def test_undeclared_label_values(tmp_path):
    folder = single(tmp_path, scan(), segmentation())
    message = refused_at_once(folder, "a_seg.nii.gz", labels="1=RV,2=LV")
    assert "label value(s) 3 not declared; declared are 0, 1, 2" in message


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
@pytest.mark.parametrize("labels", [None, "1=A,3=B"])
def test_label_values_that_are_not_whole(tmp_path, value, labels):
    values = segmentation().astype(np.float32)
    values[0, 0, 0] = value
    message = refused_at_once(single(tmp_path, scan(), values), "a_seg.nii.gz", labels=labels)
    assert "must be whole numbers" in message


def test_an_image_in_place_of_a_label_map(tmp_path):
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    message = refusal(single(tmp_path, scan(), values), tmp_path / "store")
    assert message.startswith(f"{tmp_path / 'scans'}: 359 label values")
    assert not (tmp_path / "store").exists()


def test_labels_that_have_no_effect(tmp_path):
    message = refusal(single(tmp_path, scan()), tmp_path / "store", labels="1=RV")
    assert "--labels has no effect" in message


def test_a_series_where_a_volume_was_expected(tmp_path):
    folder = tmp_path / "scans"
    put(folder / "imagesTr/a.nii.gz", np.stack([scan(), scan(1)], axis=-1))
    (folder / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}})
    )
    assert "a 3-D volume was expected" in refused_at_once(folder, "imagesTr/a.nii.gz")


@pytest.mark.parametrize("column", [[0, 0, 0], [1.0, 0, 0]])
def test_a_singular_affine(tmp_path, column):
    path = put(tmp_path / "scans" / "a.nii", scan())
    header = nib.load(path).header
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 2] = column
    header.set_sform(affine, code=1)
    header.set_qform(None, code=0)
    with path.open("r+b") as file:
        file.write(header.binaryblock)
    assert "affine" in refused_at_once(path.parent, "a.nii")


@pytest.mark.parametrize("what", ["store", "folder", "file"])
def test_what_exists_is_not_overwritten(source, tmp_path, what):
    target = tmp_path / "store"
    if what == "store":
        prepare(source, target)
    elif what == "folder":
        (target / "cases").mkdir(parents=True)
        (target / "thesis.txt").write_text("dear")
    else:
        target.write_text("dear")
    before = content(target) if target.is_dir() else target.read_text()
    assert refusal(source, target).startswith(f"{target}: ")
    assert (content(target) if target.is_dir() else target.read_text()) == before


def test_unknown_settings_name_the_nearest(source, tmp_path):
    message = refusal(source, tmp_path / "store", settings=["spacin=2"])
    assert "unknown setting 'spacin' (did you mean 'spacing'?)" in message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing": "fine"},
        {"spacing": 0.0},
        {"spacing": -1.0},
        {"spacing": float("nan")},
        {"plane": "diagonal"},
        {"modality": "US"},
        {"source_spacing": (1.0, 0.0, 1.0)},
        {"labels": "1:RV"},
        {"layout": "plian"},
        {"channel": 1},
        {"processes": 0},
        {"reverse": "no-such-file.txt"},
    ],
    ids=lambda wrong: "-".join(f"{k}={v}" for k, v in wrong.items()),
)
def test_arguments_that_cannot_be_used(source, tmp_path, wrong):
    name, value = next(iter(wrong.items()))
    message = refusal(source, tmp_path / "store", **wrong)
    assert name in message or str(value) in message
    assert not (tmp_path / "store").exists()


def test_a_folder_without_scans(tmp_path):
    (tmp_path / "scans").mkdir()
    for folder in (tmp_path / "scans", tmp_path / "nowhere"):
        assert refusal(folder, tmp_path / "store").startswith(f"{folder}: ")
    assert not (tmp_path / "store").exists()


# Real scans


def test_real_hippocampi(shared_data, tmp_path):
    """The Decathlon's layout, isotropic 1 mm: axial slices, nothing resampled."""
    real, source = shared_data / "msd" / "Task04_Hippocampus", tmp_path / "Task04"
    names = sorted(p.name for p in (real / "labelsTr").iterdir() if p.name[0] != ".")[:3]
    for name in names:
        for folder in ("imagesTr", "labelsTr"):
            (source / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real / folder / name, source / folder / name)
    description = json.loads((real / "dataset.json").read_text())
    description["training"] = [
        {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
    ]
    (source / "dataset.json").write_text(json.dumps(description))
    store = prepare(source, tmp_path / "store")
    assert store.manifest.layout == "msd"
    assert len(store.cases) == 3
    assert len(store.class_names) == 2
    for name, case in zip(names, store.cases, strict=True):
        voxels = nib.load(real / "imagesTr" / name)
        labels = np.asarray(nib.load(real / "labelsTr" / name).dataobj)
        geometry = slice_geometry(voxels.shape, voxels.affine)
        values = geometry.to_stack(np.asarray(voxels.dataobj).astype(float))
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(store.image(case)[:, 0], expected, atol=0.01)
        np.testing.assert_array_equal(store.label(case), geometry.to_stack(labels))
        assert case.class_voxels == (int((labels == 1).sum()), int((labels == 2).sum()))
        assert case.spacing == pytest.approx((1, 1, 1))
        assert case.channels[0].intensity.modality == "MR"


def test_a_real_heart_of_acdc(shared_data, tmp_path):
    patient = sorted((shared_data / "acdc" / "training").glob("patient*"))[0]
    shutil.copytree(patient, tmp_path / "training" / patient.name)
    store = prepare(tmp_path, tmp_path / "store")
    assert store.manifest.layout == "acdc"
    assert store.manifest.preparation.spacing == 1.25
    assert store.class_names == ("RV", "MYO", "LV")
    assert sorted(case.frame for case in store.cases) == ["ED", "ES"]
    for case in store.cases:
        header = nib.load(tmp_path / case.source).header
        x, y, slices = header.get_data_shape()
        mm = header.get_zooms()
        assert case.shape == (slices, round(y * mm[1] / 1.25), round(x * mm[0] / 1.25))
        assert case.spacing == pytest.approx((mm[2], 1.25, 1.25), rel=0.01)
        truth = np.asarray(nib.load(tmp_path / case.source_label).dataobj)
        for i, voxels in enumerate(case.class_voxels, start=1):
            ml = (truth == i).sum() * mm[0] * mm[1]
            assert voxels * case.spacing[1] * case.spacing[2] == pytest.approx(ml, rel=0.05)


def test_a_real_heart_of_mms(shared_data, tmp_path):
    subject = sorted((shared_data / "mms" / "vendor_A").iterdir())[0]
    shutil.copytree(subject, tmp_path / "scans" / subject.name)
    store = prepare(tmp_path / "scans", tmp_path / "store")
    assert store.manifest.layout == "mms"
    assert store.class_names == ("RV", "MYO", "LV")
    assert [c.values for c in store.manifest.classes] == [(3,), (2,), (1,)]
    for case in store.cases:
        assert case.spacing_from == "layout"  # the headers say 1 x 1 x 1 mm
        assert case.spacing == pytest.approx((10, 1.25, 1.25))
        assert case.geometry.plane == "axial"
        truth = np.asarray(nib.load(tmp_path / "scans" / case.source_label).dataobj)
        assert case.class_voxels == tuple(int((truth == value).sum()) for value in (3, 2, 1))
    assert any("slice order" in note for note in store.manifest.notes)


def test_every_file_whose_header_cannot_be_used_is_named(tmp_path, capsys):
    for number in range(4):
        data = np.random.default_rng(number).normal(100, 10, (8, 8, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), tmp_path / f"c{number}.nrrd.nii")
    (tmp_path / "c1.nrrd.nii").write_bytes(b"not a scan" * 50)
    (tmp_path / "c3.nrrd.nii").write_bytes(b"")
    with pytest.raises(PosconError, match=r"c1|c3"):
        prepare(tmp_path, tmp_path / "store", layout="plain", processes=1)
    assert not (tmp_path / "store").exists()


def test_a_store_is_prepared_by_one_at_a_time(tmp_path):
    data = np.random.default_rng(0).normal(100, 10, (8, 8, 4)).astype(np.float32)
    (tmp_path / "s").mkdir()
    nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), tmp_path / "s" / "c.nii")
    refused = pytest.raises(PosconError, match="another poscon prepare is at work there")
    with alone(tmp_path / "store", "prepare"), refused:
        prepare(tmp_path / "s", tmp_path / "store", processes=1)
    prepare(tmp_path / "s", tmp_path / "store", processes=1)
    names = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert names == ["cases", "manifest.json"]
    with pytest.raises(PosconError, match="there is a store already"):
        prepare(tmp_path / "s", tmp_path / "store", processes=1)


# What is read as what


def put_organs(folder: Path, **masks: np.ndarray) -> Path:
    """Two subjects of TotalSegmentator, with the same masks."""
    for seed, subject in enumerate(("s1", "s2")):
        put(folder / subject / "ct.nii.gz", scan(seed) - 300)
        for organ, mask in masks.items():
            put(folder / subject / "segmentations" / f"{organ}.nii.gz", mask.astype(np.uint8))
    return folder


def test_masks_per_organ_become_one_label_map(tmp_path):
    labels = segmentation()
    folder = put_organs(tmp_path / "d", liver=labels == 1, spleen=labels == 3, none=labels == 9)
    store = prepare(folder, tmp_path / "store", spacing="native")
    assert store.class_names == ("liver", "none", "spleen")
    expected = [int((labels == 1).sum()), 0, int((labels == 3).sum())]
    assert [list(case.class_voxels) for case in store.cases] == [expected, expected]
    assert store.cases[0].source_label == "s1/segmentations"
    chosen = prepare(folder, tmp_path / "chosen", spacing="native", labels="5=spleen")
    assert [list(case.class_voxels) for case in chosen.cases] == [expected[2:]] * 2


def test_masks_that_overlap_and_the_way_out(tmp_path):
    labels = segmentation()
    folder = put_organs(tmp_path / "d", body=labels > 0, liver=labels == 1)
    message = refusal(folder, tmp_path / "store")
    assert "'liver' and 'body' overlap" in message
    assert not (tmp_path / "store").exists()
    assert prepare(folder, tmp_path / "store", labels="1=liver").class_names == ("liver",)


def test_a_mask_that_one_subject_lacks(tmp_path):
    folder = put_organs(tmp_path / "d", liver=segmentation() == 1, spleen=segmentation() == 3)
    (folder / "s2" / "segmentations" / "spleen.nii.gz").unlink()
    assert "s2/segmentations: no mask of 'spleen'" in refusal(folder, tmp_path / "store")


@pytest.mark.parametrize("name", ["b_unknown.nii.gz", "elsewhere/a.nii.gz", "b.nrrd.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_label_map_under_an_unknown_name_is_not_trained_on(source, tmp_path, name, dtype):
    put(source / name, segmentation().astype(dtype))
    message = refusal(source, tmp_path / "store")
    assert str(source / name) in message
    assert "looks like a label map" in message


def test_what_was_passed_over_is_in_the_store(source, tmp_path):
    (source / "gone.nii.gz").symlink_to(source / "nothing.nii.gz")
    (source / "._a.nii.gz").write_bytes(b"Mac OS X")
    notes = prepare(source, tmp_path / "store").manifest.notes
    assert notes == (
        "passed over: 1 hidden: ._a.nii.gz",
        "passed over: 1 out of reach, a link to nothing: gone.nii.gz",
    )


def change_header(path, **fields):
    """Change fields of a .nii.gz header in place, past nibabel's own checks."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = np.ndarray((), nib.nifti1.header_dtype, raw)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [1e-3, 0, 0, 0], [1e3, 0, 0, 0], [np.nan, 0, 0, 0]])
@pytest.mark.parametrize("name", ["b", "b_seg"])
def test_headers_are_checked_before_anything_is_written(source, tmp_path, row, name):
    change_header(source / f"{name}.nii.gz", srow_x=row)
    message = refusal(source, tmp_path / "store")
    assert message.startswith(f"{source / name}.nii.gz: ")
    assert message.endswith("--source-spacing")
    assert not (tmp_path / "store").exists()


def test_a_header_without_a_voxel_size_is_usable_with_a_stated_one(source, tmp_path):
    expected = prepare(source, tmp_path / "expected").cases
    for path in source.iterdir():
        change_header(path, sform_code=0, qform_code=1, pixdim=[1, 0, 0, 0, 0, 0, 0, 0])
    message = refusal(source, tmp_path / "store")
    assert message.endswith("--source-spacing (and 2 more file(s) with errors)")
    cases = prepare(source, tmp_path / "store", source_spacing=SPACING).cases
    assert [case.spacing for case in cases] == [case.spacing for case in expected]
    assert [case.stored_sha256 for case in cases] == [case.stored_sha256 for case in expected]


def test_units_are_converted(source, tmp_path):
    expected = prepare(source, tmp_path / "expected").cases
    for path in source.iterdir():
        image = nib.load(path)
        header = image.header.copy()
        header.set_xyzt_units("meter")
        data = np.asanyarray(image.dataobj)
        path.unlink()
        nib.save(nib.Nifti1Image(data, np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine, header), path)
    cases = prepare(source, tmp_path / "store").cases
    np.testing.assert_allclose([c.spacing for c in cases], [c.spacing for c in expected], rtol=1e-5)


def test_padding_of_a_ct_is_kept_with_the_case(source, tmp_path):
    volume = scan(1) - 1000
    volume[:2] = -3024
    put(source / "b.nii.gz", volume)
    cases = prepare(source, tmp_path / "store").cases
    padded = {case.id: case.channels[0].intensity.padding for case in cases}
    assert padded == {"a": 0, "b": pytest.approx(2 / 9), "c": 0}
