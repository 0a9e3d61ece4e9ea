import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.store.intensity import check_voxels, guess_modality, normalise


def scan(seed=0, mean=100.0, std=40.0, shape=(6, 7, 8)):
    return np.random.default_rng(seed).normal(mean, std, shape)


@settings(deadline=None)
@given(st.floats(-2000, 5000), st.floats(10, 1000), st.sampled_from(["MR", "CT"]))
def test_mean_zero_and_deviation_one(mean, std, modality):
    values, record = normalise(scan(1, mean, std), modality)
    assert values.dtype == np.float32
    assert values.mean(dtype=np.float64) == pytest.approx(0, abs=1e-3)
    assert values.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)
    assert record.modality == modality


def test_mr_is_scaled_and_not_clipped():
    volume = scan().astype(np.int16)
    volume[0, 0, 0] = 5000
    values, record = normalise(volume, "MR")
    expected = (volume - volume.mean()) / volume.std()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert (record.low, record.high) == (None, None)
    assert record.mean == pytest.approx(volume.mean())
    assert record.std == pytest.approx(volume.std())


def test_ct_is_clipped_to_its_percentiles_first():
    volume = scan(mean=0, std=300)
    volume[0, 0, :2] = (-20000, 30000)
    values, record = normalise(volume, "CT")
    low, high = np.percentile(volume, (1, 99))
    assert record.low == pytest.approx(low, rel=1e-5)
    assert record.high == pytest.approx(high, rel=1e-5)
    clipped = volume.clip(low, high)
    assert record.mean == pytest.approx(clipped.mean(), rel=1e-4)
    np.testing.assert_allclose(values, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    assert values.max() < 5


def test_the_record_says_what_was_done():
    volume = scan(mean=-300, std=500)
    for modality in ("CT", "MR"):
        values, record = normalise(volume, modality)
        redone = volume if record.low is None else volume.clip(record.low, record.high)
        np.testing.assert_allclose(values, (redone - record.mean) / record.std, atol=1e-4)


def test_ct_that_is_nearly_all_one_value_is_not_clipped_away():
    volume = np.full((20, 20, 20), -1000.0)
    volume[3, 4, 5] = 40
    values, record = normalise(volume, "CT")
    assert record.low is None
    assert values[3, 4, 5] > 10


def test_units_do_not_matter():
    volume = scan()
    np.testing.assert_allclose(
        normalise(volume * 7 + 300, "MR")[0], normalise(volume, "MR")[0], atol=1e-3
    )


def test_the_volume_is_not_changed():
    volume = scan().astype(np.float32)
    before = volume.copy()
    normalise(volume, "CT")
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize(
    ("lowest", "modality"), [(-1024, "CT"), (-200, "CT"), (-199, "MR"), (0, "MR"), (5, "MR")]
)
def test_modality_by_values(lowest, modality):
    volume = np.linspace(lowest, 1000, 60).reshape(3, 4, 5)
    assert guess_modality(volume) == modality


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_voxels_that_are_not_finite(value):
    volume = scan()
    volume[1, 2, 3:5] = value
    with pytest.raises(PosconError, match=r"^a\.nii: 2 voxel\(s\) are NaN or infinite"):
        check_voxels(volume, where="a.nii")


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((2, 3, 4)),
        np.full((2, 3, 4), -1000, np.int16),
        10**9 + np.arange(24).reshape(2, 3, 4) % 2,  # equal in single precision
        1e-300 * np.arange(24.0).reshape(2, 3, 4),
    ],
)
def test_a_volume_of_one_value(volume):
    with pytest.raises(PosconError, match=r"^a\.nii: every voxel has the value"):
        check_voxels(volume, where="a.nii")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float16, np.float32, float])
def test_ordinary_volumes_pass(dtype):
    volume = scan().clip(0).astype(dtype)
    check_voxels(volume, where="a.nii")
    assert np.isfinite(normalise(volume, "MR")[0]).all()
