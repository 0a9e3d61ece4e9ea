"""The built-in data set: drawn torsos with known labels, written as if they had been scanned.

An anatomy is a list of swept ellipses in body coordinates. For a subject it is moved, bent and
resized at random. It is averaged into thick slices, so that borders are mixed voxels. It is then
imaged by a CT- or MR-like scanner. Unlabelled structures that look like the organs lie elsewhere
in the body. Intensity alone does not distinguish them from the organs, but position does.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from poscon.errors import PosconError
from poscon.volumes.case import LabelClass, LabelScheme

PHANTOM_LABELS = LabelScheme(
    (
        LabelClass("lower", (1,)),
        LabelClass("middle", (2,)),
        LabelClass("upper", (3,)),
        LabelClass("tube", (4,)),
    )
)

MODALITIES = {"ct": "CT", "mr": "MRI"}  # the spelling of the Decathlon's dataset.json
_SUBSLICES = 3  # number of thin slices that are averaged into a thick one

# File axis orders and their weights. In the last two the slice axis is not the file's third.
_ORIENTATIONS = {"LPS": 0.35, "RAS": 0.25, "LAS": 0.2, "PSR": 0.1, "IPL": 0.1}


@dataclass(frozen=True)
class PhantomVolume:
    """One drawn subject.

    Attributes:
        image: (X, Y, Z) int16 in the file's axis order, HU for CT, arbitrary units for MR.
        labels: (X, Y, Z) uint8, values of ``PHANTOM_LABELS``; 0 is background.
        affine: (4, 4), voxel index to mm, RAS+.
    """

    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class _Structure:
    """An ellipsoid whose centre drifts from slice to slice, in body coordinates.

    x runs to the right and y to the front, in half-widths of the body from its axis. z runs from
    0 (the lower end of the anatomy) to 1 (the upper end).

    Attributes:
        tissue: key of ``_TISSUES``.
        centre, radii: (x, y, z), in body coordinates.
        slope, curve: in-plane (x, y) drift of the centre, linear and quadratic in height.
        bend: how far the tips curve to the front, as those of a crescent do.
        turn: in-plane rotation in radians.
        blunt: whether the ends are cut off like a tube's, not rounded like an ellipsoid's.
        pattern: ``"solid"``, or a pattern that fills a part: ``"loops"`` (of bowel), ``"ribs"``,
            ``"discs"``.
        label: the label value; 0 for everything that is not to be segmented.
    """

    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    slope: tuple[float, float] = (0.0, 0.0)
    curve: tuple[float, float] = (0.0, 0.0)
    bend: float = 0.0
    turn: float = 0.0
    blunt: bool = False
    pattern: str = "solid"
    label: int = 0


_ALL = 9.0  # a z radius larger than any scan

# Structures are painted in this order. Later ones cover earlier ones.
_ANATOMY = (
    _Structure("fat", (0, 0, 0.5), (1.0, 0.76, _ALL)),
    _Structure("muscle", (0, -0.01, 0.5), (0.9, 0.67, _ALL)),
    _Structure("bone", (0, -0.01, 0.5), (0.88, 0.65, _ALL), pattern="ribs"),
    _Structure("muscle", (0, 0, 0.5), (0.8, 0.57, _ALL)),
    _Structure("fat", (0, 0.08, 0.5), (0.76, 0.47, _ALL)),
    _Structure("bowel", (0, 0.12, 0.3), (0.7, 0.42, 0.5), blunt=True, pattern="loops"),
    # Frame: spine, the muscles beside it, hip bones, lungs.
    _Structure("muscle", (-0.27, -0.42, 0.2), (0.13, 0.15, 0.5)),
    _Structure("muscle", (0.27, -0.42, 0.2), (0.13, 0.15, 0.5)),
    _Structure("bone", (0, -0.6, 0.5), (0.05, 0.13, _ALL)),
    _Structure("bone", (0, -0.37, 0.5), (0.18, 0.14, _ALL), bend=-1.0),
    _Structure("marrow", (0, -0.37, 0.5), (0.145, 0.105, _ALL), bend=-1.0, pattern="discs"),
    _Structure("fluid", (0, -0.53, 0.5), (0.065, 0.045, _ALL)),
    _Structure("bone", (-0.6, -0.12, 0.02), (0.09, 0.36, 0.2), slope=(-0.08, 0), turn=-0.35),
    _Structure("bone", (0.6, -0.12, 0.02), (0.09, 0.36, 0.2), slope=(0.08, 0), turn=0.35),
    _Structure("fluid", (0, 0.2, 0.0), (0.26, 0.17, 0.14)),
    _Structure("lung", (-0.42, -0.03, 1.0), (0.3, 0.4, 0.29), turn=0.15),
    _Structure("lung", (0.42, -0.03, 1.0), (0.3, 0.4, 0.24), turn=-0.15),
    # Look-alikes: each labelled organ has one of its tissue and kind of shape elsewhere.
    _Structure("lower", (-0.4, -0.15, 0.54), (0.17, 0.22, 0.18), turn=-0.4, bend=0.7),
    _Structure("lower", (0.12, 0.3, 0.66), (0.2, 0.09, 0.12), turn=0.3),
    _Structure("middle", (-0.6, -0.02, 0.66), (0.13, 0.28, 0.15), turn=0.2),
    _Structure("middle", (-0.34, 0.22, 0.13), (0.22, 0.16, 0.15), turn=0.4),
    _Structure("upper", (-0.22, 0.25, 0.42), (0.31, 0.18, 0.16), turn=-0.5, bend=0.6),
    _Structure("tube", (0.18, -0.13, 0.5), (0.11, 0.09, 0.55), (0.04, 0.06), (-0.05, 0.04)),
    _Structure("tube", (-0.1, 0.05, 0.48), (0.08, 0.08, 0.3), (0.2, 0.1), (-0.14, 0.1), blunt=True),
    # Organs that are to be segmented.
    _Structure("lower", (0.42, -0.14, 0.27), (0.18, 0.24, 0.2), turn=0.4, bend=0.7, label=1),
    _Structure(
        "middle", (0.28, 0.14, 0.55), (0.48, 0.27, 0.21), (-0.1, 0.05),
        bend=-0.5, turn=-0.5, label=2,
    ),
    _Structure("upper", (-0.1, 0.2, 0.81), (0.32, 0.23, 0.19), (-0.08, 0.04), label=3, turn=0.6),
    _Structure(
        "tube", (-0.02, -0.11, 0.52), (0.11, 0.11, 0.44), (-0.12, -0.04), (-0.1, -0.05),
        blunt=True, label=4,
    ),
)  # fmt: skip

# Mean intensity of each tissue: HU in contrast-enhanced CT, relative signal in fat-suppressed MR.
_TISSUES = {
    "air": (-1000.0, 0.0),
    "lung": (-780.0, 0.07),
    "fat": (-95.0, 0.2),
    "fluid": (12.0, 0.95),
    "bowel": (58.0, 0.4),
    "muscle": (58.0, 0.28),
    "lower": (98.0, 0.64),
    "middle": (82.0, 0.46),
    "upper": (94.0, 0.54),
    "tube": (122.0, 0.85),
    "marrow": (190.0, 0.3),
    "bone": (420.0, 0.14),
}


def write_phantom(folder: Path, *, subjects: int = 30, seed: int = 0, modality: str = "mr") -> None:
    """Write a data set of drawn scans in the layout of the Medical Segmentation Decathlon.

    Args:
        folder: folder to write: ``dataset.json``, ``imagesTr/phantom_000.nii.gz``,
            ``labelsTr/...``.
        subjects: number of subjects. The first ones are the same for any number.
        seed: seed of the drawing. The same seed gives the same files to the byte.
        modality: ``"mr"`` or ``"ct"``. One seed draws the same bodies in both.

    Raises:
        PosconError: the modality is unknown, there are no subjects, the seed is negative, or the
            folder has other cases.
    """
    if subjects < 1:
        raise PosconError(f"phantom: subjects must be 1 or more, got {subjects}")
    pairs = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in (f"phantom_{subject:03d}" for subject in range(subjects))
    ]
    ours = {folder / path for pair in pairs for path in pair.values()}
    others = [path for path in sorted(folder.glob("*Tr/*")) if path not in ours]
    if others:  # a reader would take them as cases of this data set
        raise PosconError(f"{others[0]}: not of this phantom; write it to an empty folder")
    for subject, pair in enumerate(pairs):
        volume = draw_phantom(seed, subject, modality)
        _write_nifti(folder / pair["image"], volume.image, volume.affine)
        _write_nifti(folder / pair["label"], volume.labels, volume.affine)
    description = {
        "name": "phantom",
        "description": f"Drawn torsos, seed {seed}",
        "tensorImageSize": "3D",
        "modality": {"0": MODALITIES[modality]},
        "labels": {"0": "background"} | {str(c.values[0]): c.name for c in PHANTOM_LABELS.classes},
        "numTraining": subjects,
        "numTest": 0,
        "training": pairs,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def draw_phantom(seed: int, subject: int, modality: str) -> PhantomVolume:
    """Draw one subject. It depends on the arguments alone.

    Raises:
        PosconError: the modality is unknown, or the seed is negative.
    """
    if modality not in MODALITIES:
        raise PosconError(f"phantom: modality must be mr or ct, got {modality!r}")
    if seed < 0:
        raise PosconError(f"phantom: seed must be 0 or more, got {seed}")
    # Body and scanner have separate streams, so MR and CT of a subject show the same body.
    body, scanner = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(subject, stream)))
        for stream in (0, 1)
    )
    fractions, spacing = _draw_body(body)
    organs = np.zeros((5, *fractions.shape[1:]), np.float32)
    for structure, fraction in zip(_ANATOMY, fractions, strict=True):
        organs[structure.label] += fraction
    organs[0] = 0.5  # a voxel belongs to an organ that fills more than half of it
    labels = organs.argmax(axis=0).astype(np.uint8)
    scan = _scan_ct if modality == "ct" else _scan_mr
    image = np.round(scan(scanner, fractions)).astype(np.int16)
    return _orient(body, image, labels, spacing)


def _draw_body(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a body on a canonical (right, front, up) grid.

    Returns:
        The fraction of each voxel that each structure fills, (structures, X, Y, Z) float32. The
        rest up to 1 is air. Then the voxel size in mm, (3,).
    """
    bottom, top = rng.uniform(-0.1, 0.1), 1 + rng.uniform(-0.1, 0.1)  # field of view
    length = rng.uniform(140, 165) * (top - bottom)  # mm
    fewest, most = max(20, math.ceil(length / 7)), min(30, math.floor(length / 5))
    slices = int(rng.integers(fewest, most, endpoint=True))
    size = rng.integers(72, 88, size=2, endpoint=True)
    pixel = rng.uniform(2.2, 2.8)
    shape = (*size, slices * _SUBSLICES)

    half_width = min(rng.uniform(76, 98), 0.47 * size[0] * pixel)  # mm
    x, y = (((np.arange(n) - (n - 1) / 2) * pixel / half_width).astype(np.float32) for n in size)
    z = bottom + (top - bottom) * (np.arange(shape[2]) + 0.5) / shape[2]
    x, y, z = np.meshgrid(x, y, z.astype(np.float32), indexing="ij", copy=False)
    shift, tilt = rng.normal(0, 0.04, 2).tolist(), rng.normal(0, 0.06, 2).tolist()
    x, y = x - shift[0] - tilt[0] * (z - 0.5), y - shift[1] - tilt[1] * (z - 0.5)
    x, y = _rotate(x, y, rng.normal(0, 0.09))
    waist = 1 - rng.uniform(0.05, 0.15) * (1 - (2 * z - 1) ** 2)
    x, y = x / waist, y / rng.uniform(0.92, 1.12)
    x = x + 0.035 * _smooth_field(rng, shape, (8, 8, 6))
    y = y + 0.035 * _smooth_field(rng, shape, (8, 8, 6))
    z = z + 0.02 * _smooth_field(rng, shape, (5, 5, 4))
    patterns = {
        "loops": 0.5 + 1.5 * _smooth_field(rng, shape, (17, 17, 11)),
        "ribs": 3 * np.sin(2 * np.pi * (5 * z - 3 * y + rng.uniform())) - 20 * (0.5 - z).clip(0),
        "discs": 1.5 + 2 * np.sin(2 * np.pi * (5 * z + rng.uniform())),
    }

    x, y, z = (_slices_first(part) for part in (x, y, z))
    patterns = {name: _slices_first(part.clip(0, 1)) for name, part in patterns.items()}
    heights = np.stack([z.min((1, 2)), z.max((1, 2))])

    fractions = np.zeros((len(_ANATOMY), *size, slices), np.float32)
    free = np.ones_like(z)
    for index in reversed(range(len(_ANATOMY))):  # the last structure covers the others
        structure = _ANATOMY[index]
        where, fill = _fill(rng, structure, x, y, z, heights, edge=pixel / half_width)
        if structure.pattern != "solid":
            fill *= patterns[structure.pattern][where]
        fill *= free[where]
        free[where] -= fill
        thick = slice(where.start // _SUBSLICES, where.stop // _SUBSLICES)
        means = fill.reshape(-1, _SUBSLICES, *size).mean(axis=1)
        fractions[index, ..., thick] = np.moveaxis(means, 0, 2)
    return fractions, np.array([pixel, pixel, length / slices])


def _slices_first(part: np.ndarray) -> np.ndarray:
    """(X, Y, Z) -> (Z, X, Y). Neighbouring slices then lie together in memory."""
    return np.ascontiguousarray(np.moveaxis(part, 2, 0))


def _fill(
    rng: np.random.Generator,
    structure: _Structure,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    heights: np.ndarray,
    *,
    edge: float,
) -> tuple[slice, np.ndarray]:
    """How far a randomly varied structure fills each point: 0 to 1 over a border of ``edge``.

    Args:
        rng: random numbers of the body.
        structure: structure to draw.
        x: (Z, X, Y), body coordinate of each point.
        y: the same shape.
        z: the same shape.
        heights: (2, Z), the least and the greatest ``z`` of each thin slice.
        edge: width of the border, in body coordinates.

    Returns:
        The thin slices that the structure reaches, whole thick slices of them, and how far it
        fills their points. It does not reach the others.
    """
    loose = structure.radii[2] < _ALL  # structures as long as the body do not move
    # With Python's floats, unlike numpy's, the arrays stay in single precision.
    cx, cy, cz = np.add(structure.centre, loose * rng.normal(0, (0.03, 0.03, 0.02))).tolist()
    stretch = np.exp(loose * rng.normal(0, (0.12, 0.12, 0.06)))
    rx, ry, rz = np.multiply(structure.radii, stretch).tolist()
    slope = np.add(structure.slope, loose * rng.normal(0, 0.02, 2)).tolist()
    curve = np.add(structure.curve, loose * rng.normal(0, 0.02, 2)).tolist()
    turn = structure.turn + loose * rng.normal(0, 0.15)

    reach = 1.001 * rz * (1 + 0.5 * edge / min(rx, ry))  # a little more, for rounding
    reached = np.flatnonzero((heights[0] < cz + reach) & (heights[1] > cz - reach))
    where = slice(0, 0)
    if len(reached):
        first, last = int(reached[0]) // _SUBSLICES, int(reached[-1]) // _SUBSLICES
        where = slice(first * _SUBSLICES, (last + 1) * _SUBSLICES)
    x, y, z = x[where], y[where], z[where]

    height = (z - cz) / rz
    u = x - cx - height * (slope[0] + height * curve[0])
    v = y - cy - height * (slope[1] + height * curve[1])
    u, v = _rotate(u, v, turn)
    v -= structure.bend / rx * u * u
    cap = np.square(height)
    if structure.blunt:
        cap **= 2
        cap **= 2
    level = np.sqrt(np.square(u / rx) + np.square(v / ry) + cap)
    return where, np.clip(0.5 + (1 - level) * (min(rx, ry) / edge), 0, 1)


def _scan_ct(rng: np.random.Generator, fractions: np.ndarray) -> np.ndarray:
    """Make a CT image: equal Hounsfield units in all subjects, noise, a table under the body."""
    means = {t: ct + rng.normal(0, 12) * (t != "air") for t, (ct, _) in _TISSUES.items()}
    image = _paint(fractions, means)
    image += 6 * _smooth_field(rng, image.shape, (14, 14, 9)) * (image > -300)
    outside = image < -900
    table = slice(int(rng.integers(3, 5)), 6)
    image[:, table] += outside[:, table] * 850
    noise = gaussian_filter(rng.standard_normal(image.shape, np.float32), (0.6, 0.6, 0))
    # The smoothing halves the noise, so 20 to 35 HU remain.
    dose = rng.uniform(45, 70) * np.exp(0.15 * _smooth_field(rng, image.shape, (3, 3, 4)))
    return (image + dose * noise).clip(-1024, 3071)


def _scan_mr(rng: np.random.Generator, fractions: np.ndarray) -> np.ndarray:
    """Make an MR image: random contrast and scale, a bias field, Rician noise."""
    means = {t: mr * np.exp(rng.normal(0, 0.15)) for t, (_, mr) in _TISSUES.items()}
    image = _paint(fractions, means)
    image *= 1 + 0.06 * _smooth_field(rng, image.shape, (14, 14, 9))
    image *= np.exp(0.2 * _smooth_field(rng, image.shape, (3, 3, 3)))
    real, imaginary = rng.normal(0, rng.uniform(0.035, 0.06), (2, *image.shape))
    return np.exp(rng.uniform(np.log(200), np.log(2000))) * np.hypot(image + real, imaginary)


def _paint(fractions: np.ndarray, means: dict[str, float]) -> np.ndarray:
    """Average the tissues of each voxel. The result is (X, Y, Z)."""
    values = np.array([means[structure.tissue] for structure in _ANATOMY])
    air = means["air"]
    return air + np.tensordot(values - air, fractions, axes=1)


def _orient(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, spacing: np.ndarray
) -> PhantomVolume:
    """Place a canonical volume obliquely in the scanner and store its axes in a drawn order."""
    affine = np.eye(4)
    tilt = Rotation.from_euler("xyz", rng.normal(0, 2.5, 3), degrees=True)
    affine[:3, :3] = tilt.as_matrix() * spacing
    centre = affine[:3, :3] @ ((np.array(image.shape) - 1) / 2)
    affine[:3, 3] = rng.normal(0, 30, 3) - centre
    code = rng.choice(list(_ORIENTATIONS), p=list(_ORIENTATIONS.values()))
    stored = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(code)
    )
    return PhantomVolume(
        np.ascontiguousarray(orientations.apply_orientation(image, stored)),
        np.ascontiguousarray(orientations.apply_orientation(labels, stored)),
        affine @ orientations.inv_ornt_aff(stored, image.shape),
    )


def _rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], knots: tuple[int, int, int]
) -> np.ndarray:
    """Make a random field of mean 0 and variance 1 that varies over about a knot's distance."""
    field = rng.standard_normal(knots, np.float32)
    for size, count in zip(shape, knots, strict=True):
        distance = np.linspace(0, count - 1, size)[:, None] - np.arange(count)
        weights = np.exp(-0.5 * (distance / 0.6) ** 2).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.tensordot(field, weights, axes=(0, 1))  # the new axis goes last
    return field


def _write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
