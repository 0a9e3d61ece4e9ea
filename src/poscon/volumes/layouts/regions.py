"""Regions of nnU-Net's ``dataset.json``: labels of several values that may lie in each other.

https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/region_based_training.md. A label map
holds one value for each voxel. So a region is read as the classes that it consists of: a class has
the values of a region that are in none of the regions within it.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from poscon.errors import PosconError

REST = "_rest"
"""End of the name of a class that is what the regions within a region leave of it."""


def classes_of_regions(
    regions: Mapping[str, frozenset[int]], order: Sequence[int] | None, *, where: str
) -> list[tuple[str, tuple[int, ...]]]:
    """The classes of regions, which do not overlap, in the order of their values.

    A class has the name of its region, with ``_rest`` where other regions lie in it. A region that
    others fill has no class of its own.

    Args:
        regions: the values of each region or label, in the order of the file.
        order: the value that nnU-Net writes for each region (``regions_class_order``), or None.
        where: name for an error message: the file.

    Returns:
        Name and values of each class. The first value is that of ``order``.

    Raises:
        PosconError: two regions overlap and neither holds the other, or they have the same values;
            or ``order`` does not fit them.
    """
    for first, second in combinations(regions, 2):
        a, b = regions[first], regions[second]
        if a == b:
            raise PosconError(
                f"{where}: the labels {first!r} and {second!r} have the same values; remove one"
            )
        if a & b and not (a < b or b < a):
            raise PosconError(
                f"{where}: the regions {first!r} and {second!r} overlap, and neither holds the "
                "other; a label map has one class for each voxel, so state one value per label"
            )
    own = {
        name: values.difference(*(other for other in regions.values() if other < values))
        for name, values in regions.items()
    }
    written = _written(own, order, where)
    classes = [
        (
            name if own[name] == regions[name] else f"{name}{REST}",
            tuple(sorted(own[name], key=lambda value: (value != written.get(name), value))),
        )
        for name in regions
        if own[name]
    ]
    return sorted(classes, key=lambda found: min(found[1]))


def _written(
    own: Mapping[str, frozenset[int]], order: Sequence[int] | None, where: str
) -> dict[str, int]:
    """The value that nnU-Net writes for each region. It writes later regions over earlier ones."""
    if order is None:
        return {}
    stated = isinstance(order, list) and all(isinstance(value, int) for value in order)
    if not stated or len(order) != len(own):
        raise PosconError(
            f"{where}: regions_class_order is {order!r}, but must have one value for each of the "
            f"{len(own)} labels other than background and ignore"
        )
    for (name, values), value in zip(own.items(), order, strict=True):
        if values and value not in values:
            raise PosconError(
                f"{where}: regions_class_order writes {value!r} for {name!r}, whose voxels have "
                f"the value {min(values)} in the label maps; give both the same order"
            )
    return dict(zip(own, order, strict=True))
