"""The voxels of a DICOM series."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from poscon.errors import PosconError
from poscon.volumes.formats.base import Opened, check_memory
from poscon.volumes.formats.dicom.files import read_file
from poscon.volumes.series import Piece, Series

AIR_HU = -1000
"""What pixels outside the field of view of a CT become. In MR they become 0."""


class Dicom:
    """See :class:`poscon.volumes.formats.base.Reader`."""

    def open(self, source: Series) -> Opened:
        if source.fault is not None:
            raise PosconError(f"{source}: {source.fault}")
        return Opened(source.shape, (np.array(source.affine),), True, None)

    def voxels(self, source: Series, opened: Opened) -> tuple[np.ndarray, Any]:
        """The voxels, and the header of a NIfTI file that lies where the series does."""
        x, y, _, *frames = source.shape
        slices = len(source.pieces) // (frames[0] if frames else 1)
        data = np.empty((x, y, len(source.pieces)), _type_of(source.pieces), order="F")
        numbers: dict[Path, list[int]] = defaultdict(list)
        for number, piece in enumerate(source.pieces):
            numbers[piece.file].append(number)
        for file, of_file in numbers.items():
            stored = _stored(file)
            for number in of_file:
                piece = source.pieces[number]
                data[..., number] = _values(stored, piece, source, data.dtype).T
        volume = data.reshape((x, y, slices, *frames), order="F")
        return _mixed(volume, source), _header(source)


def _type_of(pieces: tuple[Piece, ...]) -> np.dtype:
    """The type of the voxels: whole if every value is."""
    whole = all(piece.slope == 1 and piece.intercept.is_integer() for piece in pieces)
    return np.dtype(np.int32 if whole else np.float32)


def _stored(file: Path) -> np.ndarray:
    """The stored numbers of a file, (frames, rows, columns)."""
    try:
        stored = read_file(file)
        frames = int(stored.get("NumberOfFrames") or 1)
        check_memory(frames * stored.Rows * stored.Columns * stored.BitsAllocated // 8, file)
        pixels = np.asarray(stored.pixel_array)
    except PosconError:
        raise
    except Exception as error:  # of many kinds
        raise PosconError(
            f"{file}: its pixels cannot be read ({type(error).__name__}); is it truncated or "
            "damaged? Fetch it again"
        ) from error
    return pixels.reshape(-1, *pixels.shape[-2:])


def _values(stored: np.ndarray, piece: Piece, source: Series, dtype: np.dtype) -> np.ndarray:
    """The values of one slice, (rows, columns)."""
    columns, rows = source.shape[:2]
    if piece.tiles is None:
        pixels = stored[piece.index]
    else:
        down, right = divmod(piece.index, piece.tiles)
        pixels = stored[0, down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]
    if pixels.shape != (rows, columns):
        raise PosconError(f"{piece.file}: has {pixels.shape} pixels, its header says otherwise")
    outside = None
    if piece.padding is not None:
        outside = (pixels >= piece.padding[0]) & (pixels <= piece.padding[1])
    shown = pixels.astype(np.float64)
    if piece.white is not None:
        shown = piece.white - shown
    values = (shown * piece.slope + piece.intercept).astype(dtype)
    if outside is not None:
        values[outside] = AIR_HU if source.modality == "CT" else piece.intercept
    return values


def _mixed(volume: np.ndarray, source: Series) -> np.ndarray:
    """The volume at even distances, if its slices do not lie so."""
    if not source.mixes:
        return volume
    slices = [
        volume[:, :, mix.below] * (1 - mix.weight) + volume[:, :, mix.above] * mix.weight
        for mix in source.mixes
    ]
    return np.stack(slices, axis=2).astype(np.float32)


def _header(source: Series) -> Any:
    """A NIfTI header with the geometry of the series. A quaternion cannot state a gantry tilt."""
    header = nib.Nifti1Header()
    header.set_data_shape(source.shape)
    affine = np.array(source.affine)
    header.set_sform(affine, code=1)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        header.set_qform(affine, code=1)
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units("mm")
    return header
