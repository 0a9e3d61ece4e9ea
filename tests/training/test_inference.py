import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.networks.build import build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.store.resample import resample_probabilities
from poscon.training import inference
from poscon.training.inference import (
    channels_last,
    choose_device,
    choose_precision,
    class_scores,
    largest_component,
    predicted_classes,
)

DETECT = inference.multiplies_in_bfloat16
"""As it is; the suite puts another function into its place."""


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkSettings(width=2, levels=2), 3).eval()


def scores_of(network: SegmentationNetwork, stack: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat(list(class_scores(network, stack, size)))


@settings(deadline=None, max_examples=25)
@given(
    slices=st.integers(1, 5),
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    size=st.integers(1, 6).map(lambda n: 4 * n),
)
def test_any_slice_gets_scores_for_each_pixel(
    network: SegmentationNetwork, slices: int, rows: int, columns: int, size: int
) -> None:
    stack = torch.randn(slices, 1, rows, columns)
    logits = scores_of(network, stack, size)
    assert logits.shape == (slices, 3, rows, columns)
    assert torch.isfinite(logits).all()


def test_a_slice_that_fits_is_not_padded(network: SegmentationNetwork) -> None:
    stack = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(scores_of(network, stack, 8), network(stack))


def test_padding_is_zero_and_even(network: SegmentationNetwork) -> None:
    stack = torch.randn(1, 1, 13, 16)
    padded = torch.zeros(1, 1, 16, 16)
    padded[:, :, 1:14] = stack
    torch.testing.assert_close(
        scores_of(network, stack, 8), scores_of(network, padded, 8)[..., 1:14, :]
    )


def test_batches_do_not_matter(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = torch.randn(7, 1, 12, 12)
    together = scores_of(network, stack, 12)
    monkeypatch.setitem(inference.BATCH_PIXELS, "cpu", 1)
    assert [len(part) for part in class_scores(network, stack, 12)] == [1] * 7
    torch.testing.assert_close(scores_of(network, stack, 12), together)


@pytest.mark.parametrize("grid", [None, (12, 10), (25, 17), (7, 30)])
def test_the_class_of_the_highest_probability_is_predicted(
    network: SegmentationNetwork, grid: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference.BATCH_PIXELS, "cpu", 2 * 12 * 12)  # of five slices two at a time
    stack = torch.randn(5, 1, 12, 10, generator=torch.Generator().manual_seed(1))
    classes = predicted_classes(network, stack, 12, grid)
    probabilities = scores_of(network, stack, 12).softmax(1)
    expected = probabilities if grid is None else resample_probabilities(probabilities, grid)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, expected.numpy().argmax(1))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_neighbours_and_channels_are_input_channels(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each offset, for each channel; the end slice repeats."""
    monkeypatch.setitem(inference.BATCH_PIXELS, "cpu", batch * 8 * 12)
    chosen = NetworkSettings(width=2, levels=2, channels=2, context=2)
    wide, stack = build_network(chosen, 3).eval(), torch.randn(4, 2, 8, 12)
    inputs = torch.empty(4, 10, 8, 12)
    for number, offset, channel in itertools.product(range(4), range(-2, 3), range(2)):
        neighbour = min(max(number + offset, 0), 3)
        inputs[number, (offset + 2) * 2 + channel] = stack[neighbour, channel]
    with torch.no_grad():
        torch.testing.assert_close(scores_of(wide, stack, 8), wide(inputs))


def test_memory_layout_does_not_change_the_result(network: SegmentationNetwork) -> None:
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        plain = network(images)
        torch.testing.assert_close(channels_last(network)(images), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "device", "chosen"),
    [
        ("auto", "cpu", "32"),
        ("auto", "cuda", "bf16"),
        ("32", "cuda", "32"),
        ("bf16", "cpu", "bf16"),
    ],
)
def test_precision(precision: str, device: str, chosen: str) -> None:
    assert choose_precision(precision, device) == chosen


@pytest.mark.parametrize("has", [(), ("amx_tile",), ("avx512_bf16",)])
def test_bfloat16_needs_one_of_two_instruction_sets(
    has: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(f"torch.cpu._is_{name}_supported", lambda name=name: name in has)
    assert DETECT() == bool(has)


def flood(mask: np.ndarray, start: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Every voxel of the mask that can be reached from one, over faces, edges and corners."""
    reached, todo = {start}, [start]
    while todo:
        voxel = todo.pop()
        for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
            near = tuple(v + s for v, s in zip(voxel, step, strict=True))
            inside = all(0 <= v < n for v, n in zip(near, mask.shape, strict=True))
            if inside and mask[near] and near not in reached:
                reached.add(near)
                todo.append(near)
    return reached


@settings(deadline=None, max_examples=50)
@given(
    shape=st.sampled_from([(1, 1, 1), (2, 5, 4), (3, 6, 7), (5, 5)]),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_the_largest_structure_is_that_of_a_flood(
    shape: tuple[int, ...], share: float, seed: int
) -> None:
    """Of all classes together, whose values stay; of equal ones the first."""
    generator = np.random.default_rng(seed)
    classes = (generator.integers(1, 4, shape) * (generator.random(shape) < share)).astype(np.uint8)
    before = classes.copy()
    best: set[tuple[int, ...]] = set()
    for voxel in np.argwhere(classes > 0):
        found = flood(classes > 0, tuple(map(int, voxel)))
        if len(found) > len(best):
            best = found
    kept = largest_component(classes)
    assert np.array_equal(classes, before)
    assert kept.dtype == classes.dtype
    for index in np.ndindex(*shape):
        assert kept[index] == (classes[index] if index in best else 0)


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(PosconError, match="device 'tpu' is unknown"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(PosconError, match="no CUDA GPU"):
            choose_device("cuda")
