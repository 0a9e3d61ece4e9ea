"""A scan is sliced as the training data were, and what is unlike them is found."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.models import load_encoder, load_model
from poscon.store.intensity import normalise
from poscon.store.training_range import TrainingRange
from poscon.volumes.geometry import slice_geometry

TINY = ["size=32", "network.width=4", "network.levels=2", "batch=4"]
THICK = {"sagittal": (4.0, 1.0, 1.0), "coronal": (1.0, 4.0, 1.0), "axial": (1.0, 1.0, 4.0)}
OTHER = {"sagittal": "axial", "coronal": "sagittal", "axial": "coronal"}


def shape_of(spacing: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(24 / mm) for mm in spacing)


def body(spacing: tuple[float, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A ball of 16 mm in noise, and its label map; the head of a scan of 24 mm."""
    rng = np.random.default_rng(seed)
    at = np.meshgrid(
        *[(np.arange(n) + 0.5) * mm - 12 for n, mm in zip(shape_of(spacing), spacing, strict=True)],
        indexing="ij",
    )
    ball = sum(x**2 for x in at) < 64
    return (100 * ball + rng.normal(50, 8, ball.shape)).astype(np.float32), ball.astype(np.uint8)


def save(path: Path, data: np.ndarray, spacing: tuple[float, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1.0])), path)
    return path


def data_set(root: Path, spacings: list[tuple[float, ...]]) -> Path:
    for number, spacing in enumerate(spacings):
        image, label = body(spacing, number)
        save(root / "images" / f"c{number}.nii.gz", image, spacing)
        save(root / "labels" / f"c{number}.nii.gz", label, spacing)
    return root


def trained(root: Path, spacings: list[tuple[float, ...]], **how: Any) -> Path:
    prepare(data_set(root / "scans", spacings), root / "store", processes=1, **how)
    finetune(root / "store", root / "run", iterations=1, settings=TINY)
    return root / "run"


@pytest.fixture(scope="module", params=list(THICK))
def one_plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    plane: str = request.param
    return plane, trained(tmp_path_factory.mktemp(plane), [THICK[plane]] * 2)


@pytest.mark.parametrize("spacing", [(1, 1, 1), *THICK.values(), (1.2, 0.9, 1.1), (2, 2, 1)])
def test_every_scan_is_sliced_in_the_plane_of_the_training(
    spacing: tuple[float, ...], one_plane: tuple[str, Path]
) -> None:
    plane, run = one_plane
    model = load_model(run, device="cpu")
    image = nib.Nifti1Image(body(spacing, 5)[0], np.diag([*spacing, 1.0]))
    turns = list(product(permutations(range(3)), product((1, -1), repeat=3)))
    for order, signs in turns[:: len(turns) // 5]:
        turned = image.as_reoriented(np.array(list(zip(order, signs, strict=True))))
        scan = model.open_image(turned, None, None)
        prepared = model.prepare_single(scan, None)
        assert prepared.geometry.plane == plane
        assert prepared.spacing[1:] == pytest.approx((1, 1), rel=0.1)
        other = prepared.geometry.acquired not in (None, plane)
        assert ("plane" in {d.kind for d in prepared.differences}) == other


def test_the_encoder_slices_as_it_was_trained(tmp_path: Path) -> None:
    spacing = THICK["sagittal"]
    prepare(data_set(tmp_path / "scans", [spacing] * 2), tmp_path / "store", processes=1)
    pretrain(tmp_path / "store", tmp_path / "run", epochs=1, settings=TINY)
    encoder = load_encoder(tmp_path / "run", device="cpu")
    for other in ((1, 1, 1), THICK["axial"]):
        image = nib.Nifti1Image(body(other)[0], np.diag([*other, 1.0]))
        assert len(encoder.embed(image)) == shape_of(other)[0]


def test_a_training_in_several_planes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each plane stays; an unknown one is sliced as most of the training cases are."""
    run = trained(tmp_path, [THICK["sagittal"]] * 2 + [THICK["coronal"]])
    assert "sliced in several planes (sagittal in 2, coronal in 1)" in capsys.readouterr().err
    model = load_model(run, device="cpu")
    found = {}
    for name, spacing in {**THICK, "isotropic": (1.0, 1.0, 1.0)}.items():
        model.segment(body(spacing)[0], spacing=spacing)
        scan = model.open_image(body(spacing)[0], spacing, None)
        found[name] = model.prepare_single(scan, spacing).geometry.plane
    assert found == {
        "sagittal": "sagittal",
        "coronal": "coronal",
        "axial": "sagittal",
        "isotropic": "sagittal",
    }
    assert "acquired in axial slices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spacing", "warned"),
    [((4, 1, 1), False), ((8, 1, 1), False), ((8.1, 1, 1), True), ((6, 2.1, 1), True),
     ((12, 3, 3), True), ((1, 0.3, 0.3), False)],
)  # fmt: skip
def test_coarser_than_the_training(
    spacing: tuple[float, ...], warned: bool, tmp_path: Path
) -> None:
    store = prepare(
        data_set(tmp_path / "s", [(4, 1, 1), (3, 0.8, 1)]), tmp_path / "store", processes=1
    )
    range_ = TrainingRange.of(store, store.cases)
    geometry = slice_geometry((4, 24, 24), np.diag([*spacing, 1.0]), plane="sagittal")
    intensities = [store.cases[0].channels[0].intensity]
    preparation = store.manifest.preparation
    found = range_.differences(geometry, "header", preparation, intensities)
    assert ({d.kind for d in found} == {"spacing"}) == warned
    native = preparation.model_copy(update={"spacing": None})
    kinds = {d.kind for d in range_.differences(geometry, "header", native, intensities)}
    assert ("spacing" in kinds) == (warned or spacing == (1, 0.3, 0.3))


def damaged(kind: str, image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "inverted":
        return image.max() - image
    if kind == "one bright voxel":
        image = image.copy()
        image[0, 0, 0] = 1e6
        return image
    if kind == "hounsfield":
        return image * 10 - 1000
    if kind == "bright spots":
        return np.where(rng.random(image.shape) < 0.02, 1000, image)
    return {"scaled": image * 1000, "shifted": image + 500, "same": image}[kind]


@pytest.mark.parametrize(
    ("kind", "warned"),
    [("inverted", True), ("one bright voxel", True), ("hounsfield", True), ("bright spots", True),
     ("scaled", False), ("shifted", False), ("same", False)],
)  # fmt: skip
def test_intensities_of_another_kind(
    kind: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the normalisation undoes is no difference; MR has no units."""
    spacing = (1.0, 1.0, 3.0)
    model = load_model(trained(tmp_path, [spacing] * 2), device="cpu")
    capsys.readouterr()
    model.segment(damaged(kind, body(spacing, 9)[0]).astype(np.float32), spacing=spacing)
    assert ("unlike the training data" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("shift", "warned"), [(0, False), (1024, True), (-900, True)])
def test_hounsfield_units_are_absolute(
    shift: float, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spacing = (1.0, 1.0, 3.0)
    model = load_model(trained(tmp_path, [spacing] * 2, modality="CT"), device="cpu")
    capsys.readouterr()
    model.segment(body(spacing, 9)[0] + shift, spacing=spacing)
    assert ("Hounsfield" in capsys.readouterr().err) == warned


def test_a_voxel_size_that_was_stated_for_the_training_is_not_that_of_other_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, [(1.0, 1.0, 1.0)] * 2, source_spacing=(1.0, 1.0, 4.0))
    model = load_model(run, device="cpu")
    capsys.readouterr()
    image = nib.Nifti1Image(body((1, 1, 2))[0], np.diag([1, 1, 2, 1.0]))
    scan = model.open_image(image, None, None)
    prepared = model.prepare_single(scan, None)
    assert prepared.geometry.spacing == (2, 1, 1)
    assert "the headers of the training data were replaced" in capsys.readouterr().err
    scan = model.open_image(image, (1, 1, 3), None)
    prepared = model.prepare_single(scan, (1, 1, 3))
    assert prepared.geometry.spacing == (3, 1, 1)
    assert "replaced" not in capsys.readouterr().err


@given(st.floats(0.01, 1000), st.floats(-100, 100), st.integers(0, 5))
def test_percentiles_do_not_depend_on_units(scale: float, shift: float, seed: int) -> None:
    volume = np.random.default_rng(seed).gamma(2, 10, (6, 7, 8))
    first = normalise(volume, "MR")[1].percentiles
    second = normalise(volume * scale + shift * scale, "MR")[1].percentiles
    assert second == pytest.approx(first, abs=1e-2)


def test_pretraining_in_another_plane_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for plane in ("sagittal", "axial"):
        source = data_set(tmp_path / plane, [THICK[plane]] * 2)
        prepare(source, tmp_path / f"{plane}.store", processes=1)
    pretrain(tmp_path / "sagittal.store", tmp_path / "pre", epochs=1, settings=TINY)
    capsys.readouterr()
    finetune(
        tmp_path / "axial.store", tmp_path / "run", init=tmp_path / "pre", iterations=1,
        settings=["size=32", "batch=4"],
    )  # fmt: skip
    assert "plane sagittal there, axial here" in capsys.readouterr().err
