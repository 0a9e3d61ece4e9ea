"""Scan files: geometry survives the round trip, broken files are named in one line."""

import gzip
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.volumes.scan import (
    Scan,
    first_volume,
    read_header,
    read_scan,
    read_shape,
    scan_stem,
    scan_suffix,
    write_labels,
)

SHAPE = (4, 5, 6)
OBLIQUE = np.array(  # rotated about z, 1.5 x 1.5 x 8 mm, far from the origin
    [[1.2, -0.9, 0, -80], [0.9, 1.2, 0, 30.5], [0, 0, 8, 12], [0, 0, 0, 1]]
)


def voxels(shape: tuple[int, ...] = SHAPE, dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_nifti(
    path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE, kind: type = nib.Nifti1Image
) -> Path:
    nib.save(kind(data, affine), path)
    return path


def write_itk(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    """Write through SimpleITK; its world is LPS+, the affine is RAS+."""
    image = SimpleITK.GetImageFromArray(data.T, isVector=False)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = np.eye(data.ndim)
    direction[:3, :3] = (lps[:3, :3] / spacing)[: data.ndim, : data.ndim]
    image.SetDirection(direction[: data.ndim, : data.ndim].ravel())
    image.SetSpacing([*spacing, 1.0][: data.ndim])
    image.SetOrigin([*lps[:3, 3], 0.0][: data.ndim])
    SimpleITK.WriteImage(image, str(path))
    return path


def labelled(scan: Scan) -> np.ndarray:
    return (scan.data % 4).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("a.nii.gz", "a", ".nii.gz"),
        ("a.b.nii", "a.b", ".nii"),
        ("A.NII.GZ", "A", ".nii.gz"),
        ("x.nrrd", "x", ".nrrd"),
        ("notes.txt", "notes.txt", ""),
    ],
)
def test_stem_and_suffix(name: str, stem: str, suffix: str) -> None:
    assert (scan_stem(Path(name)), scan_suffix(Path(name))) == (stem, suffix)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_every_format_gives_the_same_voxels_and_world(tmp_path: Path, suffix: str) -> None:
    write = write_nifti if suffix.startswith(".nii") else write_itk
    path = write(tmp_path / f"scan{suffix}", voxels())
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.data, voxels())
    assert scan.data.dtype == np.int16
    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(scan.spacing, (1.5, 1.5, 8), atol=1e-5)
    header = read_header(path)
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, scan.affine)
    np.testing.assert_allclose(header.spacing, scan.spacing)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3), (4, 5)], ids=["3-D", "4-D", "2-D"])
def test_labels_lie_on_the_scan(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    write = write_nifti if suffix.startswith(".nii") else write_itk
    scan = read_scan(write(tmp_path / f"scan{suffix}", voxels(shape)))
    assert scan.data.shape == ((4, 5, 1) if len(shape) == 2 else shape)
    target = tmp_path / "out" / f"labels{suffix}"
    write_labels(target, labelled(scan), scan)

    again = read_scan(target)
    np.testing.assert_array_equal(again.data, labelled(scan))
    assert again.data.dtype == np.uint8
    np.testing.assert_allclose(again.affine, scan.affine)
    assert read_header(target).shape == read_header(scan.path).shape
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (2, 1), (1, 4)])
def test_written_labels_keep_sform_qform_and_units(
    tmp_path: Path, kind: type, codes: tuple[int, int]
) -> None:
    image = kind(voxels(), None)
    sform, qform = codes
    image.header.set_zooms((1.5, 1.5, 8))
    image.header.set_sform(OBLIQUE, code=sform)
    image.header.set_qform(np.diag([1.5, 1.5, 8, 1]), code=qform)  # not what the sform says
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "scan.nii.gz"
    image.to_filename(path)

    scan = read_scan(path)
    write_labels(tmp_path / "labels.nii.gz", labelled(scan), scan)
    before, after = nib.load(path).header, nib.load(tmp_path / "labels.nii.gz").header
    for field in ("sform_code", "qform_code", "pixdim", "xyzt_units", "srow_x", "quatern_d"):
        np.testing.assert_array_equal(after[field], before[field], err_msg=field)
    assert (int(after["sform_code"]), int(after["qform_code"])) == codes
    assert type(after) is type(before)


def test_scaling_of_the_scan_is_applied_and_not_handed_to_the_labels(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), OBLIQUE)
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "ct.nii.gz")
    scan = read_scan(tmp_path / "ct.nii.gz")
    stored = np.asanyarray(nib.load(tmp_path / "ct.nii.gz").dataobj.get_unscaled())
    np.testing.assert_allclose(scan.data, stored * 2.0 - 1000)
    assert scan.data.dtype == np.float32  # which takes half the memory of what nibabel gives
    labels = np.full(SHAPE, 3, np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, scan)
    np.testing.assert_array_equal(read_scan(tmp_path / "labels.nii.gz").data, labels)


def test_a_compressed_scan_takes_its_own_bytes_only(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-9, 9, (256, 256, 128)).astype(np.int16)
    path = write_nifti(tmp_path / "scan.nii.gz", values)
    tracemalloc.start()
    try:
        scan = read_scan(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(scan.data, values)
    assert values.nbytes <= peak < 1.5 * values.nbytes


def test_large_label_values_survive(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii.gz", voxels()))
    labels = np.where(scan.data > 50, 850, 0).astype(np.uint16)
    write_labels(tmp_path / "labels.nii.gz", labels, scan)
    np.testing.assert_array_equal(read_scan(tmp_path / "labels.nii.gz").data, labels)


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_trailing_axes_of_length_1_are_dropped_and_written_back(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii.gz", voxels(shape)))
    assert scan.data.shape == SHAPE
    write_labels(tmp_path / "labels.nii.gz", labelled(scan), scan)
    assert nib.load(tmp_path / "labels.nii.gz").shape == nib.load(scan.path).shape


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii.gz", voxels()))

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(PosconError, match="no space"):
        write_labels(tmp_path / "out" / "labels.nii.gz", labelled(scan), scan)
    assert not list((tmp_path / "out").iterdir())


# Broken files. Every message is one line that names the file.


def assert_named(path: Path, match: str) -> None:
    for read in (read_scan, read_header):
        with pytest.raises(PosconError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert_named(tmp_path / "none.nii.gz", "no such file")


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(b"png")
    assert_named(tmp_path / "scan.png", "not a format poscon reads")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_zero_bytes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"scan{suffix}").touch()
    assert_named(tmp_path / f"scan{suffix}", "empty")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("content", [b"<html>404</html>", b"\0" * 1000], ids=["html", "zeros"])
def test_not_an_image(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"scan{suffix}").write_bytes(content)
    assert_named(tmp_path / f"scan{suffix}", "cannot be read")


def test_gzip_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b"hello" * 1000))
    assert_named(tmp_path / "scan.nii.gz", "cannot be read")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 9999, (30, 30, 10)).astype(np.int16)
    write = write_nifti if suffix.startswith(".nii") else write_itk
    path = write(tmp_path / f"scan{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(PosconError, match="cannot be read") as caught:
        read_scan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(7,), (3, 3, 3, 2, 3)])
def test_neither_volume_nor_series(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert_named(write_nifti(tmp_path / "scan.nii.gz", voxels(shape)), "neither a 3-D volume")


def test_colour_is_refused(tmp_path: Path) -> None:
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(PosconError, match="one number per voxel"):
        read_scan(write_nifti(tmp_path / "scan.nii.gz", colour))
    vectors = SimpleITK.GetImageFromArray(np.zeros((6, 5, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(vectors, str(tmp_path / "scan.nrrd"))
    with pytest.raises(PosconError, match="one number per voxel"):
        read_scan(tmp_path / "scan.nrrd")


# Headers that other programs read, and reasons that say something.


def change_header(path: Path, **fields: object) -> Path:
    """Change fields of a NIfTI header in place, past nibabel's own checks."""
    raw = bytearray(path.read_bytes())
    header = np.ndarray((), nib.nifti1.header_dtype, raw)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize("excess", [0, 1e-7, 1e-6, 1e-5])
def test_a_quaternion_that_is_too_long_by_rounding(tmp_path: Path, excess: float) -> None:
    half = np.sqrt((1 + excess) / 2)
    path = change_header(
        write_nifti(tmp_path / "scan.nii", voxels()),
        qform_code=1,
        sform_code=0,
        quatern_b=0,
        quatern_c=half,
        quatern_d=half,
    )
    scan = read_scan(path)
    expected = np.array([[-1.5, 0, 0], [0, 0, 8], [0, 1.5, 0]])
    np.testing.assert_allclose(scan.affine[:3, :3], expected, atol=1e-4)
    write_labels(tmp_path / "labels.nii", labelled(scan), scan)
    again = read_scan(tmp_path / "labels.nii")
    np.testing.assert_array_equal(again.affine, scan.affine)


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": [1, 1, 1, 0, 0, 0, 0, 0]},
        {"pixdim": [1, 1, 1, -2, 0, 0, 0, 0]},
        {"pixdim": [1, 1, np.nan, 2, 0, 0, 0, 0]},
        {"pixdim": [1, 0.001, 0.001, 0.002, 0, 0, 0, 0]},
        {"pixdim": [1, 1, 1, 101, 0, 0, 0, 0]},
        {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0], "xyzt_units": 1},  # metres
        {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0], "xyzt_units": 3},  # micrometres
    ],
)
@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_voxel_size_that_cannot_be_is_refused_unless_stated(
    tmp_path: Path, fields: dict[str, object], qform_code: int
) -> None:
    path = write_nifti(tmp_path / "scan.nii", voxels())
    change_header(path, sform_code=0, qform_code=qform_code, **fields)
    assert_named(path, "--source-spacing")
    for spacing in ((1, 1, 2), (0.7, 0.8, 5)):
        assert read_scan(path, spacing=spacing).spacing == pytest.approx(spacing)
        assert read_header(path, spacing=spacing).spacing == pytest.approx(spacing)
    assert read_shape(path) == SHAPE


def test_labels_keep_the_header_of_a_scan_whose_spacing_was_stated(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", voxels())
    change_header(path, sform_code=0, qform_code=1, pixdim=[1, 1, 1, 0, 0, 0, 0, 0])
    scan = read_scan(path, spacing=(1, 1, 2))
    write_labels(tmp_path / "labels.nii", labelled(scan), scan)
    again = read_scan(tmp_path / "labels.nii", spacing=(1, 1, 2))
    np.testing.assert_array_equal(again.affine, scan.affine)
    np.testing.assert_array_equal(again.data, labelled(scan))


PLACE = ("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c")
PLACE += ("quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


@contextmanager
def assert_no_words() -> Iterator[None]:
    """Nibabel does not speak to the user in the middle of poscon's own lines."""
    said = BufferingHandler(capacity=100)
    nib.imageglobals.logger.addHandler(said)
    yield
    nib.imageglobals.logger.removeHandler(said)
    assert not said.buffer


@given(
    codes=st.tuples(st.sampled_from([0, 1, 4, 5, 200]), st.sampled_from([1, 2, 5, 200])),
    pixdim=st.lists(st.sampled_from([0, -1, 1, 2.5, np.nan]), min_size=8, max_size=8),
    quaternion=st.tuples(*[st.sampled_from([0, 0.6, -0.3, 9, np.nan])] * 3),
    units=st.sampled_from([0, 2, 10, 18]),
    ones=st.integers(0, 3),
    offset=st.sampled_from([352, 356, 368]),
    kind=st.sampled_from([nib.Nifti1Header, nib.Nifti2Header]),
    order=st.sampled_from("<>"),
)
def test_a_label_map_keeps_every_word_that_says_where_its_scan_lies(
    tmp_path_factory: pytest.TempPathFactory,
    codes: tuple[int, int],
    pixdim: list[float],
    quaternion: tuple[float, ...],
    units: int,
    ones: int,
    offset: int,
    kind: type,
    order: str,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    header = kind(endianness=order)
    header["dim"] = [3 + ones, *SHAPE, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = 4, 16
    header["pixdim"], header["xyzt_units"] = pixdim, units
    header["qform_code"], header["sform_code"] = codes
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion
    header["qoffset_x"] = 3.5
    header["srow_x"], header["srow_y"], header["srow_z"] = OBLIQUE[:3]
    header["vox_offset"] = offset if kind is nib.Nifti1Header else offset + 192
    start = header.binaryblock.ljust(int(header["vox_offset"]), b"\0")
    path = folder / "words.nii"
    path.write_bytes(start + voxels().astype(f"{order}i2").tobytes("F"))

    scan = read_scan(path)
    np.testing.assert_array_equal(scan.data, voxels())
    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-5)
    with assert_no_words():
        write_labels(folder / "words-labels.nii", labelled(scan), scan)
    with (folder / "words-labels.nii").open("rb") as file:
        written = kind.from_fileobj(file, check=False)
    for field in PLACE:
        assert written[field].tobytes() == header[field].tobytes(), field
    np.testing.assert_array_equal(read_scan(folder / "words-labels.nii").data, labelled(scan))


@pytest.mark.parametrize("offset", [0, -1, 300])
def test_a_header_is_not_taken_for_voxels(tmp_path: Path, offset: int) -> None:
    path = change_header(write_nifti(tmp_path / "scan.nii", voxels()), vox_offset=offset)
    assert_named(path, "inside its header")


def test_a_sform_of_zeros(tmp_path: Path) -> None:
    zeros = {f"srow_{axis}": 0 for axis in "xyz"}
    path = change_header(write_nifti(tmp_path / "scan.nii", voxels()), **zeros)
    assert_named(path, "singular")
    with pytest.raises(PosconError, match="does not state the directions"):
        read_scan(path, spacing=(1, 1, 2))


@pytest.mark.parametrize("size", ["0", "-2", "nan", "0.001", "200"])
def test_a_voxel_size_that_cannot_be_in_metaimage(tmp_path: Path, size: str) -> None:
    path = write_itk(tmp_path / "scan.mha", voxels(), np.diag([-1.0, -1, 1, 1]))
    content = path.read_bytes()
    assert b"ElementSpacing = 1 1 1" in content
    path.write_bytes(
        content.replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = 1 1 {size}".encode())
    )
    assert_named(path, "--source-spacing")


@pytest.mark.parametrize("suffix", [".NII", ".NII.GZ", ".NRRD", ".MHA", ".Mhd"])
def test_suffixes_in_capitals(tmp_path: Path, suffix: str) -> None:
    write = write_nifti if suffix.startswith(".NII") else write_itk
    lower = write(tmp_path / f"scan{suffix.lower()}", voxels())
    path = lower.rename(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(read_scan(path).data, voxels())


def test_the_reason_is_the_librarys_own_and_not_its_source(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "scan.mha", voxels())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(PosconError, match="is it truncated or damaged") as caught:
        read_scan(path)
    for noise in (".cxx", ".hxx", "0x", "Exception thrown", "Success"):
        assert noise not in str(caught.value)


def test_a_header_whose_voxel_file_is_missing(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "scan.mhd", voxels())
    next(tmp_path.glob("scan.*raw")).unlink()
    with pytest.raises(
        PosconError, match=r"its voxels should be in scan\.z?raw beside it"
    ) as caught:
        read_scan(path)
    assert "truncated" not in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", voxels())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PosconError, match=r"Permission denied\); check its permissions") as caught:
        read_scan(path)
    assert "truncated" not in str(caught.value)


def put_nrrd(path: Path, kinds: str, directions: str, shape: tuple[int, ...]) -> Path:
    header = f"NRRD0004\ntype: short\ndimension: 4\nsizes: {' '.join(map(str, shape))}\n"
    header += f"{directions}kinds: {kinds}\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + np.arange(np.prod(shape), dtype="<i2").tobytes())
    return path


SPACE = "space: left-posterior-superior\nspace directions: {}\nspace origin: (0,0,0)\n"


@pytest.mark.parametrize("kind", ["time", "list", "vector"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("oriented", [True, False])
def test_a_nrrd_with_its_channels_first_is_never_read_as_space(
    tmp_path: Path, kind: str, first: bool, oriented: bool
) -> None:
    axes, steps = ["domain"] * 3, ["(1,0,0)", "(0,1,0)", "(0,0,3)"]
    axes.insert(0 if first else 3, kind)
    steps.insert(0 if first else 3, "none")
    shape = (2, 4, 5, 6) if first else (4, 5, 6, 2)
    directions = SPACE.format(" ".join(steps)) if oriented else ""
    path = put_nrrd(tmp_path / "scan.nrrd", " ".join(axes), directions, shape)
    if kind == "time" and not first and not oriented:
        assert read_scan(path).data.shape == (4, 5, 6, 2)
    else:
        assert_named(path, "cannot be read|list of volumes|is a time axis")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_first_volume_has_the_geometry_in_space(tmp_path: Path, suffix: str) -> None:
    write = write_nifti if suffix.startswith(".nii") else write_itk
    series = read_scan(write(tmp_path / f"scan{suffix}", voxels((4, 5, 6, 3))))
    first = first_volume(series)
    np.testing.assert_array_equal(first.data, series.data[..., 0])
    write_labels(tmp_path / f"labels{suffix}", labelled(first), first)
    again = read_scan(tmp_path / f"labels{suffix}")
    np.testing.assert_array_equal(again.data, labelled(first))
    np.testing.assert_allclose(again.affine, series.affine)
