"""Random scans as bytes of a file, with what a reader must find in them.

Headers are made field by field, without any library's writing. Each volume is dark noise with a
bright block in one corner, so that a voxel that moves is seen. Brightest and darkest voxel are
fixed: a voxel belongs to the block if its value is above the middle of all values.
"""

import gzip
import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.eulerangles import euler2mat
from nibabel.quaternions import mat2quat

Fate = Literal["segmented", "refused", "either"]
"""What must become of a scan; ``either`` where no rule of poscon says it."""
DARK, BRIGHT = (0, 99), (150, 249)
"""Stored values of the noise and of the block, first and last, before any scale."""
ENOUGH_VALUES = 17
"""A volume with fewer different values may be taken for a label map."""


@dataclass(frozen=True)
class RandomScan:
    """A scan to try.

    Attributes:
        suffix: ``.nii.gz`` and the like.
        what: its header in words.
        files: content by suffix. A .mhd has its voxels in a second file.
        reference: the files of a label map with the same header, with 1 in the block.
        inside: (X, Y, Z) or (X, Y, Z, frames), whether a voxel is in the block, in file order.
        affine: (4, 4), voxel index to mm, RAS+.
        fate: what must become of it.
        sheared: whether its axes are not orthogonal.
    """

    suffix: str
    what: str
    files: dict[str, bytes]
    reference: dict[str, bytes]
    inside: np.ndarray
    affine: np.ndarray
    fate: Fate
    sheared: bool


def draw_scan(seed: int, number: int) -> RandomScan:
    """Draw a scan of any format.

    Args:
        seed: seed of the trial.
        number: number of the scan.
    """
    generator = np.random.default_rng([seed, number])
    return _draw_nifti(generator) if generator.random() < 0.7 else _draw_itk(generator)


def _shape(generator: np.random.Generator) -> tuple[list[int], str]:
    """The three axes of space."""
    some = generator.integers(3, 9, 3)
    many = int(generator.integers(40, 80))
    one_slice = [int(n) for n in generator.integers(5, 12, 3)]
    one_slice[generator.integers(3)] = 1
    line = [1, 1, 1]
    line[generator.integers(3)] = many
    kind = generator.choice(["volume", "one slice", "line"], p=[0.8, 0.14, 0.06])
    return {"volume": some.tolist(), "one slice": one_slice, "line": line}[kind], str(kind)


def _volume(generator: np.random.Generator, shape: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values from 0 to 249, and which of them are in the block: half of each axis, at a corner."""
    inside = np.zeros(shape, bool)
    block = []
    for length in shape:
        half = max(1, length // 2)
        first = int(generator.choice([0, length - half]))
        block.append(slice(first, first + half))
    inside[tuple(block)] = True
    values = np.where(
        inside,
        generator.integers(*BRIGHT, shape, endpoint=True),
        generator.integers(*DARK, shape, endpoint=True),
    )
    values.flat[np.flatnonzero(inside)[0]] = BRIGHT[1]
    if not inside.all():
        values.flat[np.flatnonzero(~inside)[-1]] = DARK[0]
    return values, inside


def _frames(
    generator: np.random.Generator, shape: list[int], frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_volume` for each frame; a block of its own each."""
    if frames == 1:
        return _volume(generator, shape)
    volumes, insides = zip(*(_volume(generator, shape) for _ in range(frames)), strict=True)
    return np.stack(volumes, -1), np.stack(insides, -1)


def _enough(values: np.ndarray) -> bool:
    """Whether each volume has so many values that it cannot be a label map."""
    volumes = [values] if values.ndim == 3 else list(np.moveaxis(values, -1, 0))
    return min(len(np.unique(volume)) for volume in volumes) >= ENOUGH_VALUES


def _directions(generator: np.random.Generator) -> tuple[np.ndarray, str]:
    """(3, 3), unit columns."""
    kind = str(generator.choice(["axes", "slightly oblique", "oblique", "sheared"]))
    axes = np.eye(3)[generator.permutation(3)] * generator.choice([-1.0, 1.0], 3)
    if kind == "axes":
        return axes, kind
    angles = generator.uniform(-1, 1, 3) * (0.15 if kind == "slightly oblique" else np.pi)
    turned = euler2mat(*angles) @ axes
    if kind == "sheared":
        turned = turned @ (np.eye(3) + np.triu(generator.uniform(-0.4, 0.4, (3, 3)), 1))
        turned /= np.linalg.norm(turned, axis=0)
    return turned, kind


def _sizes(generator: np.random.Generator) -> np.ndarray:
    sizes = generator.uniform(0.6, 3, 3)
    if generator.random() < 0.5:
        sizes[generator.integers(3)] *= 3
    return sizes


def _origin(generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(-300, 300, 3) * (100 if generator.random() < 0.05 else 1)


def _affine(directions: np.ndarray, sizes: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * sizes, origin
    return affine


# NIfTI

DTYPES = {
    "uint8": 2,
    "int16": 4,
    "int32": 8,
    "float32": 16,
    "float64": 64,
    "int8": 256,
    "uint16": 512,
    "uint32": 768,
    "int64": 1024,
    "uint64": 1280,
}
NOT_SCALAR = {"complex64": (32, 8), "complex128": (1792, 16), "RGB": (128, 3), "RGBA": (2304, 4)}
"""Code and bytes of the types that have several numbers in a voxel."""
CODES = (1, 2, 3, 4, 5, 200)
"""Of sform and qform: 1 to 5 are in the standard; others mean that the matrix is stated, too."""
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def _draw_nifti(generator: np.random.Generator) -> RandomScan:
    shape, shape_kind = _shape(generator)
    frames = int(generator.choice([1, 2, 3], p=[0.85, 0.1, 0.05]))
    values, inside = _frames(generator, shape, frames)
    fate: Fate = "segmented" if _enough(values) else "either"
    order = str(generator.choice(["<", ">"]))
    version = int(generator.choice([1, 2], p=[0.8, 0.2]))
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    what = [f"NIfTI-{version} {order}", shape_kind, f"{shape} x {frames}"]

    dims = [*shape, frames] if frames > 1 else list(shape)
    if frames == 1 and dims[2] == 1 and generator.random() < 0.5:
        dims.pop()
        what.append("two axes")
    elif generator.random() < 0.15:
        dims += [1] * int(generator.integers(1, 8 - len(dims)))
        if generator.random() < 0.2 and len(dims) == 5:
            dims[4] = 2
            fate = "refused"
            values = np.stack([values, values], -1)
        what.append(f"dim {dims}")
    header["dim"] = [len(dims), *dims, *[1] * (7 - len(dims))]

    affine, plausible, words, sheared = _nifti_place(generator, header, shape)
    what += words
    fate = fate if plausible else "refused"

    name = str(generator.choice([*DTYPES, *NOT_SCALAR, "float128", "binary"], p=_DTYPE_SHARES))
    what.append(name)
    if name in DTYPES:
        data, slope, finite = _stored(generator, values, name, header, what)
        if slope < 0:
            inside = ~inside
        fate = fate if finite else "refused"
        raw = data.astype(f"{order}{data.dtype.str[1:]}").tobytes("F")
        header["datatype"], header["bitpix"] = DTYPES[name], data.dtype.itemsize * 8
    else:
        code, size = {**NOT_SCALAR, "float128": (1536, 16), "binary": (1, 1)}[name]
        raw = bytes(generator.integers(0, 255, values.size * size, dtype=np.uint8))
        header["datatype"], header["bitpix"] = code, 8 * size
        fate = "either" if name == "float128" else "refused"

    header["descrip"], header["aux_file"] = b"of a scanner", b"none"
    header["dim_info"] = int(generator.integers(64))
    header["slice_code"] = int(generator.integers(7))
    header["cal_max"] = 200
    suffix = str(generator.choice([".nii", ".nii.gz"]))
    extension = b"" if generator.random() < 0.8 else _extension(generator, order)
    content = _nifti_bytes(header, raw, extension)
    reference = header.copy()
    reference["datatype"], reference["bitpix"] = 2, 8
    reference["scl_slope"], reference["scl_inter"] = 1, 0
    labels = inside if inside.size == np.prod(dims) else np.stack([inside, inside], -1)
    label_content = _nifti_bytes(reference, labels.astype(np.uint8).tobytes("F"), b"")
    if suffix == ".nii.gz":
        content = gzip.compress(content, 1, mtime=0)
        label_content = gzip.compress(label_content, 1, mtime=0)
    return RandomScan(
        suffix,
        ", ".join(what),
        {suffix: content},
        {suffix: label_content},
        inside,
        affine,
        fate,
        sheared,
    )


_DTYPE_SHARES = np.array([9.0] * len(DTYPES) + [1.0] * (len(NOT_SCALAR) + 2))
_DTYPE_SHARES /= _DTYPE_SHARES.sum()


def _nifti_bytes(header: Any, raw: bytes, extension: bytes) -> bytes:
    header = header.copy()
    flag = b"\1\0\0\0" if extension else bytes(4)
    header["vox_offset"] = len(header.binaryblock) + 4 + len(extension)
    return bytes(header.binaryblock) + flag + extension + raw


def _extension(generator: np.random.Generator, order: str) -> bytes:
    size = 16 * int(generator.integers(1, 5))
    head = np.array([size, 6], f"{order}i4").tobytes()
    return head + b"comment".ljust(size - 8, b"\0")


def _stored(
    generator: np.random.Generator, values: np.ndarray, name: str, header: Any, what: list[str]
) -> tuple[np.ndarray, float, bool]:
    """The voxels as stored, the sign of their scale, and whether poscon can read them."""
    dtype, stored = np.dtype(name), values.astype(np.int64)
    slope, inter = 1.0, 0.0
    readable = True
    if dtype == np.int8:
        stored = stored - 125
    if dtype.kind != "f" and dtype.itemsize == 8 and generator.random() < 0.3:
        stored = stored << 40
        what.append("large numbers")
    elif dtype.kind == "i" and dtype.itemsize > 1 and generator.random() < 0.3:
        stored = stored - 1024
    data = (stored + 0.25 if dtype.kind == "f" else stored).astype(dtype)
    scale = str(generator.choice(["1, 0", "0, 0", "NaN", "zero slope", "scaled", "bad inter"]))
    scale = scale if generator.random() < 0.5 else "1, 0"
    header["scl_slope"], header["scl_inter"] = {
        "1, 0": (1, 0),
        "0, 0": (0, 0),
        "NaN": (np.nan, np.nan),
        "zero slope": (0, 55),
        "scaled": (1, 0),
        "bad inter": (2, generator.choice([np.nan, np.inf])),
    }[scale]
    if scale == "scaled" and abs(stored).max() < 2000:
        slope = float(generator.choice([2, 0.5, 0.013, 3.7, -1, -0.37]))
        inter = float(generator.choice([0, 100.5, 7]))
        if (stored * slope + inter).min() < -1150:  # padding of a CT is not anatomy
            slope = abs(slope) / 10
        header["scl_slope"], header["scl_inter"] = slope, inter
    if scale == "bad inter":
        readable = False
    if dtype.kind == "f" and generator.random() < 0.04:
        data.flat[generator.integers(data.size)] = generator.choice([np.nan, np.inf, -np.inf])
        readable = False
        what.append("a voxel that is no number")
    what.append(f"scale {scale} {header['scl_slope']} {header['scl_inter']}")
    return data, slope, readable


def _nifti_place(
    generator: np.random.Generator, header: Any, shape: list[int]
) -> tuple[np.ndarray, bool, list[str], bool]:
    """Fill in sform, qform, voxel sizes and units.

    Returns:
        The affine by the standard, whether it is plausible, what was done in words, and whether
        the axes are not orthogonal.
    """
    directions, kind = _directions(generator)
    sizes, origin = _sizes(generator), _origin(generator)
    code = int(generator.choice([0, 1, 2, 3, 5], p=[0.15, 0.15, 0.5, 0.15, 0.05]))
    unit = MM_PER_UNIT.get(code, 1.0)
    header["xyzt_units"] = code + int(generator.choice([0, 8, 16, 24]))
    which = str(
        generator.choice(["sform", "qform", "both", "they disagree", "neither"], p=[0.3, 0.3, *_3])
    )
    words = [kind, f"unit {code}", which]
    if kind == "sheared" and which in ("qform", "neither"):
        directions, kind = np.linalg.qr(directions)[0], "oblique"
    header["pixdim"] = [1, *(sizes / unit), 2, 1, 1, 1]
    plausible = True
    if which in ("qform", "both", "they disagree"):
        turned, along = np.linalg.qr(directions)[0], sizes
        if which == "they disagree":
            turned, along = np.linalg.qr(generator.normal(size=(3, 3)))[0], _sizes(generator)
        elif kind != "sheared":
            turned = directions
        header["qform_code"] = int(generator.choice(CODES))
        hand = np.sign(np.linalg.det(turned))
        quaternion = mat2quat(turned * [1, 1, hand])
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion[1:]
        header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = origin / unit
        header["pixdim"][1:4] = along / unit
        header["pixdim"][0] = hand if hand < 0 else generator.choice([1, 0])
    if which in ("sform", "both", "they disagree"):
        header["sform_code"] = int(generator.choice(CODES))
        rows = _affine(directions, sizes, origin)[:3] / unit
        header["srow_x"], header["srow_y"], header["srow_z"] = rows
    fault = str(
        generator.choice(["size", "quaternion", "sform", "far too large", "none"], p=_FAULT)
    )
    has_sform = bool(header["sform_code"] != 0)
    has_qform = bool(header["qform_code"] != 0)
    axis = int(generator.integers(3))
    if fault == "size":
        header["pixdim"][1 + axis] = generator.choice([0, -1, np.nan])
        plausible = has_sform
    elif fault == "quaternion":
        header["quatern_b"] = generator.choice([1.5, np.nan, -np.inf])
        plausible = has_sform or not has_qform
    elif fault == "sform" and has_sform:
        values = header[f"srow_{'xyz'[axis]}"]
        if generator.random() < 0.5:
            values[:3] = 0
        else:
            values[generator.integers(4)] = np.nan
        plausible = False
    elif fault == "far too large" and has_sform:
        for name in ("srow_x", "srow_y", "srow_z"):
            header[name][axis] *= generator.choice([1e-3, 1e3])
        plausible = False
    if fault != "none":
        words.append(f"fault {fault}")
    return _stated_affine(header, shape), plausible, words, kind == "sheared" and has_sform


_3 = (0.15, 0.15, 0.1)
_FAULT = (0.04, 0.03, 0.03, 0.02, 0.88)


def _stated_affine(header: Any, shape: list[int]) -> np.ndarray:
    """The affine in mm by the formulas of the standard's nifti1.h."""
    unit = MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.eye(4)
    sizes = np.array(header["pixdim"][1:4], float)
    if int(header["dim"][0]) == 2:
        sizes[2] = 1 / unit  # the slice is 1 mm thick
    if header["sform_code"] != 0:
        affine[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
    elif header["qform_code"] != 0:
        b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
        a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
        hand = -1.0 if header["pixdim"][0] < 0 else 1.0
        turned = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine[:3, :3] = turned * [1, 1, hand] * sizes
        affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    else:  # the standard states no directions; nibabel takes those of Analyze, centred
        affine[:3, :3] = np.diag(sizes * [-1, 1, 1])
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * sizes * [-1, 1, 1]
    affine[:3] *= unit
    return affine


# NRRD and MetaImage

NRRD_TYPES = {
    "uint8": "uchar",
    "int8": "signed char",
    "int16": "short",
    "uint16": "ushort",
    "int32": "int",
    "uint32": "uint",
    "int64": "longlong",
    "uint64": "ulonglong",
    "float32": "float",
    "float64": "double",
}
META_TYPES = {
    "uint8": "MET_UCHAR",
    "int8": "MET_CHAR",
    "int16": "MET_SHORT",
    "uint16": "MET_USHORT",
    "int32": "MET_INT",
    "uint32": "MET_UINT",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}
TO_RAS = {
    "left-posterior-superior": (-1, -1, 1),
    "LPS": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "RAS": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "LAS": (-1, 1, 1),
    "3D-right-handed": (-1, -1, 1),
    "scanner-xyz": (-1, -1, 1),
    "": (-1, -1, 1),
}
"""The signs that turn the axes of a NRRD's space into RAS+; LPS+ where the file names no side."""


def _draw_itk(generator: np.random.Generator) -> RandomScan:
    shape, shape_kind = _shape(generator)
    suffix = str(generator.choice([".nrrd", ".mha", ".mhd"], p=[0.6, 0.2, 0.2]))
    frames = 2 if suffix != ".nrrd" and generator.random() < 0.1 else 1
    values, inside = _frames(generator, shape, frames)
    fate: Fate = "segmented" if _enough(values) else "either"
    directions, kind = _directions(generator)
    sizes, origin = _sizes(generator), _origin(generator)
    dtype = np.dtype(str(generator.choice(list(NRRD_TYPES if suffix == ".nrrd" else META_TYPES))))
    stored = values - 125 if dtype == np.int8 else values + (0.25 if dtype.kind == "f" else 0)
    order = str(generator.choice(["little", "big"]))
    data = stored.astype(f"{'<' if order == 'little' else '>'}{dtype.str[1:]}")
    if generator.random() < 0.03:
        sizes[generator.integers(3)] = generator.choice([0.001, 300])
        fate = "refused"
    place = (directions, sizes, origin)
    if suffix == ".nrrd":
        space = str(generator.choice(list(TO_RAS)))
        packed = bool(generator.random() < 0.5)
        spaced = space == "" and bool(generator.random() < 0.5)
        if spaced:
            directions, origin, kind = np.eye(3), np.zeros(3), "spacings only"
        words = f"space {space or 'none'}"
        place = (directions, sizes, origin)
        affine = np.diag([*TO_RAS[space], 1.0]) @ _affine(*place)
        files, reference = (
            {suffix: _nrrd_bytes(array, place, space, order, spaced=spaced, packed=packed)}
            for array in (data, inside.astype(np.uint8))
        )
    else:
        words = f"{frames} frame(s)"
        affine = np.diag([-1, -1, 1, 1.0]) @ _affine(*place)
        packed = bool(generator.random() < 0.5)
        files, reference = (
            _meta_bytes(array, place, suffix, order, packed=packed)
            for array in (data, inside.astype(np.uint8))
        )
    what = f"{suffix} {order}, {shape_kind}, {shape}, {kind}, {words}, {dtype}"
    return RandomScan(suffix, what, files, reference, inside, affine, fate, kind == "sheared")


def _nrrd_bytes(
    data: np.ndarray,
    place: tuple[np.ndarray, np.ndarray, np.ndarray],
    space: str,
    order: str,
    *,
    spaced: bool,
    packed: bool,
) -> bytes:
    directions, sizes, origin = place
    lines = ["NRRD0005", f"type: {NRRD_TYPES[data.dtype.newbyteorder('=').name]}", "dimension: 3"]
    lines += [f"sizes: {' '.join(map(str, data.shape))}"]
    if spaced:
        lines.append(f"spacings: {' '.join(map(repr, sizes.tolist()))}")
    else:
        lines.append(f"space: {space}" if space else "space dimension: 3")
        lines.append(f"space directions: {' '.join(map(_vector, (directions * sizes).T))}")
        lines.append(f"space origin: {_vector(origin)}")
        lines.append("kinds: domain domain domain")
    lines += [f"endian: {order}", f"encoding: {'gzip' if packed else 'raw'}", "", ""]
    raw = data.tobytes("F")
    return "\n".join(lines).encode() + (gzip.compress(raw, 1, mtime=0) if packed else raw)


def _vector(numbers: np.ndarray) -> str:
    return f"({','.join(map(repr, numbers.tolist()))})"


def _meta_bytes(
    data: np.ndarray,
    place: tuple[np.ndarray, np.ndarray, np.ndarray],
    suffix: str,
    order: str,
    *,
    packed: bool,
) -> dict[str, bytes]:
    directions, sizes, origin = place
    matrix = np.eye(data.ndim)
    matrix[:3, :3] = directions
    steps, offset = [*sizes.tolist(), 1.0][: data.ndim], [*origin.tolist(), 0.0][: data.ndim]
    raw = data.tobytes("F")
    raw = zlib.compress(raw) if packed else raw
    lines = [
        "ObjectType = Image",
        f"NDims = {data.ndim}",
        "BinaryData = True",
        f"BinaryDataByteOrderMSB = {order == 'big'}",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {len(raw)}"] if packed else []),
        f"TransformMatrix = {' '.join(map(repr, matrix.T.ravel().tolist()))}",
        f"Offset = {' '.join(map(repr, offset))}",
        f"ElementSpacing = {' '.join(map(repr, steps))}",
        f"DimSize = {' '.join(map(str, data.shape))}",
        f"ElementType = {META_TYPES[data.dtype.newbyteorder('=').name]}",
        f"ElementDataFile = {'NAME' if suffix == '.mhd' else 'LOCAL'}",
        "",
    ]
    header = "\n".join(lines).encode()
    return {suffix: header, ".raw": raw} if suffix == ".mhd" else {suffix: header + raw}


def text_affine(content: bytes) -> np.ndarray:
    """The affine, (4, 4), RAS+, that the text of a .nrrd, .mha or .mhd says, by its own words."""

    def numbers(name: str) -> list[float] | None:
        found = re.search(rf"^{name} ?[:=] ?(.*)$".encode(), content, re.MULTILINE)
        return None if found is None else [float(n) for n in re.findall(rb"[^\s(),]+", found[1])]

    if not content.startswith(b"NRRD"):
        sizes, matrix = numbers("ElementSpacing"), numbers("TransformMatrix")
        offset = numbers("Offset")
        assert sizes is not None
        assert matrix is not None
        assert offset is not None
        directions = np.reshape(matrix, (len(sizes),) * 2).T
        affine = _affine(directions[:3, :3], np.array(sizes[:3]), np.array(offset[:3]))
        return np.diag([-1.0, -1, 1, 1]) @ affine
    named = re.search(rb"^space: ?(.*?)\s*$", content, re.MULTILINE)
    signs = TO_RAS["" if named is None else named[1].decode()]
    steps, origin, sizes = numbers("space directions"), numbers("space origin"), numbers("spacings")
    affine = np.eye(4)
    if steps is None:
        affine[:3, :3] = np.diag(sizes or [1, 1, 1])
    else:
        affine[:3, :3] = np.reshape(steps, (3, 3)).T
        affine[:3, 3] = origin or (0, 0, 0)
    return np.diag([*signs, 1.0]) @ affine
