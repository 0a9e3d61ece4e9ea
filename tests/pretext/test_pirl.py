"""PIRL: its loss against the formula written out, its jigsaw, its memory bank, the method."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext import find_method
from poscon.pretext.pirl import (
    PIRL,
    JigsawHead,
    check_patches,
    draw_negatives,
    draw_orders,
    jigsaw_patches,
    nce_chance,
    nce_floor,
    nce_loss,
)
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def slow_loss(embeddings, own, others, negatives, *, temperature):
    """Eq. 3 and 4 of Misra & van der Maaten 2020, one pair at a time, in double precision."""

    def score(a, b):
        return torch.exp(torch.dot(a, b) / a.norm() / b.norm() / temperature)

    total = 0.0
    for i, v in enumerate(embeddings.double()):
        rows = [m for m, wanted in zip(others.double(), negatives[i], strict=True) if wanted]
        noise = sum(score(m, v) for m in rows)

        def h(m, v=v, noise=noise):
            return score(m, v) / (score(m, v) + noise)

        total = total - torch.log(h(own[i].double()))
        for m in rows:
            total = total - torch.log(1 - h(m))
    return total / len(embeddings)


def random_rows(n, dimension, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64).to(dtype)


def everyone_else(n):
    return ~torch.eye(n, dtype=torch.bool)


@st.composite
def batches(draw):
    """Rows of very different lengths; any sets of negatives, none at all among them."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dimension, seed = draw(st.integers(1, 5)), draw(st.integers(0, 10**6))
    rows = random_rows(2 * n + m, dimension, seed)
    assume(bool((rows.norm(dim=1) > 1e-3).all()))
    lengths = draw(st.lists(st.floats(-4, 4), min_size=2 * n + m, max_size=2 * n + m))
    rows = rows * 10 ** torch.tensor(lengths, dtype=torch.float64)[:, None]
    marks = draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))
    temperature = draw(st.sampled_from([0.07, 0.3, 1.0, 3.0]))
    negatives = torch.tensor(marks).reshape(n, m)
    return (*rows.split([n, n, m]), negatives), {"temperature": temperature}


@settings(deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_formula(batch):
    (embeddings, *bank), how = batch
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss, expected = nce_loss(fast, *bank, **how), slow_loss(slow, *bank, **how)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    loss.backward()
    expected.backward()
    lengths = embeddings.norm(dim=1, keepdim=True)  # the gradient of a short row is a long one
    torch.testing.assert_close(fast.grad * lengths, slow.grad * lengths, rtol=1e-7, atol=1e-8)


@settings(deadline=None)
@given(batches(), st.data())
def test_the_order_of_the_negatives_does_not_matter(batch, data):
    (embeddings, own, others, negatives), how = batch
    order = data.draw(st.permutations(range(len(others))))
    torch.testing.assert_close(
        nce_loss(embeddings, own, others[order], negatives[:, order], **how),
        nce_loss(embeddings, own, others, negatives, **how),
        rtol=1e-10,
        atol=1e-10,
    )


@settings(deadline=None)
@given(batches())
def test_rows_that_are_no_negatives_do_not_matter(batch):
    (embeddings, own, others, negatives), how = batch
    more = torch.cat([others, own])
    wider = torch.cat([negatives, torch.zeros(len(own), len(own), dtype=torch.bool)], dim=1)
    torch.testing.assert_close(
        nce_loss(embeddings, own, more, wider, **how),
        nce_loss(embeddings, own, others, negatives, **how),
        rtol=1e-10,
        atol=1e-10,
    )


def test_gradient_by_finite_differences():
    own, others = random_rows(3, 4, 1), random_rows(5, 4, 2)
    negatives = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda z: nce_loss(z, own, others, negatives, temperature=0.3),
        random_rows(3, 4).requires_grad_(),
    )


def test_a_known_value():
    """An anchor on its own row, one negative at a right angle: by hand."""
    anchor, own, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.eye(2)[1:]
    loss = nce_loss(anchor, own, other, torch.ones(1, 1, dtype=torch.bool), temperature=1.0)
    assert float(loss) == pytest.approx(-math.log(math.e / (math.e + 1)) - math.log(1 / 2))


def test_no_negatives_no_loss():
    embeddings = random_rows(3, 4).requires_grad_()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    loss = nce_loss(embeddings, random_rows(3, 4, 1), random_rows(3, 4, 2), nothing, temperature=1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not embeddings.grad.any()


def test_the_own_row_attracts_and_negatives_repel():
    own, others = torch.eye(3)[:1], torch.eye(3)[1:2]
    embeddings = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
    everything = torch.ones(1, 1, dtype=torch.bool)
    nce_loss(embeddings, own, others, everything, temperature=0.5).backward()
    towards = -embeddings.grad[0]
    assert towards[0] > 0 > towards[1]


@pytest.mark.parametrize("n", [2, 5, 300])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_equal_embeddings_are_at_chance(n, temperature):
    same = torch.ones(n, 8)
    loss = nce_loss(same, same, same, everyone_else(n), temperature=temperature)
    assert float(loss) == pytest.approx(nce_chance(n - 1), rel=1e-5)


@pytest.mark.parametrize(("n", "temperature"), [(2, 1.0), (5, 0.07), (9, 0.07), (9, 0.3), (5, 3.0)])
def test_the_floor_is_about_what_free_embeddings_come_to(n, temperature):
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(n, 12, generator=generator).requires_grad_()
    z = bank.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([bank, z], 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss = nce_loss(z, bank, bank, everyone_else(n), temperature=temperature)
        loss.backward()
        optimiser.step()
    floor = nce_floor(n - 1, temperature)
    # the negatives' term is log 2 in the floor, but comes to near 1 where they are all as far
    assert floor - 1e-4 < float(loss.detach()) < floor + 1 - math.log(2)
    assert floor < nce_chance(n - 1)
    if n == 2 or temperature < 0.1:
        assert float(loss.detach()) == pytest.approx(floor, abs=0.02)


@pytest.mark.parametrize("temperature", [1e-3, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_temperatures(temperature, dtype):
    embeddings = random_rows(6, 4, dtype=dtype).requires_grad_()
    bank = random_rows(6, 4, 1, dtype=torch.float32)
    loss = nce_loss(embeddings, bank, bank, everyone_else(6), temperature=temperature)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


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
    """What comes in as bfloat16 is not rounded a second time, under autocast neither."""
    embeddings = random_rows(24, 16, dtype=dtype)
    bank = random_rows(24, 16, 1, dtype=result)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nce_loss(embeddings, bank, bank, everyone_else(24), temperature=0.07)
        assert loss.dtype == result
        expected = slow_loss(embeddings, bank, bank, everyone_else(24), temperature=0.07)
        assert float(loss) == pytest.approx(float(expected), rel=rel)


# Negatives


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10**6), st.data())
def test_negatives_are_as_many_others_as_asked_for(n_slices, n, seed, data):
    order = data.draw(st.permutations(range(n_slices)))
    slices = torch.tensor(order[: data.draw(st.integers(1, n_slices))])
    drawn, negatives = draw_negatives(slices, n_slices, n, seed)
    assert len(set(drawn.tolist())) == len(drawn)
    for own, row in zip(slices.tolist(), negatives, strict=True):
        theirs = drawn[row].tolist()
        assert own not in theirs
        assert len(theirs) == min(n, n_slices - 1)


def test_negatives_follow_from_the_seed():
    first, again, other = (draw_negatives(torch.tensor([4]), 50, 5, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_other_slice_is_a_negative_equally_often():
    slices, counts = torch.tensor([0, 3]), torch.zeros(2, 6)
    for seed in range(2000):
        drawn, negatives = draw_negatives(slices, 6, 2, seed)
        for row in range(2):
            counts[row, drawn[negatives[row]]] += 1
    assert counts[0, 0] == counts[1, 3] == 0
    expected = 2000 * 2 / 5  # with a standard deviation of 22
    for row, own in ((0, 0), (1, 3)):
        others = [i for i in range(6) if i != own]
        assert (counts[row, others] - expected).abs().max() < 110


# The jigsaw


@pytest.mark.parametrize("grid", [2, 3, 4])
@pytest.mark.parametrize("stride", [1, 4, 16])
@pytest.mark.parametrize("multiple", [4, 5, 6, 7, 8])
def test_patches_cover_the_view(grid, stride, multiple):
    size = stride * multiple
    numbers = torch.arange(size * size).reshape(1, 1, size, size).repeat(2, 1, 1, 1)
    numbers[1] += size * size
    patches = jigsaw_patches(numbers, grid, stride)
    extent = patches.shape[-1]
    assert patches.shape == (2, grid * grid, 1, extent, extent)
    assert extent % stride == 0
    assert extent - stride < size / grid <= extent
    for image in range(2):
        assert set(patches[image].flatten().tolist()) == set(numbers[image].flatten().tolist())


def test_patches_lie_where_their_place_in_the_grid_is():
    numbers = torch.arange(36).reshape(1, 1, 6, 6)
    patches = jigsaw_patches(numbers, 3, 2)[0, :, 0]
    assert patches[1].tolist() == [[2, 3], [8, 9]]
    assert patches[3].tolist() == [[12, 13], [18, 19]]
    assert patches[8].tolist() == [[28, 29], [34, 35]]


def test_every_pixel_reaches_the_encoder():
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=3)).double()
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    patches = jigsaw_patches(images, 3, encoder.settings.stride)
    (encoder(patches.flatten(0, 1))[-1] ** 3).sum().backward()
    assert (images.grad != 0).all()


def test_patches_smaller_than_the_stride_are_refused():
    with pytest.raises(PosconError, match=r"loss.grid = 3.*needs 16.*size to 48"):
        check_patches(47, 3, 16)
    check_patches(48, 3, 16)
    assert jigsaw_patches(torch.zeros(1, 1, 48, 48), 3, 16).shape[-1] == 16


def test_every_slice_has_an_order_of_its_own():
    orders = draw_orders(64, 9, 0)
    assert (orders.sort(dim=1).values == torch.arange(9)).all()
    assert len({tuple(order) for order in orders.tolist()}) > 60
    assert torch.equal(orders, draw_orders(64, 9, 0))
    assert not torch.equal(orders, draw_orders(64, 9, 1))


@pytest.mark.parametrize("norm", [True, False])
def test_the_jigsaw_head_concatenates_patches_in_their_order(norm):
    torch.manual_seed(0)
    head = JigsawHead(6, 4, HeadSettings(dimension=5, norm=norm)).eval()
    bottleneck, orders = torch.randn(3 * 4, 6, 2, 2), draw_orders(3, 4, 0)
    for i in range(3):
        patches = [bottleneck[4 * i + int(k)].mean(dim=(1, 2)) for k in orders[i]]
        vectors = torch.cat([head.project(patch) for patch in patches])
        expected = head.layers(vectors[None])[0]
        torch.testing.assert_close(head(bottleneck, orders)[i], expected)


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.1), SIZE)


def method(n_slices=8, dimension=8, **loss) -> PIRL:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    return PIRL(encoder, HeadSettings(dimension=dimension), PIRL.Settings(**loss), n_slices)


def batch(slices=(5, 0, 2, 7)) -> SliceBatch:
    n = len(slices)
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    return SliceBatch(images, (torch.arange(n) + 1) / n, slice_ids=torch.tensor(slices))


def outputs(pirl: PIRL) -> list:
    """What the two heads return from now on, first that of the whole slices."""
    seen = []
    for head in (pirl.head, pirl.jigsaw_head):
        head.register_forward_hook(lambda *args: seen.append(args[2].detach()))
    return seen


def test_it_is_found_by_its_name():
    assert find_method("pirl") is PIRL


def test_a_step_follows_from_its_seed():
    first, again, other = (method().step(batch(), VIEWS, seed, 0.0) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.logs["similarity"], again.logs["similarity"])
    assert not torch.equal(first.loss, other.loss)


def test_a_step_leaves_the_global_generator_alone():
    pirl = method()
    before = torch.get_rng_state()
    pirl.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [3, 32000])
def test_a_step_is_the_loss_of_a_view_and_of_the_patches_of_another(n):
    pirl = method(jigsaw_weight=0.3, temperature=0.2, negatives=n)
    slices, seed = batch(), 5
    inputs, (heads, bank) = [], (outputs(pirl), pirl.bank.clone())
    pirl.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    step = pirl.step(slices, VIEWS, seed, 0.0)
    torch.testing.assert_close(inputs[0], VIEWS(slices.images, seed, view=0))
    patches = jigsaw_patches(VIEWS(slices.images, seed, view=1), 3, 4)
    torch.testing.assert_close(inputs[1], patches.flatten(0, 1))
    image, jigsaw = heads
    assert image.shape == jigsaw.shape == (4, 8)
    drawn, negatives = draw_negatives(slices.slice_ids, 8, n, stream(seed, "negatives"))
    rows = bank[slices.slice_ids], bank[drawn], negatives
    expected = 0.3 * slow_loss(jigsaw, *rows, temperature=0.2)
    expected += 0.7 * slow_loss(image, *rows, temperature=0.2)
    assert float(step.loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    z = normalize(image, dim=1)
    torch.testing.assert_close(step.logs["similarity"], (z @ z.T)[everyone_else(4)].mean())


@pytest.mark.parametrize(("negatives", "n"), [(3, 3), (7, 7), (32000, 7)])
def test_chance_and_floor_count_the_negatives_that_there_are(negatives, n):
    step = method(n_slices=8, negatives=negatives).step(batch(), VIEWS, 0, 0.0)
    assert step.chance == pytest.approx(nce_chance(n))
    assert step.floor == pytest.approx(nce_floor(n, 0.07))


def test_chance_is_the_loss_of_a_collapsed_network():
    pirl = method()
    for head in (pirl.head, pirl.jigsaw_head):
        torch.nn.init.zeros_(head.layers[-1].weight)
        torch.nn.init.ones_(head.layers[-1].bias)
    pirl.bank.fill_(8**-0.5)
    step = pirl.step(batch(), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(step.chance, rel=1e-5)
    assert float(step.logs["similarity"]) == pytest.approx(1, abs=1e-5)


def test_every_parameter_learns():
    pirl = method()
    pirl.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in pirl.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith(("project.bias", "head.layers.0.bias")):  # norm takes them away
            assert parameter.grad.any(), name


@pytest.mark.parametrize("head", ["head", "jigsaw_head"])
def test_both_terms_train_the_encoder(head):
    pirl = method()
    other = {"head": "jigsaw_head", "jigsaw_head": "head"}[head]
    torch.nn.init.zeros_(getattr(pirl, other).layers[-1].weight)
    torch.nn.init.ones_(getattr(pirl, other).layers[-1].bias)
    pirl.step(batch(), VIEWS, 0, 0.0).loss.backward()
    assert all(parameter.grad.any() for parameter in pirl.encoder.parameters())


# The memory bank


def test_the_bank_follows_from_the_global_seed_and_has_unit_rows():
    pirl = method(n_slices=30, dimension=6)
    assert pirl.bank.shape == (30, 6)
    torch.testing.assert_close(pirl.bank.norm(dim=1), torch.ones(30))
    assert torch.equal(pirl.bank, method(n_slices=30, dimension=6).bank)
    assert pirl.bank.mean().abs() < 0.1
    assert "bank" in pirl.state_dict()


def test_a_step_moves_the_rows_of_its_slices_and_no_others():
    pirl, slices = method(momentum=0.5), batch()
    before, heads = pirl.bank.clone(), outputs(pirl)
    pirl.step(slices, VIEWS, 0, 0.0)
    image = normalize(heads[0], dim=1)
    expected = before.clone()
    for row, number in enumerate(slices.slice_ids.tolist()):
        expected[number] = normalize(0.5 * before[number] + 0.5 * image[row], dim=0)
    torch.testing.assert_close(pirl.bank, expected)
    torch.testing.assert_close(pirl.bank.norm(dim=1), torch.ones(8))
    untouched = [1, 3, 4, 6]
    assert torch.equal(pirl.bank[untouched], before[untouched])
    assert not pirl.bank.requires_grad


def test_momentum_is_the_share_of_the_old_row():
    pirl, slices = method(momentum=0.9), batch()
    before, heads = pirl.bank.clone(), outputs(pirl)
    pirl.step(slices, VIEWS, 0, 0.0)
    mixed = 0.9 * before[slices.slice_ids] + 0.1 * normalize(heads[0], dim=1)
    torch.testing.assert_close(pirl.bank[slices.slice_ids], normalize(mixed, dim=1))


def test_a_resumed_training_is_the_uninterrupted_one():
    def train(pirl, optimiser, steps):
        for seed in steps:
            optimiser.zero_grad()
            slices = (seed % 8, (seed + 3) % 8, (seed + 5) % 8)
            pirl.step(batch(slices), VIEWS, seed, 0.0).loss.backward()
            optimiser.step()
            pirl.after_step()

    straight = method(negatives=3)
    train(straight, torch.optim.SGD(straight.parameters(), 0.1), range(6))
    first = method(negatives=3)
    train(first, torch.optim.SGD(first.parameters(), 0.1), range(3))
    torch.manual_seed(99)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    second = PIRL(encoder, HeadSettings(dimension=8), first.loss, 8)
    second.load_state_dict(first.state_dict())
    train(second, torch.optim.SGD(second.parameters(), 0.1), range(3, 6))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_under_autocast_the_bank_stays_exact():
    pirl = method()
    with torch.autocast("cpu", torch.bfloat16):
        step = pirl.step(batch(), VIEWS, 0, 0.0)
    step.loss.backward()
    assert step.loss.dtype == pirl.bank.dtype == torch.float32
    torch.testing.assert_close(pirl.bank.norm(dim=1), torch.ones(8), rtol=1e-6, atol=1e-6)
    exact = method().step(batch(), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(float(exact.loss.detach()), rel=0.1)


def test_a_view_too_small_for_the_jigsaw_is_refused():
    with pytest.raises(PosconError, match=r"grid = 5.*size"):
        method(grid=5).check(100, VIEWS)


def test_a_few_steps_tell_slices_apart():
    """The loss can be learnt: it falls well below chance where slices differ in their pictures."""
    slices = batch(range(8))
    pattern = torch.nn.functional.interpolate(
        torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(2)), slices.images.shape[-1]
    )
    slices.images = slices.images * 0.1 + pattern
    calm = ViewSettings(rotation=5, scale=(0.95, 1.05), shift=0, brightness=0, gamma=0, noise=0)
    views = ViewMaker(calm, SIZE)
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=4, levels=2))
    pirl = PIRL(encoder, HeadSettings(dimension=16), PIRL.Settings(), 8)
    optimiser = torch.optim.Adam(pirl.parameters(), 0.01)
    losses = []
    for seed in range(60):
        optimiser.zero_grad()
        step = pirl.step(slices, views, seed, 0.0)
        step.loss.backward()
        optimiser.step()
        losses.append(float(step.loss.detach()))
    assert np.mean(losses[-5:]) - step.floor < 0.5 * (step.chance - step.floor)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"negatives": 0},
        {"jigsaw_weight": 0},
        {"jigsaw_weight": 1},
        {"momentum": 1},
        {"momentum": -0.1},
        {"grid": 1},
        {"lambda": 0.5},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(PIRL.Settings, wrong)
