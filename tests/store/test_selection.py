from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.store.manifest import (
    SCHEMA_VERSION,
    CaseRecord,
    ChannelRecord,
    GeometryRecord,
    IntensityRecord,
    Manifest,
    Preparation,
    write_manifest,
)
from poscon.store.selection import choose_cases, draw_subjects, slice_size
from poscon.store.store import Store


def record(name: str, subject: str, *, labelled: bool = True, shape=(3, 10, 12)) -> CaseRecord:
    return CaseRecord(
        id=name,
        subject=subject,
        frame=None,
        channels=(
            ChannelRecord(
                source=f"{name}.nii",
                index=None,
                intensity=IntensityRecord(
                    modality="MR",
                    low=None,
                    high=None,
                    mean=0,
                    std=1,
                    padding=0,
                    percentiles=(-1, 2),
                    looks_like="MR",
                ),
            ),
        ),
        source_label=f"{name}_gt.nii" if labelled else None,
        frame_index=None,
        geometry=GeometryRecord(
            shape=shape,
            permutation=(0, 1, 2),
            flips=(False, False, False),
            spacing=(1, 1, 1),
            plane="axial",
        ),
        spacing_from="header",
        shape=shape,
        spacing=(1, 1, 1),
        class_voxels=(1,) if labelled else None,
        pixels_sha256="",
        stored_sha256="",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four subjects; the first has two frames, the last no labels."""
    cases = [record("p1_ED", "p1"), record("p1_ES", "p1"), record("p2_ED", "p2")]
    cases += [record("p3_ED", "p3"), record("p4_ED", "p4", labelled=False)]
    preparation = Preparation(plane="auto", spacing=None, source_spacing=None, modality=None)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        poscon_version="0",
        layout="acdc",
        preparation=preparation,
        channels=("image",),
        classes=(),
        notes=(),
        cases=tuple(cases),
    )
    (tmp_path / "store").mkdir()
    write_manifest(tmp_path / "store", manifest)
    return Store(tmp_path / "store")


def named(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / f"{'-'.join(names)}.txt"
    path.write_text("\n".join(names))
    return path


def ids(cases) -> list[str]:
    return [case.id for case in cases]


def test_everything_unless_told(store):
    assert choose_cases(store, None, None) == list(store.cases)


def test_by_subject_and_by_case(store, tmp_path):
    assert ids(choose_cases(store, named(tmp_path, "p1"), None)) == ["p1_ED", "p1_ES"]
    assert ids(choose_cases(store, named(tmp_path, "p2", "p1_ES"), None)) == ["p1_ES", "p2_ED"]


def test_exclusion(store, tmp_path):
    left = choose_cases(store, None, named(tmp_path, "p1", "p4_ED"))
    assert ids(left) == ["p2_ED", "p3_ED"]
    left = choose_cases(store, named(tmp_path, "p1", "p2"), named(tmp_path, "p1_ED"))
    assert ids(left) == ["p2_ED"]  # the other frame of p1 is no fresh data


def test_choices_that_cannot_be_right(store, tmp_path):
    p1, p2, p9 = (named(tmp_path, name) for name in ("p1", "p2", "p9"))
    with pytest.raises(PosconError, match=r"p9\.txt: 1 name"):
        choose_cases(store, p9, None)
    with pytest.raises(PosconError, match=r"p9\.txt: 1 name"):
        choose_cases(store, None, p9)
    with pytest.raises(PosconError, match=r"p2\.txt: has no effect"):
        choose_cases(store, p1, p2)
    with pytest.raises(PosconError, match="no case is left"):
        choose_cases(store, p1, p1)


PATIENTS = [record(f"p{i}_{frame}", f"p{i}") for i in range(8) for frame in ("ED", "ES")]


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8))
def test_draws_of_one_seed_are_nested(seed, few, many):
    few, many = sorted((few, many))
    small, large = (draw_subjects(PATIENTS, n, seed) for n in (few, many))
    assert len({case.subject for case in small}) == few
    assert len(small) == 2 * few  # all cases of a subject
    assert {case.id for case in small} <= {case.id for case in large}


def test_draws_are_random_and_follow_from_the_seed():
    draws = [ids(draw_subjects(PATIENTS, 3, seed)) for seed in range(30)]
    assert draws == [ids(draw_subjects(PATIENTS, 3, seed)) for seed in range(30)]
    assert len(set(map(tuple, draws))) > 10
    assert {name for draw in draws for name in draw} == {case.id for case in PATIENTS}


@given(st.permutations(PATIENTS), st.integers(0, 100))
def test_the_order_of_the_cases_does_not_matter(cases, seed):
    drawn = {case.id for case in draw_subjects(cases, 3, seed)}
    assert drawn == {case.id for case in draw_subjects(PATIENTS, 3, seed)}


def test_only_labelled_cases_are_drawn(store):
    for seed in range(10):
        assert "p4_ED" not in ids(draw_subjects(store.cases, 3, seed))
    with pytest.raises(PosconError, match="4 labelled subjects asked for, 3 to draw from"):
        draw_subjects(store.cases, 4, 0)


@pytest.mark.parametrize(
    ("extents", "stride", "expected"),
    [
        ([(30, 40)], 16, 48),
        ([(48, 20)], 16, 48),
        ([(49, 20)], 16, 64),
        ([(500, 500)], 16, 128),
        ([(30, 30), (50, 50), (100, 100)], 16, 64),
        ([(5, 5)], 8, 8),
    ],
)
def test_automatic_size(extents, stride, expected):
    cases = [record(str(i), str(i), shape=(3, *extent)) for i, extent in enumerate(extents)]
    assert slice_size(cases, "auto", stride) == expected


def test_a_stated_size_must_fit_the_network():
    assert slice_size([], 96, 16) == 96
    with pytest.raises(PosconError, match="size = 100: must be a multiple of 16"):
        slice_size([], 100, 16)
