"""The PCL loss against the formula written out, and the method around it."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext import blockwise, contrast
from poscon.pretext.pcl import (
    REACH,
    PositionalContrast,
    in_grey_zone,
    kernel_weights,
    near,
    phase_distances,
    phased_weights,
    positional_contrast,
    positional_contrastive_loss,
)
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def slow_weight(distance, kernel, threshold):
    """How much a positive counts; the Gaussian is cut at three widths."""
    if kernel == "box":
        return 1.0 if distance < threshold else 0.0
    if kernel == "triangular":
        return 1 - distance / threshold if distance < threshold else 0.0
    return math.exp(-0.5 * (distance / threshold) ** 2) if distance < 3 * threshold else 0.0


def slow_loss(embeddings, positions, *, threshold, temperature, kernel="box", grey=None):
    """Eq. 1 and 2 of Zeng et al. 2021 with weights, one pair at a time, in double precision."""
    z = [row / row.norm() for row in embeddings.double()]
    n = len(z)
    per_anchor = []
    for i in range(n):
        others = {j: abs(float(positions[i] - positions[j])) for j in range(n) if j != i}
        weights = {j: slow_weight(distance, kernel, threshold) for j, distance in others.items()}
        positives = [j for j in others if weights[j] > 0]
        if not positives:
            continue
        under = [j for j in others if weights[j] > 0 or grey is None or others[j] >= grey]
        logits = {k: torch.dot(z[i], z[k]) / temperature for k in others}
        rest = torch.stack([logits[k] for k in under]).logsumexp(0)
        terms = [weights[j] * (logits[j] - rest) for j in positives]
        per_anchor.append(-sum(terms) / sum(weights[j] for j in positives))
    if not per_anchor:
        return embeddings.double().sum() * 0
    return sum(per_anchor) / len(per_anchor)


def nt_xent(embeddings, temperature):
    """SimCLR's loss (Chen et al. 2020, Eq. 1): rows i and i + N are the two views of a picture."""
    z = torch.nn.functional.normalize(embeddings, dim=1)
    n = len(z) // 2
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        negatives = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / negatives)
    return total / (2 * n)


def random_embeddings(n, dimension, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def batches(draw):
    """Embeddings of very different lengths, positions with many exact ties, thresholds on them.

    Positions and thresholds are multiples of 1/8, so that their differences are exact.
    """
    n = draw(st.integers(1, 9))
    embeddings = random_embeddings(n, draw(st.integers(1, 6)), draw(st.integers(0, 10**6)))
    assume(bool((embeddings.norm(dim=1) > 1e-3).all()))
    lengths = draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n))
    embeddings = embeddings * 10 ** torch.tensor(lengths, dtype=torch.float64)[:, None]
    positions = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    threshold = draw(st.integers(-1, 10)) / 8
    temperature = draw(st.sampled_from([0.02, 0.1, 0.5, 1.0, 3.0]))
    kernel = draw(st.sampled_from(list(REACH)))
    beyond = draw(st.sampled_from([None, 1 / 8, 1 / 2]))
    how = {
        "threshold": threshold,
        "temperature": temperature,
        "kernel": kernel,
        "grey": None if beyond is None else REACH[kernel] * threshold + beyond,
    }
    return embeddings, torch.tensor(positions, dtype=torch.float64) / 8, how


@settings(deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_formula(batch):
    embeddings, positions, how = batch
    fast = embeddings.clone().requires_grad_()
    slow = embeddings.clone().requires_grad_()
    loss = positional_contrastive_loss(fast, positions, **how)
    expected = slow_loss(slow, positions, **how)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    lengths = embeddings.norm(dim=1, keepdim=True)  # the gradient of a short row is a long one
    torch.testing.assert_close(fast.grad * lengths, slow.grad * lengths, rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(batches(), st.data())
def test_the_order_of_the_batch_does_not_matter(batch, data):
    embeddings, positions, how = batch
    order = data.draw(st.permutations(range(len(embeddings))))
    torch.testing.assert_close(
        positional_contrastive_loss(embeddings[order], positions[order], **how),
        positional_contrastive_loss(embeddings, positions, **how),
        rtol=1e-10,
        atol=1e-10,
    )


@settings(deadline=None)
@given(batches(), st.data())
def test_the_length_of_an_embedding_does_not_matter(batch, data):
    embeddings, positions, how = batch
    n = len(embeddings)
    factors = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=n, max_size=n))
    torch.testing.assert_close(
        positional_contrastive_loss(
            embeddings * torch.tensor(factors, dtype=torch.float64)[:, None], positions, **how
        ),
        positional_contrastive_loss(embeddings, positions, **how),
        rtol=1e-10,
        atol=1e-10,
    )


@settings(deadline=None)
@given(batches(), st.integers(-16, 16))
def test_only_differences_of_positions_matter(batch, eighths):
    embeddings, positions, how = batch
    loss = positional_contrastive_loss(embeddings, positions, **how)
    shifted = positional_contrastive_loss(embeddings, eighths / 8 - positions, **how)
    torch.testing.assert_close(shifted, loss)


def test_gradient_by_finite_differences():
    positions = torch.tensor([0.1, 0.15, 0.4, 0.45, 0.9], dtype=torch.float64)
    embeddings = random_embeddings(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: positional_contrastive_loss(z, positions, threshold=0.1, temperature=0.2),
        embeddings,
    )


def test_a_pair_exactly_at_the_threshold_is_not_positive():
    positions = torch.tensor([0.25, 0.5, 0.75])
    embeddings = random_embeddings(3, 4)
    at = positional_contrastive_loss(embeddings, positions, threshold=0.25, temperature=0.1)
    above = positional_contrastive_loss(embeddings, positions, threshold=0.2501, temperature=0.1)
    assert at == 0
    assert above > 0


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.35]))
def test_near_is_decided_as_with_exact_fractions(n, m, threshold):
    """A distance equal to the threshold counts as equal, whichever way its rounding goes."""
    exact = [Fraction(i + 1, n) for i in range(n)] + [Fraction(j + 1, m) for j in range(m)]
    limit = Fraction(str(threshold))
    expected = torch.tensor([[abs(p - q) < limit for q in exact] for p in exact])
    positions = torch.cat([torch.arange(1, k + 1).double().div(k).float() for k in (n, m)])
    assert torch.equal(near(positions, positions, threshold), expected)


def test_the_tiniest_threshold_still_joins_equal_positions():
    positions = torch.tensor([0.3, 0.3, 0.30001])
    pairs = near(positions, positions, 1e-9)
    assert pairs.tolist() == [[True, True, False]] * 2 + [[False, False, True]]
    assert not near(positions, positions, 0.0).any()


def test_a_known_value():
    """Two views of one slice and a third slice, at right angles: by hand."""
    embeddings = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    positions = torch.tensor([0.5, 0.5, 1.0])
    loss = positional_contrastive_loss(embeddings, positions, threshold=0.1, temperature=1.0)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


def test_several_positives_are_averaged_within_their_anchor():
    """Anchor 0 sees rows 1 and 2 as positives; 3 is skipped, not counted as a loss of 0."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    positions = torch.tensor([0.5, 0.5, 0.5, 1.0])
    loss = positional_contrastive_loss(embeddings, positions, threshold=0.1, temperature=1.0)
    first = math.log(math.e + 2) - 1 / 2  # logits 1, 0, 0, of which the first two are positive
    third = math.log(1 + 1 + math.exp(-1)) - 0  # logits 0, 0, -1
    assert float(loss) == pytest.approx((2 * first + third) / 3)


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_no_positives_no_loss(threshold):
    embeddings = random_embeddings(6, 4).requires_grad_()
    positions = torch.full((6,), 0.5)
    loss = positional_contrastive_loss(embeddings, positions, threshold=threshold, temperature=0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not embeddings.grad.any()


def test_above_the_range_of_the_positions_everything_is_positive():
    embeddings, positions = random_embeddings(7, 4), torch.linspace(0.05, 1, 7)
    loss = positional_contrastive_loss(embeddings, positions, threshold=1.01, temperature=0.3)
    everything = positional_contrastive_loss(
        embeddings, torch.zeros(7), threshold=1e-9, temperature=0.3
    )
    torch.testing.assert_close(loss, everything)
    z = torch.nn.functional.normalize(embeddings, dim=1)
    logits = (z @ z.T / 0.3)[~torch.eye(7, dtype=bool)].reshape(7, 6)
    torch.testing.assert_close(loss, -logits.log_softmax(1).mean())


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.1, 0.5, 2.0]))
def test_distant_slices_in_two_views_are_simclr(n, seed, temperature):
    embeddings = random_embeddings(2 * n, 5, seed)
    positions = (torch.arange(n) + 1.0).repeat(2)
    loss = positional_contrastive_loss(
        embeddings, positions, threshold=1.0, temperature=temperature
    )
    torch.testing.assert_close(loss, nt_xent(embeddings, temperature))


def test_anchors_without_a_positive_are_left_out_of_the_mean():
    embeddings = random_embeddings(5, 4)
    positions = torch.tensor([0.0, 0.0, 0.3, 0.6, 0.9])
    loss = positional_contrastive_loss(embeddings, positions, threshold=0.1, temperature=0.5)
    z = torch.nn.functional.normalize(embeddings, dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(-math.inf)
    own = logits.log_softmax(1)
    torch.testing.assert_close(loss, -(own[0, 1] + own[1, 0]) / 2)


def test_lonely_slices_still_repel():
    """An anchor that is skipped is a negative of the others, and is pushed away from them."""
    embeddings = random_embeddings(3, 4).requires_grad_()
    positions = torch.tensor([0.5, 0.5, 1.0])
    positional_contrastive_loss(embeddings, positions, threshold=0.1, temperature=0.5).backward()
    assert embeddings.grad[2].abs().max() > 1e-3


@pytest.mark.parametrize("n", [2, 5, 64])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_equal_embeddings_are_at_chance(n, temperature):
    embeddings = torch.ones(n, 8)
    positions = torch.arange(n) / n / 10
    loss = positional_contrastive_loss(
        embeddings, positions, threshold=0.5, temperature=temperature
    )
    assert float(loss) == pytest.approx(math.log(n - 1), abs=2e-5)


def test_pulling_positives_together_lowers_the_loss():
    positions = torch.tensor([0.1, 0.9]).repeat(2)
    together = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(2, 1)
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    losses = [
        float(positional_contrastive_loss(z, positions, threshold=0.1, temperature=0.1))
        for z in (together, apart)
    ]
    assert losses[0] < 1e-3
    assert losses[1] > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_of_one_has_no_loss(dtype):
    embeddings = torch.ones(1, 4, dtype=dtype, requires_grad=True)
    loss = positional_contrastive_loss(
        embeddings, torch.tensor([0.5]), threshold=0.1, temperature=0.1
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert not embeddings.grad.any()


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_temperatures(temperature, dtype):
    positions = torch.arange(12) / 12
    embeddings = random_embeddings(12, 6, dtype=dtype).requires_grad_()
    how = {"threshold": 0.2, "temperature": temperature}
    loss = positional_contrastive_loss(embeddings, positions, **how)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    expected = slow_loss(embeddings.detach(), positions, **how)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "result", "rel"),
    [
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
        (torch.float32, torch.float32, 1e-5),
        (torch.float64, torch.float64, 1e-12),
    ],
)
def test_low_precision_is_only_that_of_the_input(dtype, result, rel):
    """What comes in as bfloat16 is not rounded a second time."""
    embeddings, positions = random_embeddings(32, 16, dtype=dtype), torch.linspace(0, 1, 32)
    how = {"threshold": 0.1, "temperature": 0.1}
    loss = positional_contrastive_loss(embeddings, positions, **how)
    assert loss.dtype == result
    assert float(loss) == pytest.approx(float(slow_loss(embeddings, positions, **how)), rel=rel)


def test_under_autocast_the_loss_is_as_exact():
    embeddings = random_embeddings(32, 16, dtype=torch.float32)
    positions = torch.linspace(0, 1, 32)
    how = {"threshold": 0.1, "temperature": 0.1}
    with torch.autocast("cpu", torch.bfloat16):
        loss = positional_contrastive_loss(embeddings, positions, **how)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, positional_contrastive_loss(embeddings, positions, **how))


class _LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation makes, backward included."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_nothing_grows_faster_than_pairs():
    n, dimension = 96, 64
    embeddings = random_embeddings(n, dimension, dtype=torch.float32).requires_grad_()
    with _LargestTensor() as seen:
        positional_contrastive_loss(
            embeddings, torch.linspace(0, 1, n), threshold=0.1, temperature=0.1
        ).backward()
    assert n * dimension <= seen.largest <= n * n


def test_of_many_views_there_are_never_all_pairs(monkeypatch):
    n, dimension, block = 300, 4, 7
    monkeypatch.setattr(contrast, "DENSE", n - 1)
    monkeypatch.setattr(blockwise, "BLOCK_PAIRS", block * n + 5)
    embeddings = random_embeddings(n, dimension, dtype=torch.float32).requires_grad_()
    kept = []
    with (
        _LargestTensor() as forward,
        torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x),
    ):
        step = contrast.contrast(
            embeddings, torch.linspace(0, 1, n), partial(near, threshold=0.1), temperature=0.1
        )
    with _LargestTensor() as backward:
        step.loss.backward()
    assert forward.largest == backward.largest == block * n
    assert max(tensor.numel() for tensor in kept) == n * dimension


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"kernel": "gaussian"},
        {"kernel": "triangular"},
        {"grey": 0.3},
        {"phase": 0.2},
        {"phase": 0.2, "grey": 0.3},
    ],
    ids=lambda how: "-".join(map(str, how.values())) or "box",
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_many_views_have_the_loss_of_few(dtype, how, monkeypatch):
    """Just above the limit and just below it all that is said of a batch is the same."""
    n = 300
    positions = (torch.arange(n) % 100 + 1) / 100
    if "phase" in how:
        positions = torch.stack([positions, torch.arange(n) % 7 / 7], dim=1)
    results = []
    for limit in (n, n - 1):
        monkeypatch.setattr(contrast, "DENSE", limit)
        embeddings = random_embeddings(n, 8, dtype=dtype).requires_grad_()
        step = positional_contrast(embeddings, positions, threshold=0.1, temperature=0.1, **how)
        step.loss.backward()
        results.append((step, embeddings.grad))
    (few, of_few), (many, of_many) = results
    torch.testing.assert_close(many.loss, few.loss)
    torch.testing.assert_close(of_many, of_few)
    if "grey" in how:
        assert float(many.chance) == pytest.approx(float(few.chance))
        assert float(many.chance) < math.log(n - 30)
    else:
        assert many.chance == few.chance == math.log(n - 1)
    assert float(many.floor) == pytest.approx(float(few.floor))
    assert torch.equal(many.logs["similarity"], few.logs["similarity"])


# The kernel


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("box", [1, 1, 0, 0, 0, 0]),
        ("triangular", [1, 0.5, 0, 0, 0, 0]),
        ("gaussian", [1, math.exp(-1 / 8), math.exp(-1 / 2), math.exp(-2), 0, 0]),
    ],
)
def test_weights_fall_with_the_distance(kernel, expected):
    """In millimetres; the threshold is the width."""
    distances = torch.tensor([0.0, 5, 10, 20, 30, 100])
    weights = kernel_weights(distances[:1], distances, kernel=kernel, threshold=10)
    torch.testing.assert_close(weights.float(), torch.tensor([expected], dtype=torch.float32))
    other_side = kernel_weights(distances[:1], -distances, kernel=kernel, threshold=10)
    assert torch.equal(weights, other_side)


@pytest.mark.parametrize("kernel", ["triangular", "gaussian"])
def test_a_pair_at_the_reach_except_for_rounding_has_no_weight(kernel):
    positions = torch.arange(1, 11) / 10
    threshold = 0.1 if kernel == "triangular" else 0.1 / 3
    weights = kernel_weights(positions, positions, kernel=kernel, threshold=threshold)
    assert torch.equal(weights, torch.eye(10))


@pytest.mark.parametrize("threshold", [0.0, -1.0])
@pytest.mark.parametrize("kernel", ["box", "triangular", "gaussian"])
def test_no_width_no_positives(kernel, threshold):
    positions = torch.tensor([0.3, 0.3, 0.4])
    weights = kernel_weights(positions, positions, kernel=kernel, threshold=threshold)
    assert not weights.any()


@settings(deadline=None)
@given(batches())
def test_weights_of_0_and_1_are_the_hard_threshold_to_the_last_bit(batch):
    embeddings, positions, how = batch
    temperature, threshold = how["temperature"], how["threshold"]

    def as_weights(anchors, others):
        return near(anchors, others, threshold).double()

    outcomes = []
    for rule in (partial(near, threshold=threshold), as_weights):
        z = contrast.unit(embeddings).requires_grad_()
        whole = contrast.contrast(z, positions, rule, temperature=temperature).loss
        losses = blockwise.anchor_losses(z, positions, rule, temperature=temperature).losses
        gradients = [torch.autograd.grad(loss, z)[0] for loss in (whole, losses.sum())]
        outcomes.append((whole, losses, *gradients))
    for hard, weighted in zip(*outcomes, strict=True):
        assert torch.equal(hard, weighted)


@pytest.mark.parametrize("kernel", ["triangular", "gaussian"])
def test_a_far_positive_counts_less_than_a_near_one(kernel):
    positions = torch.tensor([0.0, 0.0, 0.09])
    near_one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    far_one = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    losses = [
        float(
            positional_contrastive_loss(z, positions, threshold=0.1, temperature=0.5, kernel=kernel)
        )
        for z in (near_one, far_one)
    ]
    assert losses[0] < losses[1]


def test_the_grey_zone_neither_attracts_nor_repels():
    """Row 2 lies between the positives and the end of the grey zone of anchor 0; by hand."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    positions = torch.tensor([0.0, 0.0, 0.2, 1.0])
    how = {"threshold": 0.1, "temperature": 1.0}
    zone = in_grey_zone(positions[:1], positions, kernel="box", threshold=0.1, grey=0.3)
    assert zone.tolist() == [[False, False, True, False]]
    loss = positional_contrastive_loss(embeddings, positions, grey=0.3, **how)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))
    loss = positional_contrastive_loss(embeddings, positions, **how)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)))


def test_chance_without_the_grey_zone_is_the_loss_of_equal_embeddings():
    positions = torch.tensor([0.0, 0.0, 0.2, 0.5, 0.5, 1.0])
    step = positional_contrast(
        torch.ones(6, 4), positions, threshold=0.1, temperature=0.2, grey=0.4
    )
    assert float(step.chance) == pytest.approx(math.log(4))
    assert float(step.loss) == pytest.approx(float(step.chance), rel=1e-5)


# The phase of a cine


def slow_phased_loss(embeddings, places, *, threshold, temperature, phase, kernel, grey):
    """As `slow_loss`, with the product of two kernels, one of them around the cycle."""
    z = [row / row.norm() for row in embeddings.double()]
    n = len(z)
    per_anchor = []
    for i in range(n):
        weights, left_out = {}, set()
        for j in set(range(n)) - {i}:
            level = abs(float(places[i, 0] - places[j, 0]))
            turns = [float(places[i, 1] - places[j, 1]) + turn for turn in (-1, 0, 1)]
            time = min(abs(turn) for turn in turns)
            weights[j] = slow_weight(level, kernel, threshold) * slow_weight(time, kernel, phase)
            if grey is not None and REACH[kernel] * threshold <= level < grey:
                left_out |= {j} if time < REACH[kernel] * phase else set()
        positives = [j for j, weight in weights.items() if weight > 0]
        if not positives:
            continue
        logits = {k: torch.dot(z[i], z[k]) / temperature for k in weights}
        rest = torch.stack([logits[k] for k in weights if k not in left_out]).logsumexp(0)
        terms = [weights[j] * (logits[j] - rest) for j in positives]
        per_anchor.append(-sum(terms) / sum(weights[j] for j in positives))
    return sum(per_anchor) / len(per_anchor) if per_anchor else embeddings.double().sum() * 0


@settings(deadline=None)
@given(batches(), st.data())
def test_value_and_gradient_of_a_cine_are_those_of_the_formula(batch, data):
    embeddings, positions, how = batch
    assume(how["threshold"] > 0)
    n = len(embeddings)
    sixteenths = data.draw(st.lists(st.integers(0, 15), min_size=n, max_size=n))
    places = torch.stack([positions, torch.tensor(sixteenths).double() / 16], dim=1)
    how["phase"] = data.draw(st.sampled_from([1 / 16, 1 / 8, 1 / 2]))
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss = positional_contrastive_loss(fast, places, **how)
    expected = slow_phased_loss(slow, places, **how)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    lengths = embeddings.norm(dim=1, keepdim=True)
    torch.testing.assert_close(fast.grad * lengths, slow.grad * lengths, rtol=1e-8, atol=1e-9)


def test_the_last_frame_is_near_the_first_one():
    phases = torch.tensor([0.0, 0.05, 0.5, 0.95])
    expected = [[0, 0.05, 0.5, 0.05], [0.05, 0, 0.45, 0.1]]
    torch.testing.assert_close(phase_distances(phases[:2], phases), torch.tensor(expected))


def test_a_positive_of_a_cine_is_near_in_both():
    places = torch.tensor([[0.5, 0.0], [0.55, 0.95], [0.5, 0.5], [0.9, 0.0]])
    weights = phased_weights(places[:1], places, kernel="box", threshold=0.1, phase=0.1)
    assert weights.tolist() == [[True, True, False, False]]
    weights = phased_weights(places[:1], places, kernel="triangular", threshold=0.1, phase=0.1)
    torch.testing.assert_close(weights, torch.tensor([[1, 0.25, 0, 0]]))


@settings(deadline=None)
@given(batches(), st.integers(0, 15))
def test_the_same_phase_everywhere_changes_nothing(batch, sixteenths):
    embeddings, positions, how = batch
    places = torch.stack([positions, torch.full_like(positions, sixteenths / 16)], dim=1)
    phased = positional_contrastive_loss(embeddings, places, phase=0.1, **how)
    torch.testing.assert_close(phased, positional_contrastive_loss(embeddings, positions, **how))


@settings(deadline=None)
@given(batches(), st.data())
def test_where_a_cycle_begins_does_not_matter(batch, data):
    embeddings, positions, how = batch
    n = len(embeddings)
    sixteenths = data.draw(st.lists(st.integers(0, 15), min_size=n, max_size=n))
    losses = []
    for begin in (0, data.draw(st.integers(1, 15))):
        phases = (torch.tensor(sixteenths).double() + begin) % 16 / 16
        places = torch.stack([positions, phases], dim=1)
        losses.append(positional_contrastive_loss(embeddings, places, phase=0.125, **how))
    torch.testing.assert_close(*losses)


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.1), SIZE)


def method(**loss) -> PositionalContrast:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    chosen = PositionalContrast.Settings(**{"threshold": 0.3, **loss})
    return PositionalContrast(encoder, HeadSettings(dimension=8), chosen, n_slices=8)


def batch(n=4) -> SliceBatch:
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    return SliceBatch(images, (torch.arange(n) + 1) / n)


def test_a_step_follows_from_its_seed():
    first, again, other = (method().step(batch(), VIEWS, seed, 0.0) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.logs["similarity"], again.logs["similarity"])
    assert not torch.equal(first.loss, other.loss)


def test_a_step_leaves_the_global_generator_alone():
    pcl = method()
    before = torch.get_rng_state()
    pcl.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loss", [{}, {"kernel": "gaussian"}, {"grey": 0.6, "temperature": 0.2}])
def test_a_step_is_the_loss_of_two_different_views(loss):
    pcl, slices, seed = method(**loss), batch(), 5
    seen = []
    pcl.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pcl.head.register_forward_hook(lambda *args: seen.append(args[2]))
    step = pcl.step(slices, VIEWS, seed, 0.0)
    pair, embeddings = seen
    assert pair.shape == (8, 1, SIZE, SIZE)
    assert embeddings.shape == (8, 8)
    torch.testing.assert_close(pair[:4], VIEWS(slices.images, seed, view=0))
    torch.testing.assert_close(pair[4:], VIEWS(slices.images, seed, view=1))
    assert not torch.allclose(pair[:4], pair[4:])
    positions = torch.cat([slices.positions, slices.positions])
    how = {"threshold": 0.3, "temperature": 0.1, **loss}
    expected = slow_loss(embeddings, positions, **how)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    z = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = (z @ z.T)[~torch.eye(8, dtype=bool)].mean()
    torch.testing.assert_close(step.logs["similarity"], similarity.detach())
    assert not step.logs["similarity"].requires_grad


def test_chance_is_the_loss_of_equal_embeddings():
    pcl = method()
    torch.nn.init.zeros_(pcl.head.layers[-1].weight)
    torch.nn.init.ones_(pcl.head.layers[-1].bias)
    step = pcl.step(batch(), VIEWS, 0, 0.0)
    assert float(step.chance) == pytest.approx(math.log(7))
    assert float(step.loss.detach()) == pytest.approx(float(step.chance), rel=1e-5)
    assert float(step.logs["similarity"]) == pytest.approx(1, abs=1e-5)


def test_every_parameter_learns():
    pcl = method()
    pcl.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in pcl.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) for p in pcl.encoder.parameters()) > 0


def test_a_single_slice_is_its_own_positive():
    step = method().eval().step(batch(1), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(0, abs=1e-6)
    assert step.chance == 0


def test_a_few_steps_bring_positions_together():
    """The loss can be learnt: it falls well below chance where position shows in the picture."""
    pcl, slices = method(), batch(8)
    slices.images = slices.images * 0.1 + slices.positions[:, None, None, None] * 4
    steady = ViewSettings(brightness=0, contrast=0, gamma=0, noise=0)  # position is brightness here
    views = ViewMaker(steady, SIZE)
    optimiser = torch.optim.Adam(pcl.parameters(), 0.01)
    losses = []
    for seed in range(40):
        optimiser.zero_grad()
        step = pcl.step(slices, views, seed, 0.0)
        step.loss.backward()
        optimiser.step()
        losses.append(float(step.loss.detach()))
    assert step.chance is not None
    assert np.mean(losses[-5:]) < 0.8 * step.chance


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"threshold": -1},
        {"temperature": 0},
        {"temprature": 1},
        {"kernel": "sharp"},
        {"grey": 0},
        {"grey": 0.1},
        {"grey": 0.3, "kernel": "gaussian"},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(PositionalContrast.Settings, wrong)


def test_a_step_goes_by_phases_if_it_is_asked_to():
    contrasted, slices = method(phase=0.2), batch()
    slices.phases = torch.tensor([0.0, 0.1, 0.5, 0.9])
    seen = []
    contrasted.head.register_forward_hook(lambda *args: seen.append(args[2].detach()))
    step = contrasted.step(slices, VIEWS, 5, 0.0)
    places = torch.stack([slices.positions, slices.phases], dim=1).repeat(2, 1)
    expected = positional_contrastive_loss(
        seen[0], places, threshold=0.3, temperature=0.1, phase=0.2
    )
    assert float(step.loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    without = method().step(slices, VIEWS, 5, 0.0)
    assert float(step.loss.detach()) != pytest.approx(float(without.loss.detach()), rel=1e-3)
