"""GCL's two losses against their formulas written out, and the two stages around them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.networks.build import build_encoder, build_network
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.positions import relative_positions
from poscon.pretext.gcl import (
    GlobalLocalContrast,
    global_contrastive_loss,
    local_contrastive_loss,
    partitions_of,
    partners_of,
    regions_of,
)
from poscon.pretext.pcl import positional_contrastive_loss
from poscon.pretext.simclr import SimCLR, nt_xent_loss
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def random_embeddings(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def cosine(a, b):
    return torch.dot(a.double() / a.double().norm(), b.double() / b.double().norm())


def pair_loss(positive, others):
    """-log( exp(positive) / (exp(positive) + sum of exp(others)) ), of logits."""
    return torch.stack([positive, *others]).logsumexp(0) - positive


# Partitions


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(2, 40))
def test_partitions_are_those_of_whole_numbers(n, count):
    """In exact arithmetic: how many borders, k / count, lie below the position."""
    positions = torch.from_numpy(relative_positions(n).astype(np.float32))
    expected = [
        sum(Fraction(k, count) < Fraction(i + 1, n) for k in range(1, count)) for i in range(n)
    ]
    assert partitions_of(positions, count).tolist() == expected


@pytest.mark.parametrize("n", [*range(2, 60), 333, 1000])
def test_as_many_partitions_as_slices(n):
    positions = torch.from_numpy(relative_positions(n).astype(np.float32))
    assert partitions_of(positions, n).tolist() == list(range(n))


def test_partitions_of_any_volume_are_about_equal():
    for n in range(8, 200):
        positions = torch.from_numpy(relative_positions(n).astype(np.float32))
        counts = partitions_of(positions, 4).bincount()
        assert len(counts) == 4
        assert counts.max() - counts.min() <= 1


def test_partitions_of_millimetres_lie_between_the_limits():
    """A short volume has the middle parts only, and a border belongs to the part below."""
    long, short = torch.tensor([-40.0, -20, -19.9, 0, 20, 40]), torch.tensor([-10.0, 0, 10])
    assert partitions_of(long, 4, (-40.0, 40.0)).tolist() == [0, 0, 1, 1, 2, 3]
    assert partitions_of(short, 4, (-40.0, 40.0)).tolist() == [1, 1, 2]
    assert partitions_of(torch.zeros(3), 4, (0.0, 0.0)).tolist() == [0, 0, 0]


# The global loss


def slow_global_loss(embeddings, partitions, variant, denominator, temperature):
    """Eq. 1 of Chaitanya et al. 2020 a pair at a time, and who is whose positive and negative."""
    n = len(partitions)
    per_anchor = []
    for i in range(2 * n):
        positives, negatives = [], []
        for j in range(2 * n):
            own, alike = i % n == j % n, bool(partitions[i % n] == partitions[j % n])
            if j != i and (alike if variant == "GD" else own):
                positives.append(j)
            if not (own if variant == "GR" else alike):
                negatives.append(j)
        logits = [cosine(embeddings[i], embeddings[k]) / temperature for k in range(2 * n)]
        losses = []
        for j in positives:
            if denominator == "all":
                others = [logits[k] for k in range(2 * n) if k not in (i, j)]
            else:
                others = [logits[k] for k in negatives]
            losses.append(pair_loss(logits[j], others))
        per_anchor.append(sum(losses) / len(losses))
    return sum(per_anchor) / len(per_anchor)


@pytest.mark.parametrize("variant", ["GR", "GD-", "GD"])
@pytest.mark.parametrize("denominator", ["negatives", "all"])
@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from([0.05, 0.1, 1.0]),
)
def test_global_loss_is_that_of_the_formula(variant, denominator, partitions, seed, temperature):
    embeddings = random_embeddings(2 * len(partitions), 4, seed=seed)
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    partitions = torch.tensor(partitions)
    loss = global_contrastive_loss(
        fast, partitions, variant=variant, denominator=denominator, temperature=temperature
    )
    expected = slow_global_loss(slow, partitions, variant, denominator, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("variant", ["GR", "GD-", "GD"])
@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("n", [2, 7])
def test_one_volume_with_a_partition_a_slice_is_simclr(variant, denominator, n):
    embeddings = random_embeddings(2 * n, 5)
    partitions = partitions_of(torch.from_numpy(relative_positions(n)).float(), n)
    loss = global_contrastive_loss(
        embeddings, partitions, variant=variant, denominator=denominator, temperature=0.2
    )
    torch.testing.assert_close(loss, nt_xent_loss(embeddings, temperature=0.2))


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 7))
def test_it_is_pcl_where_the_threshold_cuts_between_partitions(seed, count, n):
    """Slices of one partition lie closer together than 1 / (2 count), all others further apart."""
    generator = torch.Generator().manual_seed(seed)
    partitions = torch.randint(count, (n,), generator=generator)
    offsets = torch.rand(n, generator=generator, dtype=torch.float64) / 4
    positions = (partitions + 3 / 8 + offsets) / count
    embeddings = random_embeddings(2 * n, 4, seed=seed)
    assert torch.equal(partitions_of(positions, count), partitions)
    loss = global_contrastive_loss(
        embeddings, partitions, variant="GD", denominator="all", temperature=0.1
    )
    pcl = positional_contrastive_loss(
        embeddings, positions.repeat(2), threshold=1 / (2 * count), temperature=0.1
    )
    torch.testing.assert_close(loss, pcl)


def test_all_under_the_fraction_makes_gd_minus_gr():
    embeddings, partitions = random_embeddings(12, 4), torch.tensor([0, 0, 1, 1, 1, 2])
    losses = [
        global_contrastive_loss(
            embeddings, partitions, variant=variant, denominator=denominator, temperature=0.3
        )
        for variant, denominator in [("GD-", "all"), ("GR", "all"), ("GR", "negatives")]
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize(("variant", "sign"), [("GR", 1), ("GD-", 0), ("GD", -1)])
def test_other_slices_of_the_partition(variant, sign):
    """They are pushed away, let be, or drawn near, where all else is at right angles."""

    def loss(angle):
        embeddings = torch.eye(4, dtype=torch.float64)[[0, 0, 2]]
        embeddings[1, :2] = torch.tensor([math.cos(angle), math.sin(angle)])
        return global_contrastive_loss(
            embeddings.repeat(2, 1),
            torch.tensor([0, 0, 1]),
            variant=variant,
            denominator="negatives",
            temperature=0.5,
        )

    assert float(loss(0.5) - loss(0.6)) * sign > (0.01 if sign else -1)
    if sign == 0:
        torch.testing.assert_close(loss(0.5), loss(0.6))


@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_global_loss_in_low_precision_is_only_that_of_the_input(denominator):
    embeddings = random_embeddings(16, 8, dtype=torch.bfloat16)
    partitions = torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        loss = global_contrastive_loss(
            embeddings, partitions, variant="GD", denominator=denominator, temperature=0.1
        )
    expected = slow_global_loss(embeddings, partitions, "GD", denominator, 0.1)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


# The local loss


def slow_local_loss(first, second, temperature):
    """Eq. 3 and 4 of Chaitanya et al. 2020, a region at a time."""
    losses = []
    for f, g in [*zip(first, second, strict=True), *zip(second, first, strict=True)]:
        for u in range(len(f)):
            others = [m[v] for v in range(len(f)) if v != u for m in (f, g)]
            logits = [cosine(f[u], other) / temperature for other in others]
            losses.append(pair_loss(cosine(f[u], g[u]) / temperature, logits))
    return sum(losses) / len(losses)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0.05, 0.1, 1.0])
)
def test_local_loss_is_that_of_the_formula(n_pairs, n_regions, seed, temperature):
    maps = random_embeddings(2, n_pairs, n_regions, 6, seed=seed)
    fast, slow = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    loss = local_contrastive_loss(fast[0], fast[1], temperature=temperature)
    expected = slow_local_loss(slow[0], slow[1], temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-8)


def test_local_loss_of_one_pair_is_nt_xent_of_its_regions():
    first, second = random_embeddings(2, 1, 6, 5)
    torch.testing.assert_close(
        local_contrastive_loss(first, second, temperature=0.2),
        nt_xent_loss(torch.cat([first[0], second[0]]), temperature=0.2),
    )


def test_regions_of_other_slices_do_not_matter():
    first, second = random_embeddings(2, 4, 6, 5)
    whole = local_contrastive_loss(first, second, temperature=0.2)
    each = [
        local_contrastive_loss(first[i : i + 1], second[i : i + 1], temperature=0.2)
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean())


def test_local_loss_in_low_precision_is_only_that_of_the_input():
    first, second = random_embeddings(2, 2, 13, 9, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = local_contrastive_loss(first, second, temperature=0.1)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(slow_local_loss(first, second, 0.1)), rel=1e-5)


@pytest.mark.parametrize(("extent", "side"), [(5, 1), (7, 3), (8, 3), (24, 3), (32, 3), (32, 5)])
def test_regions_are_13_different_squares_inside_the_map(extent, side):
    """Each pixel's value says where it is."""
    pixels = torch.arange(float(extent * extent)).reshape(1, 1, extent, extent)
    regions = regions_of(torch.cat([pixels, -pixels]).repeat(1, 2, 1, 1), side)
    assert regions.shape == (2, 13, 2 * side * side)
    corners = set()
    for row in regions[0]:
        first, again = row.reshape(2, side, side).long()
        assert torch.equal(first, again)
        y, x = divmod(int(first[0, 0]), extent)
        assert 0 <= y <= extent - side
        assert 0 <= x <= extent - side
        offsets = torch.arange(side)
        assert torch.equal(first, (y + offsets[:, None]) * extent + x + offsets)
        corners.add((y, x))
    last = extent - side
    assert len(corners) == 13
    assert {(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)} <= corners
    torch.testing.assert_close(regions[1], -regions[0])


def test_regions_are_where_they_are_in_the_published_code():
    """Quarters of the way, rounded down; 3x3 regions of a 24-pixel map do not overlap."""
    starts = (0, 5, 10, 15, 21)
    expected = [(y, x) for y in starts[::2] for x in starts[::2]]
    expected += [(y, x) for y in starts[1::2] for x in starts[1::2]]
    pixels = torch.arange(24.0 * 24).reshape(1, 1, 24, 24)
    found = [divmod(int(value), 24) for value in regions_of(pixels, 3)[0, :, 0]]
    assert found == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_partners_are_the_next_of_the_partition_from_another_volume(slices):
    partitions, volumes = torch.tensor(slices).T
    n = len(slices)
    expected = []
    for i, (partition, volume) in enumerate(slices):
        following = [(i + step) % n for step in range(1, n)]
        fits = [j for j in following if slices[j][0] == partition and slices[j][1] != volume]
        expected.append(fits[0] if fits else i)
    assert partners_of(partitions, volumes).tolist() == expected


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.1), SIZE)
LOCAL = 0.9
"""A share of the training's steps that lies in the local stage."""


def method(levels=2, **loss) -> GlobalLocalContrast:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=levels))
    chosen = validate(GlobalLocalContrast.Settings, loss)
    return GlobalLocalContrast(encoder, HeadSettings(dimension=8), chosen, n_slices=8)


def batch(n=6, volumes=2) -> SliceBatch:
    """Slices of equally many volumes, one after the other."""
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    positions = torch.from_numpy(relative_positions(n // volumes)).float().repeat(volumes)
    return SliceBatch(
        images, positions, volumes=torch.arange(volumes).repeat_interleave(n // volumes)
    )


def state(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(before, module) -> set[str]:
    return {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }


@pytest.mark.parametrize("progress", [0.0, LOCAL])
def test_a_step_follows_from_its_seed(progress):
    first, again, other = (method().step(batch(), VIEWS, seed, progress) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.logs["similarity"], again.logs["similarity"])
    assert not torch.equal(first.loss, other.loss)


@pytest.mark.parametrize("progress", [0.0, LOCAL])
def test_a_step_leaves_the_global_generator_alone(progress):
    gcl = method(local_variant="LD")
    before = torch.get_rng_state()
    gcl.step(batch(), VIEWS, 5, progress)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("variant", ["GR", "GD-", "GD"])
def test_a_global_step_is_the_loss_of_two_views(variant):
    gcl, slices = method(global_variant=variant, temperature=0.2), batch()
    seen = []
    gcl.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    gcl.head.register_forward_hook(lambda *args: seen.append(args[2]))
    step = gcl.step(slices, VIEWS, 5, 0.0)
    pair, embeddings = seen
    torch.testing.assert_close(pair[:6], VIEWS(slices.images, 5, view=0))
    torch.testing.assert_close(pair[6:], VIEWS(slices.images, 5, view=1))
    partitions = torch.tensor([1, 2, 3, 1, 2, 3])  # of 4: a third is in the second quarter
    expected = slow_global_loss(embeddings, partitions, variant, "negatives", 0.2)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    z = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = (z @ z.T)[~torch.eye(12, dtype=bool)].mean()
    torch.testing.assert_close(step.logs["similarity"], similarity.detach())


@pytest.mark.parametrize("progress", [0.0, LOCAL])
def test_partitions_are_of_the_range_that_the_training_has(progress):
    """Positions in millimetres from -40 to 60 are those from 0 to 1."""
    losses = []
    for low, high in ((0.0, 1.0), (-40.0, 60.0)):
        gcl, slices = method(local_variant="LD").eval(), batch(8)
        gcl.position_limits = (low, high)
        slices.positions = low + slices.positions * (high - low)
        losses.append(gcl.step(slices, VIEWS, 5, progress).loss)
    assert torch.equal(*losses)


def test_a_global_step_with_a_partition_a_slice_is_that_of_simclr():
    slices = batch(6, volumes=1)
    gcl = method(partitions=6, local=0)
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    simclr = SimCLR(encoder, HeadSettings(dimension=8), SimCLR.Settings(), n_slices=6)
    step, other = (m.step(slices, VIEWS, 5, 0.0) for m in (gcl, simclr))
    torch.testing.assert_close(step.loss, other.loss)
    assert float(step.chance) == pytest.approx(float(other.chance))
    assert step.floor == other.floor


def local_parts(gcl, slices, progress=LOCAL, views=VIEWS):
    """The step, the views that it made and the maps that it compared."""
    seen = []
    gcl.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    gcl.projection.register_forward_hook(lambda *args: seen.append(args[2]))
    step = gcl.step(slices, views, 5, progress)
    return step, *seen


def test_a_local_step_is_the_loss_of_regions_of_two_views():
    step, _, maps = local_parts(method(temperature=0.2), batch())
    assert maps.shape == (12, 4, 8, 8)
    regions = regions_of(maps, 3)
    expected = slow_local_loss(regions[:6], regions[6:], 0.2)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert step.chance is step.floor is None
    assert torch.equal(step.logs["local_loss"], step.loss)
    z = torch.nn.functional.normalize(regions.flatten(0, 1), dim=1)
    similarity = (z @ z.T)[~torch.eye(len(z), dtype=bool)].mean()
    torch.testing.assert_close(step.logs["similarity"], similarity.detach())


def test_a_local_step_with_ld_matches_volumes_too():
    step, _, maps = local_parts(method(local_variant="LD"), batch(4))
    one, other = regions_of(maps, 3).split(4)
    first, second = [*one], [*other]
    for i in range(4):  # slice i of one volume and slice i of the other are in one partition
        first += [one[i], other[i]]
        second += [one[(i + 2) % 4], other[(i + 2) % 4]]
    expected = slow_local_loss(first, second, 0.1)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_without_another_volume_ld_is_lr():
    """And with one geometry for all, the first slice is seen as in L^R."""
    slices = batch(1, volumes=1)
    lr, ld = (method(local_variant=variant).eval() for variant in ("LR", "LD"))
    torch.testing.assert_close(
        lr.step(slices, VIEWS, 5, LOCAL).loss, ld.step(slices, VIEWS, 5, LOCAL).loss
    )


def test_regions_of_the_two_views_show_the_same_place():
    """With nothing but brightness to change, the two views of a slice differ by a constant."""
    views = ViewMaker(ViewSettings(contrast=0, gamma=0, noise=0, brightness=1.0), SIZE)
    for variant in ("LR", "LD"):
        slices = batch()
        slices.images[:] = slices.images[:1]  # all slices alike
        _, pair, _ = local_parts(method(local_variant=variant), slices, views=views)
        difference = pair[:6] - pair[6:]
        offset = difference.mean((1, 2, 3), keepdim=True)
        assert offset.abs().min() > 1e-3
        torch.testing.assert_close(difference, offset.expand_as(difference))
        centred = pair[:6] - pair[:6].mean((1, 2, 3), keepdim=True)
        for i in range(1, 6):  # alike slices are seen alike if regions of slices correspond
            assert torch.allclose(centred[0], centred[i], atol=1e-5) == (variant == "LD")


@pytest.mark.parametrize(
    ("variant", "denominator", "chance", "floor"),
    [
        ("GR", "negatives", math.log(11), 0),
        ("GD-", "negatives", math.log(9), 0),
        ("GD", "negatives", math.log(9), 0),
        ("GD", "all", math.log(11), math.log(3)),
    ],
)
def test_chance_is_the_loss_of_equal_embeddings(variant, denominator, chance, floor):
    gcl = method(global_variant=variant, denominator=denominator)
    torch.nn.init.zeros_(gcl.head.layers[-1].weight)
    torch.nn.init.ones_(gcl.head.layers[-1].bias)
    step = gcl.step(batch(), VIEWS, 0, 0.0)
    assert float(step.chance) == pytest.approx(chance)
    assert float(step.floor) == pytest.approx(floor)
    assert float(step.loss.detach()) == pytest.approx(float(step.chance), rel=1e-5)


@pytest.mark.parametrize("variant", ["LR", "LD"])
def test_equal_regions_are_told_apart_by_luck_alone(variant):
    gcl = method(local_variant=variant)
    torch.nn.init.zeros_(gcl.projection[-1].weight)
    torch.nn.init.ones_(gcl.projection[-1].bias)
    step = gcl.step(batch(), VIEWS, 0, LOCAL)
    assert float(step.loss.detach()) == pytest.approx(math.log(25), rel=1e-5)


def test_the_stages_follow_each_other():
    gcl = method(local=0.25)
    steps = [gcl.step(batch(), VIEWS, 0, step / 8) for step in range(8)]
    assert [float(step.chance) for step in steps[:6]] == pytest.approx([math.log(9)] * 6)
    assert ["global_loss" in step.logs for step in steps] == [True] * 6 + [False] * 2
    assert ["local_loss" in step.logs for step in steps] == [False] * 6 + [True] * 2


@pytest.mark.parametrize("progress", [0.0, LOCAL])
def test_every_parameter_of_a_stage_learns_and_no_other(progress):
    gcl = method()
    gcl.step(batch(), VIEWS, 0, progress).loss.backward()
    stage = ("encoder", "head") if progress == 0 else ("decoder", "projection")
    for name, parameter in gcl.named_parameters():
        assert (parameter.grad is not None) == name.startswith(stage), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    trained = gcl.encoder if progress == 0 else gcl.decoder
    assert sum(float(p.grad.abs().sum()) for p in trained.parameters()) > 0


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
        lambda parameters: torch.optim.Adam(parameters, 0.01, weight_decay=0.1),
    ],
)
def test_the_other_stage_is_left_as_it_is(optimiser):
    """Neither momentum nor weight decay nor running statistics change what is not trained."""
    gcl = method()
    trained = optimiser(gcl.parameters())

    def steps(progress):
        for seed in range(3):
            trained.zero_grad()
            gcl.step(batch(), VIEWS, seed, progress).loss.backward()
            trained.step()

    before = state(gcl)
    steps(0.0)
    changed = differing(before, gcl)
    assert {name.partition(".")[0] for name in changed} == {"encoder", "head"}
    assert any(name.endswith("running_mean") for name in changed)
    before = state(gcl)
    steps(LOCAL)
    changed = differing(before, gcl)
    assert {name.partition(".")[0] for name in changed} == {"decoder", "projection"}
    assert gcl.encoder.training


def test_a_local_step_looks_through_the_encoder_as_it_will_be_used():
    """Running statistics, not those of the batch: a slice's features do not depend on others."""
    gcl, slices = method(), batch()
    seen = []
    gcl.encoder.register_forward_hook(lambda _, args, result: seen.append((args[0], result)))
    gcl.step(slices, VIEWS, 5, LOCAL)
    images, features = seen[0]
    gcl.eval()
    gcl.encoder(images[:1])
    for together, alone in zip(features, seen[1][1], strict=True):
        assert not together.requires_grad
        torch.testing.assert_close(together[:1], alone)


def test_an_encoder_in_evaluation_mode_stays_so():
    gcl = method().eval()
    gcl.step(batch(), VIEWS, 5, LOCAL)
    assert not gcl.encoder.training


@pytest.mark.parametrize(("blocks", "trained"), [(None, 2), (1, 1), (3, 3)])
def test_the_decoder_fits_the_start_of_a_network(blocks, trained):
    gcl = method(levels=3, decoder_blocks=blocks)
    assert gcl.parts == ("encoder", "decoder")
    network = build_network(gcl.encoder.settings, 2)
    theirs = network.decoder.state_dict()
    ours = gcl.decoder.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if int(name.split(".")[1]) < trained
    }
    step, _, maps = local_parts(gcl, batch(), views=ViewMaker(VIEWS.settings, 32))
    assert maps.shape == (
        12,
        2 * 2 ** (3 - trained),
        32 // 2 ** (3 - trained),
        32 // 2 ** (3 - trained),
    )
    step.loss.backward()


def test_encoder_only():
    gcl = method(local=0)
    assert gcl.parts == ("encoder",)
    assert {name.partition(".")[0] for name in gcl.state_dict()} == {"encoder", "head"}
    step = gcl.step(batch(), VIEWS, 0, 0.99)
    assert float(step.chance) == pytest.approx(math.log(9))
    torch.testing.assert_close(step.loss, method().step(batch(), VIEWS, 0, 0.0).loss)


def test_small_and_odd_batches():
    """Slices of one volume, of one partition, one slice alone."""
    for n, volumes in [(1, 1), (2, 2), (3, 1)]:
        gcl = method(local_variant="LD").eval()
        for progress in (0.0, LOCAL):
            step = gcl.step(batch(n, volumes), VIEWS, 0, progress)
            step.loss.backward()
            assert step.loss.isfinite()
            assert progress == LOCAL or step.chance >= step.floor


def learning(gcl, slices, progress, views):
    optimiser = torch.optim.Adam(gcl.parameters(), 0.01)
    losses = []
    for seed in range(40):
        optimiser.zero_grad()
        step = gcl.step(slices, views, seed, progress)
        step.loss.backward()
        optimiser.step()
        losses.append(float(step.loss.detach()))
    return losses, step.chance


@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_a_few_steps_bring_partitions_together(denominator):
    slices = batch(8)
    slices.images = slices.images * 0.1 + slices.positions[:, None, None, None] * 4
    views = ViewMaker(ViewSettings(brightness=0, contrast=0, gamma=0, noise=0), SIZE)
    losses, chance = learning(method(denominator=denominator), slices, 0.0, views)
    assert np.mean(losses[-5:]) < 0.8 * chance


@pytest.mark.parametrize("variant", ["LR", "LD"])
def test_a_few_steps_tell_regions_apart(variant):
    """The same picture in all slices, seen with much noise: only its places differ."""
    slices = batch(8)
    slices.images = (
        torch.nn.functional.avg_pool2d(slices.images, 3, 1, 1)[:1].repeat(8, 1, 1, 1) * 3
    )
    views = ViewMaker(ViewSettings(noise=0.5, brightness=1.0), SIZE)
    losses, _ = learning(method(local_variant=variant), slices, LOCAL, views)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    assert np.mean(losses[-5:]) < 0.3 * math.log(25)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"temperature": 0}, "temperature"),
        ({"partitions": 1}, "partitions"),
        ({"global_variant": "G"}, "global_variant"),
        ({"local_variant": "LX"}, "local_variant"),
        ({"denominator": "positives"}, "denominator"),
        ({"local": 1}, "local"),
        ({"local": -0.1}, "local"),
        ({"decoder_blocks": 0}, "decoder_blocks"),
        ({"region": 0}, "region"),
        ({"regions": 3}, "regions"),
        ({"global_variant": "GD-", "denominator": "all"}, "the same as GR"),
        ({"global_variant": "GR", "denominator": "all"}, "denominator has no effect"),
        ({"global_variant": "GR", "partitions": 3}, "partitions has no effect"),
        ({"global_variant": "GR", "local": 0, "partitions": 3}, "partitions has no effect"),
        ({"local": 0, "local_variant": "LD"}, "local_variant has no effect"),
        ({"local": 0, "decoder_blocks": 2}, "decoder_blocks has no effect"),
        ({"local": 0, "region": 1}, "region has no effect"),
    ],
)
def test_settings_that_cannot_work(wrong, match):
    with pytest.raises(PosconError, match=match):
        validate(GlobalLocalContrast.Settings, wrong)


def test_settings_that_have_an_effect():
    validate(
        GlobalLocalContrast.Settings,
        {"global_variant": "GR", "local_variant": "LD", "partitions": 3},
    )
    validate(GlobalLocalContrast.Settings, {"denominator": "all", "local": 0, "partitions": 3})


def test_more_decoder_than_there_is():
    with pytest.raises(PosconError, match=r"decoder_blocks = 3: the network has 2 levels"):
        method(decoder_blocks=3)


def test_a_map_too_small_for_its_regions_is_refused():
    with pytest.raises(PosconError, match="map has 8 pixels"):
        method(region=5).check(100, VIEWS)
    method(region=4).check(100, VIEWS)
    method(region=4).step(batch(), VIEWS, 0, LOCAL)
