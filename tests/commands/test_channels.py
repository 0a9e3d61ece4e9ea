"""Data sets with several image channels, through the commands: prepare, inspect, predict."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.finetune import finetune
from poscon.commands.inspect import inspect, inspection_tables
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.leakage import read_seen
from poscon.store.oddities import find_oddities
from poscon.store.store import Store

SHAPE = (20, 24, 5)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
NAMES = {"0": "CT", "1": "MRI"}
FINETUNE = ["size=16", "batch=4", "network.width=2", "network.levels=2", "deep_supervision=0"]


def voxels(seed: int) -> np.ndarray:
    """(X, Y, Z, 2): two channels of different scale, each with a mean of its own."""
    random = np.random.default_rng(seed)
    ct = random.normal(-300, 100, SHAPE)
    mr = random.gamma(2, 50, SHAPE)
    return np.stack([ct, mr], axis=-1).astype(np.float32)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def write(root: Path, layout: str, cases: int = 3) -> Path:
    """A data set of two channels, as the Decathlon or nnU-Net has it; the last is unlabelled."""
    for number in range(cases):
        name, data = f"case_{number}", voxels(number)
        folder = root / ("imagesTr" if number < cases - 1 else "imagesTs")
        if layout == "msd":
            save(folder / f"{name}.nii.gz", data)
        else:
            for channel in range(2):
                save(folder / f"{name}_{channel:04d}.nii.gz", data[..., channel])
        if number < cases - 1:
            save(root / "labelsTr" / f"{name}.nii.gz", (data[..., 1] > 100).astype(np.uint8))
    key = "modality" if layout == "msd" else "channel_names"
    labels = {"0": "background", "1": "spot"} if layout == "msd" else {"background": 0, "spot": 1}
    (root / "dataset.json").write_text(json.dumps({key: NAMES, "labels": labels}))
    return root


@pytest.fixture(scope="module", params=["msd", "nnunet"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp(layout), layout)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(source, tmp_path_factory.mktemp("whole") / "store", processes=1)


@pytest.fixture(scope="module")
def model(whole: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    settings = [*FINETUNE, "network.context=1"]
    finetune(whole.path, run, method="supervised", iterations=3, settings=settings)
    return run


def test_each_channel_is_normalised_by_itself(whole: Store) -> None:
    """CT is clipped and MR is not; each has mean 0 and deviation 1."""
    assert whole.manifest.channels == ("CT", "MRI")
    assert whole.channels == 2
    for number, case in enumerate(whole.cases):
        image, data = whole.image(case), voxels(number)
        assert image.shape == (5, 2, 24, 20)
        assert case.modalities == ("CT", "MR")
        for channel, record in enumerate(case.channels):
            values = data[..., channel].astype(float)
            if channel == 0:
                low, high = np.percentile(values, (1, 99))
                values = values.clip(low, high)
                assert (record.intensity.low, record.intensity.high) == pytest.approx((low, high))
            else:
                assert record.intensity.low is record.intensity.high is None
            expected = ((values - values.mean()) / values.std()).transpose(2, 1, 0)
            np.testing.assert_allclose(image[:, channel], expected, atol=5e-3)


def test_one_channel_is_what_the_whole_has_of_it(
    source: Path, whole: Store, tmp_path: Path
) -> None:
    hashes = {case.pixels_sha256 for case in whole.cases}
    for channel, name in enumerate(("CT", "MRI")):
        one = prepare(source, tmp_path / name, channel=channel, processes=1)
        assert one.manifest.channels == (name,)
        for case, both in zip(one.cases, whole.cases, strict=True):
            np.testing.assert_array_equal(one.image(case)[:, 0], whole.image(both)[:, channel])
            assert case.channels == (both.channels[channel],)
            hashes.add(case.pixels_sha256)
    assert len(hashes) == 9  # a hash is of all channels


def test_the_layouts_give_equal_stores(tmp_path: Path) -> None:
    first, second = (
        prepare(write(tmp_path / name, name), tmp_path / f"{name}-store", processes=1)
        for name in ("msd", "nnunet")
    )
    for here, there in zip(first.cases, second.cases, strict=True):
        assert (here.pixels_sha256, here.stored_sha256) == (
            there.pixels_sha256,
            there.stored_sha256,
        )


def test_another_pixel_in_any_channel_is_another_scan(tmp_path: Path) -> None:
    hashes = set()
    for channel in (None, 0, 1):
        root = write(tmp_path / f"scans-{channel}", "msd", cases=1)
        data = voxels(0)
        if channel is not None:
            data[0, 0, 0, channel] += 1
        save(root / "imagesTs" / "case_0.nii.gz", data)
        save(root / "imagesTr" / "case_1.nii.gz", voxels(1))
        store = prepare(root, tmp_path / f"store-{channel}", processes=1)
        hashes.add(store.cases[0].pixels_sha256)
    assert len(hashes) == 3


def test_a_time_series_is_frames_and_not_channels(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "heart.nii.gz", voxels(0))
    store = prepare(tmp_path / "scans", tmp_path / "store", processes=1)
    assert store.channels == 1
    assert [(case.subject, case.frame_index) for case in store.cases] == [
        ("heart", 0),
        ("heart", 1),
    ]


@pytest.mark.parametrize("what", ["shape", "place", "empty", "nan"])
def test_a_channel_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    root = write(tmp_path / "scans", "nnunet")
    data, affine = voxels(0)[..., 1], AFFINE.copy()
    message = {
        "shape": r"shape \(20, 24, 4\) differs from that of its image case_0_0000",
        "place": "lies up to 3 mm from its image case_0_0000",
        "empty": "every voxel has the value 7",
        "nan": r"1 voxel\(s\) are NaN",
    }[what]
    if what == "shape":
        data = data[..., :4]
    elif what == "place":
        affine[0, 3] = 3
    elif what == "empty":
        data = np.full_like(data, 7)
    else:
        data[0, 0, 0] = np.nan
    save(root / "imagesTr" / "case_0_0001.nii.gz", data, affine)
    with pytest.raises(PosconError, match=f"case_0_0001.nii.gz: {message}"):
        prepare(root, tmp_path / "store", processes=1)


def test_channels_within_the_tolerance_lie_at_one_place(tmp_path: Path) -> None:
    root = write(tmp_path / "scans", "nnunet")
    affine = AFFINE.copy()
    affine[0, 3] = 0.04 * 2  # of a voxel of 2 mm
    save(root / "imagesTr" / "case_0_0001.nii.gz", voxels(0)[..., 1], affine)
    assert prepare(root, tmp_path / "store", processes=1).channels == 2


def test_nothing_is_passed_over(whole: Store) -> None:
    """The files of every channel are read."""
    assert whole.manifest.notes == ()


def test_a_stated_spacing_is_that_of_every_channel_and_label(
    layout: str, source: Path, whole: Store, model: Path, tmp_path: Path
) -> None:
    """The headers of all files are singular where the spacing is stated."""
    root = tmp_path / "scans"
    shutil.copytree(source, root)
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        image.set_qform(AFFINE, 1)
        image.set_sform(np.diag([0, 0, 0, 1]), 1)
        nib.save(nib.Nifti1Image(image.dataobj, None, image.header), path)
    with pytest.raises(PosconError, match=r"singular .* --source-spacing"):
        prepare(root, tmp_path / "store", processes=1)
    stated = prepare(root, tmp_path / "store", source_spacing=(2, 2, 4), processes=1)
    hashes = [case.stored_sha256 for case in stated.cases]
    assert hashes == [case.stored_sha256 for case in whole.cases]
    with pytest.raises(PosconError, match=r"singular .* --source-spacing"):
        predict(model, root, tmp_path / "out")
    paths = predict(model, root, tmp_path / "out", source_spacing=(2, 2, 4))
    known = predict(model, source, tmp_path / "known")
    for path, other in zip(paths, known, strict=True):
        np.testing.assert_array_equal(nib.load(path).dataobj, nib.load(other).dataobj)


def test_padding_is_a_matter_of_each_channel(tmp_path: Path) -> None:
    root = write(tmp_path / "scans", "msd")
    data = voxels(0)
    data[:5, ..., 0] = -3024
    save(root / "imagesTr" / "case_0.nii.gz", data)
    store = prepare(root, tmp_path / "store", processes=1)
    shares = [[channel.intensity.padding for channel in case.channels] for case in store.cases]
    assert shares == [[0.25, 0], [0, 0], [0, 0]]
    odd = [oddity for oddity in find_oddities(store) if oddity.kind == "padded"]
    assert [oddity.case for oddity in odd] == ["case_0"]
    assert odd[0].text.startswith("25.0% of the voxels of CT are padding")


def test_inspect_says_the_channels(whole: Store, tmp_path: Path) -> None:
    found = inspect(whole.path, tmp_path / "sheet.png")
    assert found.modalities == {"CT+MR": 3}
    assert found.manifest.channels == ("CT", "MRI")
    assert inspection_tables(found)
    with found.case_table.open(newline="") as file:
        assert {row["modality"] for row in csv.DictReader(file)} == {"CT+MR"}


def test_an_unfinished_store_goes_on(source: Path, whole: Store, tmp_path: Path) -> None:
    """What was prepared stays; a channel's file that has changed since is read again."""
    root = tmp_path / "scans"
    shutil.copytree(source, root)
    image = next(root.glob("imagesTr/case_1*1.nii.gz"), root / "imagesTr/case_1.nii.gz")
    good = image.read_bytes()
    image.write_bytes(good[:50])
    with pytest.raises(PosconError, match="truncated or damaged"):
        prepare(root, tmp_path / "store", processes=1)
    image.write_bytes(good)
    assert prepare(root, tmp_path / "store", processes=1).manifest == whole.manifest


def test_predict_a_folder(source: Path, model: Path, tmp_path: Path) -> None:
    paths = predict(model, source, tmp_path / "out")
    assert len(paths) == 3
    for path in paths:
        image = nib.load(path)
        assert image.shape == SHAPE
        np.testing.assert_array_equal(image.affine, AFFINE)
    assert set(read_seen(tmp_path / "out")) == {"case_0", "case_1"}  # by the pixels of all channels


def test_predict_a_file_of_channels(layout: str, source: Path, model: Path, tmp_path: Path) -> None:
    """A 4-D file has the channels; the answer is that for the folder."""
    save(tmp_path / "new.nii.gz", voxels(0))
    (path,) = predict(model, tmp_path / "new.nii.gz", tmp_path / "out.nii.gz")
    expected = predict(model, source, tmp_path / "all")[0]
    found, known = (np.asarray(nib.load(p).dataobj) for p in (path, expected))
    assert found.shape == SHAPE
    np.testing.assert_array_equal(found, known)
    save(tmp_path / "plain" / "new.nii.gz", voxels(0))
    (path,) = predict(model, tmp_path / "plain", tmp_path / "plain-out")
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), known)


@pytest.mark.parametrize("channels", [1, 3])
def test_predict_with_another_number_of_channels(
    channels: int, model: Path, tmp_path: Path
) -> None:
    data = np.repeat(voxels(0)[..., :1], channels, axis=-1)
    save(tmp_path / "new.nii.gz", data if channels > 1 else data[..., 0])
    with pytest.raises(PosconError, match=rf"new.nii.gz: has {channels} image .* 2 \(CT, MRI\)"):
        predict(model, tmp_path / "new.nii.gz", tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


def test_predict_takes_the_channel_that_was_trained_on_by_its_name(
    source: Path, finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model was trained on the only channel of its data, named MRI."""
    by_name = predict(finetuned, source, tmp_path / "name")
    by_number = predict(finetuned, source, tmp_path / "number", channel=1)
    assert len(by_name) == 3
    for one, other in zip(by_name, by_number, strict=True):
        np.testing.assert_array_equal(nib.load(one).dataobj, nib.load(other).dataobj)
    assert "its channel is" not in capsys.readouterr().err
    predict(finetuned, source, tmp_path / "other", channel=0)
    warned = capsys.readouterr().err
    assert warned.count("its channel is CT, that of the training data MRI") == 3
    record = json.loads((tmp_path / "other" / "predictions.json").read_text())
    assert "channel" in {d["kind"] for d in record["cases"]["case_0"]["unlike_training"]}


def test_predict_with_channels_of_other_names(
    source: Path, finetuned: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "scans")
    file = tmp_path / "scans" / "dataset.json"
    content = json.loads(file.read_text())
    key = "modality" if "modality" in content else "channel_names"
    file.write_text(json.dumps({**content, key: {"0": "FLAIR", "1": "T1"}}))
    with pytest.raises(PosconError, match=r"has 2 image .* takes 1 \(.*\); choose .* --channel"):
        predict(finetuned, tmp_path / "scans", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(predict(finetuned, tmp_path / "scans", tmp_path / "out", channel=1)) == 3


def test_channels_in_another_order_are_found_by_name(
    layout: str, source: Path, model: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(source, tmp_path / "scans")
    content = json.loads((other / "dataset.json").read_text())
    key = "modality" if layout == "msd" else "channel_names"
    content[key] = {"0": NAMES["1"], "1": NAMES["0"]}
    (other / "dataset.json").write_text(json.dumps(content))
    for path in other.glob("images*/*.nii.gz"):
        if layout == "msd":
            image = nib.load(path)
            save(path, np.asarray(image.dataobj)[..., ::-1], image.affine)
        elif path.name.endswith("_0000.nii.gz"):
            second = path.with_name(path.name.replace("_0000", "_0001"))
            path.rename(path.with_name("moved"))
            second.rename(path)
            path.with_name("moved").rename(second)
    found = predict(model, other, tmp_path / "found")
    expected = predict(model, source, tmp_path / "expected")
    for one, usual in zip(found, expected, strict=True):
        np.testing.assert_array_equal(nib.load(one).dataobj, nib.load(usual).dataobj)


def test_a_network_for_another_number_of_channels(
    whole: Store, store: Path, pretrained: Path, tmp_path: Path
) -> None:
    refusal = r"has 2 image channel\(s\), the network takes 1"
    with pytest.raises(PosconError, match=refusal):
        pretrain(whole.path, tmp_path / "run", settings=["network.channels=1"])
    with pytest.raises(PosconError, match=refusal):
        finetune(whole.path, tmp_path / "run", settings=["network.channels=1"])
    with pytest.raises(PosconError, match=refusal):
        finetune(whole.path, tmp_path / "run", init=pretrained)
    assert not (tmp_path / "run").exists()
