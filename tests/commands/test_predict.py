import csv
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from poscon.commands import predict as module
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.errors import PartlyDone, PosconError
from poscon.files import alone
from poscon.leakage import read_seen
from poscon.networks.weights import read_weights
from poscon.volumes.scan import read_scan


def phantom(scans: Path, number: int = 0) -> Any:
    return nib.load(scans / "imagesTr" / f"phantom_{number:03d}.nii.gz")


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def read_classes(run: Path) -> list[str]:
    """Names of the classes of a model."""
    _, about = read_weights(run / "model.safetensors")
    return [c["name"] for c in about["classes"]]


def segment(run: Path, source: Path, target: Path) -> Any:
    (written,) = predict(run, source, target)
    return nib.load(written)


def test_label_map_lies_on_its_scan(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    image = phantom(scans)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=4)
    nib.save(image, tmp_path / "scan.nii.gz")
    labels = segment(finetuned, tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz")
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    assert int(labels.header["qform_code"]) == 1
    assert int(labels.header["sform_code"]) == 4
    assert labels.header.get_xyzt_units() == ("mm", "sec")
    assert labels.get_data_dtype() == np.uint8
    found = set(np.unique(np.asanyarray(labels.dataobj)))
    assert found <= {0, 1, 2, 3, 4}
    assert len(found) > 1  # else the tests below compare nothing with nothing


def test_orientation_changes_nothing(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    """predict(reorient(x)) is reorient(predict(x)), for all 48 orientations."""
    image = phantom(scans)
    straight = segment(
        finetuned, scans / "imagesTr" / "phantom_000.nii.gz", tmp_path / "straight.nii.gz"
    )
    for number, (order, signs) in enumerate(
        product(permutations(range(3)), product((1, -1), repeat=3))
    ):
        change = np.array(list(zip(order, signs, strict=True)))
        nib.save(image.as_reoriented(change), tmp_path / f"{number}.nii.gz")
        turned = segment(
            finetuned, tmp_path / f"{number}.nii.gz", tmp_path / f"{number}_seg.nii.gz"
        )
        expected = straight.as_reoriented(change)
        np.testing.assert_array_equal(
            np.asanyarray(turned.dataobj), np.asanyarray(expected.dataobj)
        )
        np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-4)


def test_four_dimensions_are_segmented_frame_by_frame(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    first = phantom(scans)
    data = np.asanyarray(first.dataobj)
    series = save(tmp_path / "cine.nii.gz", np.stack([data, data[::-1]], -1), first.affine)
    labels = segment(finetuned, series, tmp_path / "out.nii.gz")
    assert labels.shape == (*first.shape, 2)
    for frame in range(2):
        one = save(
            tmp_path / "one.nii.gz",
            np.asanyarray(nib.load(series).dataobj)[..., frame],
            first.affine,
        )
        alone = segment(finetuned, one, tmp_path / f"alone{frame}.nii.gz")
        np.testing.assert_array_equal(
            np.asanyarray(labels.dataobj)[..., frame], np.asanyarray(alone.dataobj)
        )


def test_one_slice_and_odd_shapes(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    image = phantom(scans)
    data, affine = np.asanyarray(image.dataobj), image.affine
    for name, part in {
        "slice": data[:, :, 10:11],
        "flat": data[:, :, 10],
        "narrow": data[:7, :, 3:9],
        "trailing": data[:, :, 3:6, None],
    }.items():
        source = save(tmp_path / f"{name}.nii.gz", part, affine)
        labels = segment(finetuned, source, tmp_path / f"{name}_seg.nii.gz")
        assert labels.shape == part.shape


def test_nrrd_comes_back_as_nrrd(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    source = tmp_path / "scan.nrrd"
    SimpleITK.WriteImage(
        SimpleITK.ReadImage(str(scans / "imagesTr" / "phantom_000.nii.gz")), str(source)
    )
    (written,) = predict(finetuned, source, tmp_path / "out")
    reference = segment(
        finetuned, scans / "imagesTr" / "phantom_000.nii.gz", tmp_path / "reference.nii.gz"
    )
    assert written.name == "scan.nrrd"
    np.testing.assert_array_equal(read_scan(written).data, np.asanyarray(reference.dataobj))


def test_folder_in_folder_out_and_evaluated(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("phantom_003\nphantom_004\n")
    written = predict(finetuned, scans, tmp_path / "out", cases=tmp_path / "two.txt")
    assert [path.name for path in written] == ["phantom_003.nii.gz", "phantom_004.nii.gz"]
    names = [
        c["name"] for c in json.loads((tmp_path / "out" / "labels.json").read_text())["classes"]
    ]
    evaluation = evaluate(tmp_path / "out", scans)
    assert list(evaluation.classes) == names
    assert {row.case for row in evaluation.rows} == {"phantom_003", "phantom_004"}


def test_series_of_the_same_file_name_are_all_segmented(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    image = phantom(scans)
    frame = np.asanyarray(image.dataobj)[..., :4]
    for subject in ("p1", "p2"):
        (tmp_path / "in" / subject).mkdir(parents=True)
        save(tmp_path / "in" / subject / "cine.nii.gz", np.stack([frame] * 2, -1), image.affine)
    written = predict(finetuned, tmp_path / "in", tmp_path / "out", layout="plain")
    assert [path.name for path in written] == ["p1_cine.nii.gz", "p2_cine.nii.gz"]
    assert all(nib.load(path).shape == (*frame.shape, 2) for path in written)


def test_one_scan_into_a_new_folder_says_what_is_known(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    cases = json.loads((finetuned / "cases.json").read_text())
    name = next(case["id"] for case in cases if case["role"] == "labelled")
    out = tmp_path / "new"
    (written,) = predict(finetuned, scans / "imagesTr" / f"{name}.nii.gz", out)
    assert written == out / f"{name}.nii.gz"
    assert "labelled" in read_seen(out)[name]
    assert all(row.seen for row in evaluate(out, scans).rows)
    assert (out / "labels.json").is_file()


def test_averaged_views_are_recorded_and_not_mixed_with_others(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("phantom_000\n")
    out = tmp_path / "out"
    predict(finetuned, scans, out, cases=tmp_path / "one.txt", average_views=True)
    record = json.loads((out / "predictions.json").read_text())
    assert record["cases"]["phantom_000"]["views"] == 9
    with pytest.raises(PosconError, match=r"was made with 9 view\(s\) of a slice, now it is 1"):
        predict(finetuned, scans, out, resume=True)
    assert len(predict(finetuned, scans, out, average_views=True, resume=True)) > 1


def test_a_stated_voxel_size_is_not_mixed_with_others(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("phantom_000\n")
    out, mm = tmp_path / "out", (1.5, 1.5, 6.0)
    predict(finetuned, scans, out, cases=tmp_path / "one.txt", source_spacing=mm)
    for other in (None, (1.5, 1.5, 7.0), (1.5, 6.0, 1.5)):
        with pytest.raises(PosconError, match="was made with another voxel size"):
            predict(finetuned, scans, out, source_spacing=other, resume=True)
    assert len(predict(finetuned, scans, out, source_spacing=mm, resume=True)) > 1


def test_resume_makes_the_rest_only(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("phantom_003\n")
    (tmp_path / "two.txt").write_text("phantom_003\nphantom_004\n")
    (first,) = predict(finetuned, scans, tmp_path / "out", cases=tmp_path / "one.txt")
    made = first.stat().st_mtime_ns
    with pytest.raises(PosconError, match="exists already"):
        predict(finetuned, scans, tmp_path / "out", cases=tmp_path / "two.txt")
    assert not (tmp_path / "out" / "phantom_004.nii.gz").exists()
    predict(finetuned, scans, tmp_path / "out", cases=tmp_path / "two.txt", resume=True)
    assert first.stat().st_mtime_ns == made
    assert (tmp_path / "out" / "phantom_004.nii.gz").exists()


def test_a_file_that_cannot_be_a_label_map_does_not_become_a_folder(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    scan = scans / "imagesTr" / "phantom_003.nii.gz"
    with pytest.raises(PosconError, match=r"out\.png: \.png is no format of a label map; end"):
        predict(finetuned, scan, tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "nothing")
    with pytest.raises(PosconError, match=r"link\.nii\.gz: cannot be written .it is a link to"):
        predict(finetuned, scan, tmp_path / "link.nii.gz")
    (tmp_path / "link.nii.gz").unlink()
    assert predict(finetuned, scan, tmp_path / "v1.new") == [tmp_path / "v1.new" / scan.name]
    (tmp_path / "out.png").mkdir()
    assert predict(finetuned, scan, tmp_path / "out.png") == [tmp_path / "out.png" / scan.name]


def test_a_named_file_that_is_there_is_never_taken_for_its_own(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    scan, out = scans / "imagesTr" / "phantom_003.nii.gz", tmp_path / "out.nii.gz"
    out.write_text("mine")
    for resume in (False, True):
        with pytest.raises(PosconError, match=r"out\.nii\.gz: exists already; choose another"):
            predict(finetuned, scan, out, resume=resume)
    assert out.read_text() == "mine"
    out.unlink()
    assert predict(finetuned, scan, out, resume=True) == [out]


def test_original_label_values_come_back(scans: Path, tmp_path: Path) -> None:
    prepare(
        scans,
        tmp_path / "store",
        spacing=8.0,
        processes=1,
        labels="4=tube,3=upper,2+1=lower",
    )
    settings = ["network.width=4", "network.levels=2", "size=32", "batch=8"]
    finetune(tmp_path / "store", tmp_path / "run", iterations=1, settings=settings)
    model = tmp_path / "run" / "model.safetensors"
    tensors, about = read_weights(model)
    assert read_classes(tmp_path / "run") == ["tube", "upper", "lower"]
    for number, value in enumerate((0, 4, 3, 2)):  # a model that sees one class everywhere
        tensors["classifier.bias"] = 1000 * torch.eye(4)[number]
        save_file(tensors, model, metadata={k: json.dumps(v) for k, v in about.items()})
        out = tmp_path / f"{value}.nii.gz"
        labels = segment(tmp_path / "run", scans / "imagesTr" / "phantom_000.nii.gz", out)
        assert set(np.unique(np.asanyarray(labels.dataobj)).tolist()) == {value}


def test_one_bad_scan_does_not_stop_the_others(
    finetuned: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Voxels that are NaN, a file that is cut off, and a constant scan, among good ones."""
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name, number in (("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4)):
        scan = phantom(scans, number)
        voxels = np.full(scan.shape, np.nan) if name == "c" else scan.get_fdata()
        save(folder / f"{name}.nii.gz", voxels.astype(np.float32), scan.affine)
    whole = (folder / "d.nii.gz").read_bytes()
    (folder / "d.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PartlyDone, match=r"c\.nii\.gz: .*; 2 of 5 scan\(s\) could not") as caught:
        predict(finetuned, folder, out)
    good = ["a.nii.gz", "b.nii.gz", "e.nii.gz"]
    assert sorted(path.name for path in out.glob("*.nii.gz")) == good
    assert [path.name for path in caught.value.result] == good
    assert set(caught.value.failed) == {"c", "d"}
    assert capsys.readouterr().err.count("not segmented: ") == 2
    record = json.loads((out / "predictions.json").read_text())
    assert set(record["cases"]) == {"a", "b", "e"}
    assert "NaN" in record["failed"]["c"]
    for number, name in ((0, "a"), (1, "b"), (4, "e")):
        alone = segment(finetuned, folder / f"{name}.nii.gz", tmp_path / f"{name}.nii.gz")
        kept = np.asanyarray(nib.load(out / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(kept, np.asanyarray(alone.dataobj))
        assert kept.shape == phantom(scans, number).shape
    made = (out / "a.nii.gz").stat().st_mtime_ns
    (folder / "d.nii.gz").write_bytes(whole)
    with pytest.raises(PartlyDone, match=r"1 of 5 scan\(s\)"):
        predict(finetuned, folder, out, resume=True)
    (folder / "c.nii.gz").unlink()
    some = predict(finetuned, folder, out, cases=["a"], resume=True)
    assert len(some) == 1
    assert "c" in json.loads((out / "predictions.json").read_text())["failed"]  # not asked for
    assert len(predict(finetuned, folder, out, resume=True)) == 4
    assert (out / "a.nii.gz").stat().st_mtime_ns == made
    assert json.loads((out / "predictions.json").read_text())["failed"] == {}


@pytest.mark.parametrize("place", ["the same", "inside", "a link"])
def test_label_maps_do_not_go_among_the_scans(
    place: str, finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    save(folder / "a.nii.gz", np.asanyarray(phantom(scans).dataobj), phantom(scans).affine)
    out = {"the same": folder, "inside": folder / "out" / "new", "a link": tmp_path / "link"}[place]
    if place == "a link":
        out.symlink_to(folder)
    for resume in (False, True):
        with pytest.raises(PosconError, match="folder of the scans; choose an output outside it"):
            predict(finetuned, folder, out, resume=resume)
        for target in (folder, folder / "a.nii.gz"):
            with pytest.raises(PosconError, match="the label map would replace the scan"):
                predict(finetuned, folder / "a.nii.gz", target, resume=resume)
    assert [path.name for path in folder.iterdir()] == ["a.nii.gz"]


def test_where_no_scan_can_be_used_nothing_is_left(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    for name in "ab":
        image = phantom(scans)
        nan = np.full(image.shape, np.nan, np.float32)
        save(tmp_path / "scans" / f"{name}.nii.gz", nan, image.affine)
    with pytest.raises(PartlyDone, match="2 of 2 scan"):
        predict(finetuned, tmp_path / "scans", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    predict(finetuned, scans, tmp_path / "out", cases=["phantom_000"])
    kept = (tmp_path / "out" / "labels.json").read_bytes()
    for path in tmp_path.glob("out/[ps]*"):
        path.unlink()
    with pytest.raises(PartlyDone, match="2 of 2 scan"):
        predict(finetuned, tmp_path / "scans", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.json"]
    assert (tmp_path / "out" / "labels.json").read_bytes() == kept


def test_label_maps_do_not_go_into_a_run(finetuned: Path, scans: Path) -> None:
    before = sorted(finetuned.iterdir())
    with pytest.raises(PosconError, match="a run; choose another folder for the label maps"):
        predict(finetuned, scans, finetuned)
    assert sorted(finetuned.iterdir()) == before


def test_files_of_others_are_no_label_maps(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    """A copy of the scans is not counted as their segmentation, nor another model's work."""
    folder, out = tmp_path / "scans", tmp_path / "copy"
    folder.mkdir()
    save(folder / "a.nii.gz", np.asanyarray(phantom(scans).dataobj), phantom(scans).affine)
    shutil.copytree(folder, out)
    with pytest.raises(PosconError, match=r"predictions\.json beside it does not say"):
        predict(finetuned, folder, out, resume=True)
    shutil.rmtree(out)
    predict(finetuned, folder, out)
    run = shutil.copytree(finetuned, tmp_path / "run")
    tensors, about = read_weights(run / "model.safetensors")
    save_file(tensors, run / "model.safetensors", {k: json.dumps(v) for k, v in about.items()})
    with (run / "model.safetensors").open("ab") as file:
        file.seek(-4, 2)
        file.truncate()
        file.write(b"\0\0\1\1")
    with pytest.raises(PosconError, match="made by another model"):
        predict(run, folder, out, resume=True)
    assert len(predict(finetuned, folder, out, resume=True)) == 1


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
def test_threads_do_the_next_in_order(n: int, bad_item: int, bad_work: int, threads: int) -> None:
    """What fails, fails in its turn: all before it is done, and nothing after the next."""
    done: list[int] = []

    def items() -> Iterator[int]:
        for number in range(n):
            if number == bad_item:
                raise LookupError
            yield number

    def work(number: int) -> int:
        if number == bad_work:
            raise ArithmeticError
        done.append(number)
        return number

    used: list[int] = []
    try:
        for result in module._in_threads(work, items(), threads):
            assert len(done) <= len(used) + threads + 1
            used.append(result)
    except (LookupError, ArithmeticError):
        assert min(bad_item, bad_work) < n
    else:
        assert used == list(range(n))
    assert used == list(range(len(used)))
    assert set(done) >= set(range(min(n, bad_item, bad_work)))


def test_many_readers_predict_the_same(
    finetuned: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in (1, 8):
        monkeypatch.setattr(module, "usable_cores", lambda cores=cores: cores)
        predict(finetuned, scans, tmp_path / str(cores))
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(files) > 5
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "8" / name).read_bytes()


@pytest.mark.parametrize("break_it", ["empty", "truncated", "nan", "constant", "text"])
def test_bad_scan_is_one_line_and_leaves_nothing(
    break_it: str, finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    image = phantom(scans)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    source = tmp_path / "scan.nii.gz"
    if break_it == "nan":
        data[3, 3, 3] = np.nan
    if break_it == "constant":
        data[:] = 5
    save(source, data, image.affine)
    if break_it == "empty":
        source.write_bytes(b"")
    if break_it == "truncated":
        source.write_bytes(source.read_bytes()[:2000])
    if break_it == "text":
        source.write_text("not a scan")
    with pytest.raises(PosconError, match=r"scan\.nii\.gz") as error:
        predict(finetuned, source, tmp_path / "out.nii.gz")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("out.mha", {}, "cannot carry the geometry"),
        ("out.nii.gz", {"layout": "msd"}, "--layout: no effect on a single scan"),
        ("out.nii.gz", {"channel": 0}, "--channel: no effect on a single scan"),
    ],
)
def test_options_that_do_not_fit(
    target: str, options: dict[str, Any], message: str, finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosconError, match=message):
        predict(finetuned, scans / "imagesTr" / "phantom_000.nii.gz", tmp_path / target, **options)


def test_a_pretraining_run_is_no_model(pretrained: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="a pre-training run; start a poscon finetune"):
        predict(pretrained, scans, tmp_path / "out")


def seen_as(draw: Callable[[torch.Tensor], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A network in whose place ``draw`` writes the scores of a stack, where they are not 0."""

    def scores(
        network: Any, stack: torch.Tensor, size: int, *, average_views: bool
    ) -> Iterator[torch.Tensor]:
        logits = torch.zeros(len(stack), network.n_classes, *stack.shape[2:])
        draw(logits)
        yield logits

    monkeypatch.setattr("poscon.training.inference.class_scores", scores)


def one_structure(finetuned: Path, run: Path, *, told: bool) -> dict[str, Any]:
    """A run whose model keeps the largest structure or does not; what its file says."""
    tensors, about = read_weights(finetuned / "model.safetensors")
    run.mkdir()
    words = {k: json.dumps(v) for k, v in {**about, "keep_largest_component": told}.items()}
    save_file(tensors, run / "model.safetensors", words)
    return about


def test_a_model_of_one_structure_keeps_the_largest(
    finetuned: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees two of them in every slice, and a model that is told or not."""

    def two(logits: torch.Tensor) -> None:
        logits[:, 1, 1:3, 1:3] = 9
        logits[:, 2, 6:12, 6:12] = logits[:, 3, 12:14, 6:12] = 9

    seen_as(two, monkeypatch)
    found = {}
    for told in (False, True):
        run = tmp_path / str(told)
        one_structure(finetuned, run, told=told)
        scan = scans / "imagesTr" / "phantom_000.nii.gz"
        found[told] = np.asanyarray(segment(run, scan, tmp_path / f"{told}.nii.gz").dataobj)
    assert set(np.unique(found[False])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(found[True], np.where(found[False] == 1, 0, found[False]))


def test_finetuning_tells_its_model_and_its_validation(store: Path, tmp_path: Path) -> None:
    (tmp_path / "watch.txt").write_text("phantom_004\n")
    seen = {}
    for told in (False, True):
        run = tmp_path / str(told)
        settings = ["size=32", "batch=8", f"keep_largest_component={str(told).lower()}"]
        how: dict[str, Any] = {"labelled": 3, "iterations": 20, "settings": settings}
        finetune(store, run, validation=tmp_path / "watch.txt", **how)
        assert read_weights(run / "model.safetensors")[1]["keep_largest_component"] is told
        with (run / "metrics.csv").open(newline="") as file:
            seen[told] = list(csv.DictReader(file))[-1]["validation_dice"]
    assert seen[True] != seen[False]


def test_a_folder_says_how_its_label_maps_were_made(
    finetuned: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    predict(finetuned, scans, out, cases=["phantom_003"])
    assert "1 scan(s) segmented in axial slices, pixels of 6 mm" in capsys.readouterr().err
    facts = json.loads((out / "predictions.json").read_text())["cases"]["phantom_003"]
    zooms = sorted(phantom(scans, 3).header.get_zooms())
    assert (facts["plane"], facts["spacing_from"]) == ("axial", "header")
    assert facts["modalities"] == ["MR"]
    assert facts["unlike_training"] == []
    assert sorted(facts["scan_spacing_mm"]) == pytest.approx(zooms)
    assert facts["spacing_mm"][1:] == pytest.approx((6, 6), rel=0.05)
    with alone(out, "predict"), pytest.raises(PosconError, match="another poscon predict"):
        predict(finetuned, scans, out, resume=True)
    assert not (out / ".lock").exists()


def test_a_channel_of_a_4_d_nrrd(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    """The label map is 3-D and lies where the channel does."""
    image = np.asanyarray(phantom(scans).dataobj).T
    (tmp_path / "in" / "imagesTr").mkdir(parents=True)
    channels = SimpleITK.GetImageFromArray(np.stack([image, image + 1]), isVector=False)
    channels.SetSpacing((2, 2, 4, 1))
    channels.SetOrigin((-10, 20, 30, 0))
    SimpleITK.WriteImage(channels, str(tmp_path / "in" / "imagesTr" / "c.nrrd"))
    description = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "A"}}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps(description))
    (written,) = predict(finetuned, tmp_path / "in", tmp_path / "out", channel=1)
    labels, series = read_scan(written), read_scan(tmp_path / "in" / "imagesTr" / "c.nrrd")
    assert labels.data.shape == image.T.shape
    np.testing.assert_allclose(labels.affine, series.affine)


@pytest.mark.parametrize("one_file", [True, False])
def test_a_header_that_cannot_be_believed(
    finetuned: Path, scans: Path, tmp_path: Path, one_file: bool
) -> None:
    data = np.asanyarray(phantom(scans).dataobj)
    (tmp_path / "in").mkdir()
    path = save(tmp_path / "in" / "wrong.nii.gz", data, np.diag([0.001, 0.001, 0.002, 1]))
    source = path if one_file else path.parent
    with pytest.raises(PosconError, match=r"wrong\.nii\.gz: .*0\.001 x .*--source-spacing$"):
        predict(finetuned, source, tmp_path / "out")
    (written,) = predict(finetuned, source, tmp_path / "out", source_spacing=(2, 2, 4))
    assert nib.load(written).affine[0, 0] == pytest.approx(0.001)  # it lies on its scan


def test_a_label_map_is_not_segmented(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="looks like a label map"):
        predict(finetuned, scans / "labelsTr", tmp_path / "out")


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, 1, -1)])
def test_a_class_is_removed_outside_its_range(
    signs: tuple[int, ...], finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    """The numbers are those of the file's slices, whichever way they run."""
    (tmp_path / "in").mkdir()
    image = phantom(scans).as_reoriented(np.array(list(zip(range(3), signs, strict=True))))
    for name in ("a", "b"):
        nib.save(image, tmp_path / "in" / f"{name}.nii.gz")
    predict(finetuned, tmp_path / "in", tmp_path / "plain")
    plain = np.asanyarray(nib.load(tmp_path / "plain" / "a.nii.gz").dataobj)
    classes = json.loads((tmp_path / "plain" / "labels.json").read_text())["classes"]
    value, slices = next(
        (c["values"][0], np.flatnonzero((plain == c["values"][0]).any((0, 1))))
        for c in classes
        if (plain == c["values"][0]).any((0, 1)).sum() > 2
    )
    name = next(c["name"] for c in classes if c["values"] == [value])
    other = next(c["name"] for c in classes if c["values"] != [value])
    first, last = int(slices[1]), int(slices[-1]) - 1
    ranges = tmp_path / "ranges.csv"
    ranges.write_text(f"case,class,first,last\na,{name},{first},{last}\na,{other},,\n")
    predict(finetuned, tmp_path / "in", tmp_path / "out", ranges=ranges)
    labels = np.asanyarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    numbers = np.arange(plain.shape[2])
    outside = (plain == value) & ((numbers < first) | (numbers > last))
    unwanted = next(c["values"][0] for c in classes if c["name"] == other)
    assert outside.any()
    np.testing.assert_array_equal(labels, np.where(outside | (plain == unwanted), 0, plain))
    kept = np.asanyarray(nib.load(tmp_path / "out" / "b.nii.gz").dataobj)
    np.testing.assert_array_equal(kept, plain)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]
    assert record["a"]["emptied_outside"] == {name: [first, last], other: []}
    assert record["b"]["emptied_outside"] == {}

    with pytest.raises(PosconError, match=r"a\.nii\.gz: was made with other ranges"):
        predict(finetuned, tmp_path / "in", tmp_path / "out", resume=True)
    assert predict(finetuned, tmp_path / "in", tmp_path / "out", ranges=ranges, resume=True)


def test_a_range_does_not_choose_the_largest_structure(
    finetuned: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes touch. What is left of one within its range is smaller than the other."""

    def stacked(logits: torch.Tensor) -> None:
        half = len(logits) // 2
        logits[:half, 1, 6:12, 6:12] = logits[half:, 2, 6:12, 6:12] = 9

    seen_as(stacked, monkeypatch)
    run = tmp_path / "run"
    about = one_structure(finetuned, run, told=True)
    (tmp_path / "in").mkdir()
    shutil.copy(scans / "imagesTr" / "phantom_000.nii.gz", tmp_path / "in" / "a.nii.gz")
    name = about["classes"][0]["name"]
    value, other = (c["values"][0] for c in about["classes"][:2])
    (tmp_path / "ranges.csv").write_text(f"case,class,first,last\na,{name},1,2\n")
    predict(run, tmp_path / "in", tmp_path / "out", ranges=tmp_path / "ranges.csv")
    labels = np.asanyarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    slices = {v: np.flatnonzero((labels == v).any((0, 1))).tolist() for v in (value, other)}
    half = labels.shape[2] // 2
    assert slices == {value: [1, 2], other: list(range(half, labels.shape[2]))}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,{name},0,1", "no case 'x' among the 5 scan"),
        ("phantom_000,{name},0,999", "phantom_000: {name} ends in slice 999, and the scan has the"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(
    row: str, message: str, finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    ranges = tmp_path / "ranges.csv"
    name = read_classes(finetuned)[0]
    ranges.write_text(f"case,class,first,last\n{row.format(name=name)}\n")
    with pytest.raises((PosconError, PartlyDone)) as caught:
        predict(finetuned, scans, tmp_path / "out", ranges=ranges)
    failed = getattr(caught.value, "failed", {})
    assert message.format(name=name) in f"{caught.value} {failed}"
    assert not (tmp_path / "out" / "phantom_000.nii.gz").exists()
