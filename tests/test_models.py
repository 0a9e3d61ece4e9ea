"""Trained networks as objects: any kind of image in, the same kind out."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

import poscon
from poscon.commands.predict import predict
from poscon.errors import PosconError
from poscon.models import FeatureExtractor, Model, load_encoder, load_model
from poscon.store.preparation import prepare_image
from poscon.volumes.geometry import slice_geometry


@pytest.fixture(scope="module")
def model(finetuned: Path) -> Model:
    return load_model(finetuned, device="cpu")


@pytest.fixture(scope="module")
def encoder(pretrained: Path) -> FeatureExtractor:
    return load_encoder(pretrained, device="cpu")


@pytest.fixture(scope="module")
def scan(scans: Path) -> Path:
    return scans / "imagesTr" / "phantom_000.nii.gz"


@pytest.fixture(scope="module")
def image(scan: Path) -> Any:
    return nib.load(scan)


@pytest.fixture(scope="module")
def expected(finetuned: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What ``poscon predict`` writes for the scan."""
    target = tmp_path_factory.mktemp("expected") / "out.nii.gz"
    predict(finetuned, scan, target, device="cpu")
    labels = np.asanyarray(nib.load(target).dataobj)
    assert len(np.unique(labels)) > 1  # else nothing is compared with nothing
    return labels


def test_array_in_array_out(model: Model, image: Any, expected: np.ndarray) -> None:
    data = np.asanyarray(image.dataobj)
    labels = model.segment(data, affine=image.affine)
    assert isinstance(labels, np.ndarray)
    np.testing.assert_array_equal(labels, expected)
    straight = nib.as_closest_canonical(image)
    by_spacing = model.segment(
        np.asanyarray(straight.dataobj), spacing=tuple(map(float, straight.header.get_zooms()))
    )
    canonical = nib.as_closest_canonical(nib.Nifti1Image(expected, image.affine))
    np.testing.assert_array_equal(by_spacing, np.asanyarray(canonical.dataobj))


def test_nibabel_in_nibabel_out(model: Model, image: Any, expected: np.ndarray) -> None:
    labels = model.segment(image)
    assert isinstance(labels, nib.Nifti1Image)
    np.testing.assert_array_equal(labels.affine, image.affine)
    np.testing.assert_array_equal(np.asanyarray(labels.dataobj), expected)
    assert labels.get_data_dtype() == np.uint8


def test_an_affine_changed_in_place_counts(model: Model, image: Any) -> None:
    changed = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    changed.affine[:3, 3] += 5
    np.testing.assert_allclose(model.segment(changed).affine, changed.affine, atol=1e-4)


def test_simpleitk_in_simpleitk_out(model: Model, scan: Path, expected: np.ndarray) -> None:
    image = SimpleITK.ReadImage(str(scan))
    labels = model.segment(image)
    assert isinstance(labels, SimpleITK.Image)
    assert labels.GetSpacing() == image.GetSpacing()
    assert labels.GetOrigin() == image.GetOrigin()
    assert labels.GetDirection() == image.GetDirection()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels).T, expected)


def test_a_path_gives_an_image_of_the_library_of_its_format(
    model: Model, scan: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    from_nifti = model.segment(str(scan))
    assert isinstance(from_nifti, nib.Nifti1Image)
    np.testing.assert_array_equal(np.asanyarray(from_nifti.dataobj), expected)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(scan)), str(tmp_path / "scan.nrrd"))
    from_nrrd = model.segment(tmp_path / "scan.nrrd")
    assert isinstance(from_nrrd, SimpleITK.Image)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(from_nrrd).T, expected)


def test_a_series_comes_back_as_a_series(model: Model, image: Any, expected: np.ndarray) -> None:
    data = np.asanyarray(image.dataobj)
    series = np.stack([data, data[::-1]], axis=-1)
    labels = model.segment(series, affine=image.affine)
    assert labels.shape == series.shape
    np.testing.assert_array_equal(labels[..., 0], expected)
    as_image = model.segment(nib.Nifti1Image(series, image.affine))
    np.testing.assert_array_equal(np.asanyarray(as_image.dataobj), labels)


def test_spacing_replaces_that_of_a_header(
    model: Model, finetuned: Path, image: Any, scan: Path, tmp_path: Path
) -> None:
    doubled = tuple(2 * float(mm) for mm in image.header.get_zooms())
    predict(finetuned, scan, tmp_path / "out.nii.gz", source_spacing=doubled, device="cpu")
    theirs = np.asanyarray(nib.load(tmp_path / "out.nii.gz").dataobj)
    ours = model.segment(image, spacing=doubled)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), theirs)
    assert (theirs != np.asanyarray(model.segment(image).dataobj)).any()
    np.testing.assert_array_equal(ours.affine, image.affine)


def kinds_of(data: np.ndarray, sizes: tuple[float, float, float]) -> dict[str, dict[str, Any]]:
    """One scan in every form in memory, with voxels of a size in mm; the arguments for it."""
    affine = np.diag([*sizes, 1.0])
    itk = SimpleITK.GetImageFromArray(data.T)
    itk.SetSpacing(sizes)
    itk.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # its world is LPS+
    return {
        "array": {"image": data, "affine": affine},
        "nibabel": {"image": nib.Nifti1Image(data, affine)},
        "SimpleITK": {"image": itk},
    }


@pytest.mark.parametrize("kind", ["array", "nibabel", "SimpleITK"])
@pytest.mark.parametrize("sizes", [(0.002, 0.002, 0.004), (2.0, 2.0, 400.0)])
def test_a_voxel_size_that_cannot_be_is_refused_in_memory_too(
    model: Model, image: Any, kind: str, sizes: tuple[float, float, float]
) -> None:
    data = np.asanyarray(image.dataobj)
    wrong, right = kinds_of(data, sizes)[kind], kinds_of(data, (2.0, 2.0, 4.0))[kind]
    with pytest.raises(PosconError, match=r"^image: .* mm.* with spacing$"):
        model.segment(**wrong)
    wrong.pop("affine", None)
    labels, known = model.segment(**wrong, spacing=(2, 2, 4)), model.segment(**right)
    if kind == "nibabel":
        labels, known = np.asanyarray(labels.dataobj), np.asanyarray(known.dataobj)
    elif kind == "SimpleITK":
        labels, known = map(SimpleITK.GetArrayFromImage, (labels, known))
    np.testing.assert_array_equal(labels, known)


def test_an_absurd_size_that_is_stated(model: Model) -> None:
    for spacing in ((0.001, 0.001, 0.002), (1, 1, 500), (1, 1, np.inf)):
        with pytest.raises(PosconError, match=r"^spacing: must be three sizes from 0\.01"):
            model.segment(CUBE, spacing=spacing)


def test_an_image_in_metres(model: Model, image: Any, expected: np.ndarray) -> None:
    metres = nib.Nifti1Image(
        np.asanyarray(image.dataobj), np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine
    )
    metres.header.set_xyzt_units("meter")
    np.testing.assert_array_equal(np.asanyarray(model.segment(metres).dataobj), expected)


def test_a_file_with_a_header_that_nibabel_does_not_take(
    model: Model, image: Any, tmp_path: Path
) -> None:
    """A quaternion of too great a length by rounding; and no voxel size, which is stated."""
    for name, fields, spacing in (
        ("long", {"quatern_b": 0, "quatern_c": 0, "quatern_d": 1 + 2e-7}, None),
        ("unknown", {"pixdim": [1, np.nan, np.nan, np.nan, 0, 0, 0, 0]}, (2, 2, 4)),
    ):
        path = tmp_path / f"{name}.nii"
        good = nib.Nifti1Image(np.asanyarray(image.dataobj), np.diag([-2.0, -2.0, 4.0, 1.0]))
        good.set_qform(good.affine, 1)
        good.set_sform(None, 0)
        nib.save(good, path)
        header = nib.load(path).header.copy()
        for key, value in {**fields, "vox_offset": 352}.items():
            header[key] = value
        content = path.read_bytes()
        path.write_bytes(header.binaryblock + content[len(header.binaryblock) :])
        labels = model.segment(path, spacing=spacing)
        np.testing.assert_allclose(labels.affine, good.affine, atol=1e-5)
        known = np.asanyarray(model.segment(good).dataobj)
        np.testing.assert_array_equal(np.asanyarray(labels.dataobj), known)


def test_features_are_the_pooled_bottleneck(encoder: FeatureExtractor, image: Any) -> None:
    """Against a slow version: each slice alone, padded by hand."""
    data = np.asanyarray(image.dataobj)
    features = encoder.embed(image)
    geometry = slice_geometry(data.shape, image.affine, plane=encoder.preparation.plane)
    prepared, _ = prepare_image([data], geometry, encoder.preparation.spacing, ["MR"], "a scan")
    stack = prepared[:, 0]
    assert features.dtype == np.float32
    assert features.shape == (len(stack), encoder.encoder.feature_channels)
    for number in (0, len(stack) // 2):
        rows, columns = stack[number].shape
        stride = encoder.encoder.settings.stride
        high = max(encoder.size, stride * -(-rows // stride))
        wide = max(encoder.size, stride * -(-columns // stride))
        padded = np.zeros((1, 1, high, wide), np.float32)
        top, left = (high - rows) // 2, (wide - columns) // 2
        padded[0, 0, top : top + rows, left : left + columns] = stack[number]
        with torch.no_grad():
            bottleneck = encoder.encoder(torch.from_numpy(padded))[-1].double()
        expected = bottleneck.mean(dim=(2, 3))[0].numpy()
        np.testing.assert_allclose(features[number], expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_kind_of_image(
    encoder: FeatureExtractor, image: Any, scan: Path
) -> None:
    expected = encoder.embed(scan)
    for same in (image, SimpleITK.ReadImage(str(scan))):
        np.testing.assert_allclose(encoder.embed(same), expected, rtol=1e-5, atol=1e-6)
    array = np.asanyarray(image.dataobj)
    np.testing.assert_allclose(
        encoder.embed(array, affine=image.affine), expected, rtol=1e-5, atol=1e-6
    )


def test_the_encoder_of_a_fine_tuned_model(finetuned: Path, model: Model, scan: Path) -> None:
    found = load_encoder(finetuned, device="cpu")
    for name, value in model.network.encoder.state_dict().items():
        assert torch.equal(found.encoder.state_dict()[name], value)
    assert found.embed(scan).shape[1] == found.encoder.feature_channels


def test_they_are_in_the_api(finetuned: Path) -> None:
    assert poscon.load_model is load_model
    assert poscon.load_encoder is load_encoder
    assert f"{finetuned}" in repr(load_model(finetuned))


CUBE = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
VECTOR = SimpleITK.GetImageFromArray(np.zeros((4, 8, 8, 3), np.float32), isVector=True)
COLOUR = nib.Nifti1Image(
    np.zeros((8, 8, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), np.eye(4)
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": CUBE}, "no voxel size; give spacing or affine"),
        ({"image": CUBE, "spacing": (1, 1, 1), "affine": np.eye(4)}, "give one of them"),
        ({"image": CUBE, "spacing": (1, 1)}, "three positive sizes in mm"),
        ({"image": CUBE, "spacing": ("1", "1", "1")}, "three positive sizes in mm"),
        ({"image": CUBE, "spacing": (1, 0, 1)}, "three positive sizes in mm"),
        ({"image": CUBE, "affine": np.eye(3)}, "must be (4, 4)"),
        ({"image": CUBE, "affine": np.zeros((4, 4))}, "singular"),
        ({"image": CUBE[0], "spacing": (1, 1, 1)}, "shape (8, 4); give (X, Y, Z)"),
        ({"image": CUBE[None, None], "spacing": (1, 1, 1)}, "shape (1, 1, 8, 8, 4)"),
        ({"image": np.full_like(CUBE, np.nan), "spacing": (1, 1, 1)}, "image: "),
        ({"image": CUBE.astype(complex), "spacing": (1, 1, 1)}, "one number per voxel"),
        ({"image": VECTOR}, "one number per voxel"),
        ({"image": COLOUR}, "one number per voxel"),
        ({"image": nib.Nifti1Image(CUBE, np.eye(4)), "affine": np.eye(4)}, "has its own"),
        ({"image": "scan.nii.gz", "affine": np.eye(4)}, "has its own"),
        ({"image": "scan.nii.gz"}, "no such file"),
        ({"image": CUBE.tolist()}, "cannot be a list"),
        ({"image": torch.zeros(8, 8, 4)}, "cannot be a Tensor"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    model: Model,
    encoder: FeatureExtractor,
    arguments: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (model.segment, encoder.embed):
        with pytest.raises(PosconError) as caught:
            call(**arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_series_is_embedded_frame_by_frame_only(encoder: FeatureExtractor) -> None:
    with pytest.raises(PosconError, match="one 3-D frame at a time"):
        encoder.embed(np.stack([CUBE, CUBE], -1), spacing=(1, 1, 1))


def test_a_missing_run_or_one_of_another_kind(
    pretrained: Path, tmp_path: Path, finetuned: Path, store: Path
) -> None:
    for load in (load_model, load_encoder):
        with pytest.raises(PosconError, match="no such folder; give that of a run"):
            load(tmp_path / "nowhere")
        with pytest.raises(PosconError, match="a folder, and no run; give that of a run of poscon"):
            load(tmp_path)
        with pytest.raises(PosconError, match="a store, and no run;"):
            load(store)
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text("command: finetune")
        with pytest.raises(PosconError, match="did the run finish"):
            load(run)
        with pytest.raises(PosconError, match="device 'tpu' is unknown"):
            load(finetuned, device="tpu")
    with pytest.raises(PosconError, match="a pre-training run"):
        load_model(pretrained)


def test_the_hash_is_of_the_weights_that_are_used(finetuned: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finetuned, tmp_path / "run"))
    content = (run / "model.safetensors").read_bytes()
    model = Model(run)
    (run / "model.safetensors").write_bytes(b"another")
    assert model.sha256 == hashlib.sha256(content).hexdigest()
