import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.store.intensity import (
    _percentiles,
    check_voxels,
    guess_modality,
    intensity_of,
    normalise,
)


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


def body(seed=0, shape=(12, 24, 20)):
    """A CT: air around a body with lung and bone, and noise."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape)[:, None, None, None] / 2 - 0.5
    r = (((np.indices(shape) - centre) / centre) ** 2).sum(0) ** 0.5
    hu = np.select([r < 0.2, r < 0.4, r < 0.9], [700.0, -800.0, 40.0], -1000.0)
    return (hu + rng.normal(0, 15, shape)).astype(np.int16)


MARGINS = st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 3)


@settings(deadline=None)
@given(MARGINS, st.sampled_from([-1500, -2000, -2048, -3024, -32768]), st.integers(0, 9))
def test_padding_at_the_margin_of_a_ct_changes_nothing_inside(margins, value, seed):
    plain, record = normalise(body(seed), "CT")
    volume = np.pad(body(seed), margins, constant_values=value)
    padded, padded_record = normalise(volume, "CT")
    inside = tuple(slice(a, a + n) for (a, _), n in zip(margins, plain.shape, strict=True))
    np.testing.assert_allclose(padded[inside], plain, atol=1e-5)
    assert padded.min() == pytest.approx(plain.min())  # padding looks like air
    assert padded_record.percentiles == pytest.approx(record.percentiles, abs=1e-5)
    assert record.padding == 0
    assert padded_record.padding == pytest.approx(1 - plain.size / volume.size)


@settings(deadline=None)
@given(MARGINS, st.sampled_from([("MR", 0), ("MR", 7), ("CT", -1024), ("CT", -1000), ("CT", 0)]))
def test_an_empty_margin_changes_nothing_inside(margins, kind):
    """Zeros around an MR, or a constant of air around a CT, however widely it was cut."""
    modality, value = kind
    volume = body() if modality == "CT" else body() + 1100
    plain, record = normalise(volume, modality)
    padded, padded_record = normalise(np.pad(volume, margins, constant_values=value), modality)
    assert padded_record.percentiles == pytest.approx(record.percentiles, abs=1e-5)
    inside = tuple(slice(a, a + n) for (a, _), n in zip(margins, plain.shape, strict=True))
    np.testing.assert_allclose(padded[inside], plain, atol=1e-5)


@pytest.mark.parametrize("value", [-1500, -2000, -3024])
@pytest.mark.parametrize("other", [None, -2048])
def test_padding_around_the_scanned_circle_counts_as_air(value, other):
    """The corners of a CT hold air, or padding in place of it: the body has the same values."""
    plain, _ = normalise(body(), "CT")
    rows, columns = np.indices((24, 20))
    corners = ((rows - 11.5) / 12) ** 2 + ((columns - 9.5) / 10) ** 2 > 1
    volume = body()
    volume[:, corners] = value
    if other is not None:
        volume[:6, corners] = other
    padded, record = normalise(volume, "CT")
    np.testing.assert_allclose(padded[:, ~corners], plain[:, ~corners], atol=0.02)
    assert record.padding == pytest.approx(corners.mean())


def test_noise_of_air_is_no_padding():
    volume = body().astype(float)
    volume[0] -= 150  # as low as -1200
    volume += np.random.default_rng(1).normal(0, 60, volume.shape)
    assert normalise(volume, "CT")[1].padding == 0


def test_an_mr_has_no_padding_value():
    assert normalise(body() - 2000, "MR")[1].padding == 0


@pytest.mark.parametrize("values", [2, 5, 14, 120])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, float])
def test_a_label_map_is_no_scan(values, dtype):
    z, y, x = np.indices((20, 30, 30))
    labels = ((z // 5 * 37 + y // 5 * 6 + x // 5) % values).astype(dtype)
    with pytest.raises(PosconError, match=r"^a\.nii: looks like a label map, not a scan \("):
        check_voxels(labels, where="a.nii")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.sampled_from([np.uint8, np.int16]), st.integers(64, 255))
def test_a_scan_of_8_bits_is_no_label_map(seed, dtype, levels):
    volume = (body(seed).clip(-200, 800) + 200.0) / 1000
    noise = np.random.default_rng(seed).normal(0, 0.05, volume.shape)
    check_voxels(((volume + noise).clip(0, 1) * levels).astype(dtype), where="a.nii")


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 12))
def test_percentiles_of_parts_are_exactly_those_of_numpy(numbers, parts):
    values = np.array(numbers, np.float32)
    found = _percentiles(lambda: np.array_split(values, parts), values.size, (1.0, 37.5, 99.0))
    assert found == np.percentile(values, (1.0, 37.5, 99.0)).tolist()


def test_the_intensity_of_a_volume_takes_less_memory_than_the_volume(monkeypatch):
    monkeypatch.setattr("poscon.volumes.slabs.SLAB_VOXELS", 2**16)
    volume = np.random.default_rng(0).integers(-900, 900, (64, 256, 256), np.int16)
    tracemalloc.start()
    try:
        intensity_of(volume, "CT")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < volume.nbytes


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_parts_of_any_size_give_the_same(modality, monkeypatch):
    volume = np.pad(body(), 3, constant_values=-2048).astype(np.int16)
    values, record = normalise(volume, modality)
    for voxels in (1, 900):
        monkeypatch.setattr("poscon.volumes.slabs.SLAB_VOXELS", voxels)
        again, other = normalise(volume, modality)
        np.testing.assert_allclose(again, values, rtol=1e-6, atol=1e-6)
        assert (other.low, other.high, other.padding) == (record.low, record.high, record.padding)
        assert other.mean == pytest.approx(record.mean, rel=1e-12)
        assert other.std == pytest.approx(record.std, rel=1e-12)
        assert other.percentiles == pytest.approx(record.percentiles, rel=1e-9)
        assert guess_modality(volume) == "CT"
        with pytest.raises(PosconError, match="label map, not a scan \\(3 whole values"):
            check_voxels((volume > 0).astype(np.int16) + (volume > 60), where="a.nii")


@pytest.mark.parametrize("slices", [511, 512, 513])
def test_the_sample_is_of_all_columns(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer columns are air. A step of a whole row would see the first one alone."""
    monkeypatch.setattr("poscon.store.intensity.SAMPLED_VOXELS", 4 * slices)
    volume = np.random.default_rng(0).normal(20, 3, (4, slices, 512)).astype(np.int16)
    volume[:, :, 100:400] += 380
    expected = (np.percentile(volume, (1, 99)) - volume.mean()) / volume.std()
    np.testing.assert_allclose(intensity_of(volume, "MR").percentiles, expected, atol=0.15)


def test_the_sample_is_of_all_columns_within_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last column of one value is margin. Without it a row has 512 voxels, as the step had."""
    monkeypatch.setattr("poscon.store.intensity.SAMPLED_VOXELS", 3 * 511)
    volume = np.random.default_rng(0).normal(20, 3, (3, 511, 513)).astype(np.int16)
    volume[:, :, 100:400] += 380
    volume[:, :, 512] = 0
    inner = volume[:, :, :512]
    expected = (np.percentile(inner, (1, 99)) - inner.mean()) / inner.std()
    np.testing.assert_allclose(intensity_of(volume, "MR").percentiles, expected, atol=0.15)
