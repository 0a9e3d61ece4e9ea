import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.volumes import slabs
from poscon.volumes.slabs import by_slabs, present_values, slowest_first


def layouts(volume: np.ndarray) -> list[np.ndarray]:
    """The same voxels in several orders in memory."""
    return [volume, np.asfortranarray(volume), volume[::-1].copy()[::-1], volume.T.copy().T]


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 40))
def test_slabs_are_all_of_the_first_axis_once(slices: int, rows: int, voxels: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "SLAB_VOXELS", voxels)
        parts = list(slabs.slabs((slices, rows, 2)))
    assert [i for part in parts for i in range(slices)[part]] == list(range(slices))
    assert all((part.stop - part.start) * rows * 2 <= max(voxels, rows * 2) for part in parts)


@pytest.mark.parametrize("shape", [(5,), (4, 1), (6, 5, 4), (3, 1, 2, 5), (1, 1, 1)])
def test_part_by_part_is_the_same(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 7)
    values = np.random.default_rng(0).integers(-3, 4, shape).astype(np.int16)
    for volume in layouts(values):
        np.testing.assert_array_equal(by_slabs(lambda v: v * 2.5, volume, np.float32), values * 2.5)
        assert present_values(volume).tolist() == np.unique(values).tolist()
        assert present_values(volume).dtype == values.dtype


def test_the_first_axis_is_the_slowest() -> None:
    assert slowest_first(np.zeros((2, 3, 4), order="F")).shape == (4, 3, 2)
    assert slowest_first(np.zeros((2, 3, 4))[:, ::-1]).shape == (2, 3, 4)


def test_no_voxel_has_no_value() -> None:
    assert present_values(np.zeros((0, 3), np.uint8)).size == 0
