"""What the store keeps of an alignment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from poscon.alignment.align import Alignment
from poscon.alignment.belief import Believed
from poscon.store import placing
from poscon.store.placing import place_cases
from poscon.store.store import Store


def placed(n: int, against: list[int], undetermined: list[int]) -> Alignment:
    directions = np.ones(n)
    directions[against] = -1
    determined = np.ones(n, bool)
    determined[undetermined] = False
    ends = np.tile([[-50.0, 50.0]], (n, 1))
    ends[against] = [40.0, -60.0]
    return Alignment(ends, np.ones(n), directions, np.full(n, 0.5), determined)


def by_images(*given: object) -> Believed:
    found = given[-1]
    assert isinstance(found, Alignment)
    said = found.directions, found.clearness, found.determined
    return Believed("images", found.ends, *said, {"images": 1.0, "scan": 2.0})


def test_a_volume_that_is_not_placed_keeps_its_direction_and_has_the_usual_ends(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Store(store)
    found = placed(len(opened.cases), against=[1, 2], undetermined=[2])
    monkeypatch.setattr(placing, "align", lambda *given: found)
    monkeypatch.setattr(placing, "believe", by_images)
    axis = [place_cases(opened, opened.cases, 0).axis[case.id] for case in opened.cases]
    assert [record.against for record in axis] == [False, True, True, False, False]
    assert [record.determined for record in axis] == [True, True, False, True, True]
    assert (axis[2].first, axis[2].last) == (50.0, -50.0)


def test_the_frames_of_a_cine_are_one_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store(store)
    file = {"channels": opened.cases[1].channels, "geometry": opened.cases[1].geometry}
    cine = [
        replace(case, **file, frame_index=i) if i in (1, 2) else case
        for i, case in enumerate(opened.cases)
    ]
    down, *others = cine[2].geometry.flips
    turned = replace(cine[2], geometry=replace(cine[2].geometry, flips=(not down, *others)))
    found = placed(len(cine), against=[], undetermined=[])
    given: list[Sequence[str]] = []

    def align(_f: object, _d: object, _s: object, files: Sequence[str], _seed: int) -> Alignment:
        given.append(files)
        return found

    monkeypatch.setattr(placing, "align", align)
    monkeypatch.setattr(placing, "believe", by_images)
    place_cases(opened, cine, 0)
    assert given[0][1] == given[0][2]
    assert len(set(given[0])) == 4
    place_cases(opened, [*cine[:2], turned, *cine[3:]], 0)
    assert len(set(given[1])) == 5  # prepare --reverse has turned one frame by itself
