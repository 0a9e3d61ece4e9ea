"""Which DICOM objects with structures belong to which stacks of slices."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from poscon.errors import PosconError
from poscon.volumes.drawing import Drawing
from poscon.volumes.formats.dicom.objects import Object, read_drawing_header
from poscon.volumes.formats.dicom.stacks import Stack
from poscon.volumes.series import Fault


def match(objects: Sequence[Object], stacks: Sequence[Stack]) -> dict[str, Drawing]:
    """The structures of each stack that has some, by the place of its series.

    An object belongs to the stacks whose images it names; else to those whose series it names. If
    it names none, it belongs to those in its coordinate system. Among several, it belongs to those
    on whose grid it lies. A series that cannot be read has no structures.

    Args:
        objects: the objects, in any order.
        stacks: the stacks of slices.
    """
    found: dict[str, list[Object]] = defaultdict(list)
    by_place = {stack.series.place: stack for stack in stacks if stack.series.fault is None}
    for one in sorted(objects, key=lambda one: str(one.file)):
        for stack in _belongs_to(one, list(by_place.values())):
            found[stack.series.place].append(one)
    return {place: _drawing(by_place[place], of_stack) for place, of_stack in found.items()}


def _belongs_to(one: Object, stacks: Sequence[Stack]) -> list[Stack]:
    """The stacks to which an object belongs."""
    candidates = [s for s in stacks if one.instances & {image.instance for image in s.images}]
    candidates = candidates or [s for s in stacks if s.images[0].series in one.series]
    if not one.instances and not one.series:
        candidates = [s for s in stacks if s.images[0].space in one.places]
    fitting = [s for s in candidates if _lies_on(one, s)] if len(candidates) > 1 else []
    return fitting or candidates  # if it fits none, reading it says why


def _lies_on(one: Object, stack: Stack) -> bool:
    try:
        read_drawing_header(_drawing(stack, [one]))
    except PosconError:
        return False
    return True


def _drawing(stack: Stack, objects: Sequence[Object]) -> Drawing:
    series = stack.series
    x, y, z = series.shape[:3]
    return Drawing(
        files=tuple(one.file for one in objects),
        names=tuple(dict.fromkeys(name for one in objects for name in one.names)),
        shape=(x, y, z),
        affine=series.affine,
        fractional=any(one.fractional for one in objects),
        fault=_fault(stack, objects),
    )


def _fault(stack: Stack, objects: Sequence[Object]) -> Fault | None:
    """Why the structures of a stack cannot be read, as far as its header says it."""
    if len(stack.series.shape) > 3:
        return Fault(
            f"structures of a series with {stack.series.shape[3]} frames; poscon cannot know which "
            "of them is labelled: write that frame and its label map as NIfTI"
        )
    if stack.series.mixes:
        return Fault(
            "structures of a series with interpolated slices, on which nobody has drawn; say "
            "--on-gap split"
        )
    count = Counter(name for one in objects for name in one.names)
    if twice := [name for name, n in count.items() if n > 1]:
        return Fault(
            f"the segment {twice[0]!r} is in each of them; poscon cannot know which is right: move "
            "one away"
        )
    return None
