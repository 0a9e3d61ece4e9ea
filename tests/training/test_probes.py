"""Probes against the definitions written out, and what they say of a pre-trained encoder."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, interpolate

from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.networks.build import build_encoder
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import load_by_name, read_weights
from poscon.seeds import stream
from poscon.store.store import Store
from poscon.training import probes
from poscon.training.data import SliceReader
from poscon.training.inference import BATCH_PIXELS
from poscon.training.probes import (
    LinearProbe,
    Retrieval,
    _middle,
    frozen,
    linear_segmentation_probe,
    pooled_features,
    position_retrieval,
)
from poscon.volumes.phantom import write_phantom

# Position retrieval


def slow_retrieval(features, positions, subjects):
    """Slice by slice; assumes that no two are equally near."""
    errors, chances = [], []
    for i in range(len(features)):
        others = [j for j in range(len(features)) if subjects[j] != subjects[i]]
        cosines = [
            float(features[i] @ features[j] / (features[i].norm() * features[j].norm()))
            for j in others
        ]
        distances = [abs(float(positions[i] - positions[j])) for j in others]
        errors.append(distances[int(np.argmax(cosines))])
        chances.append(np.mean(distances))
    return np.mean(errors), np.mean(chances)


@given(st.integers(2, 20), st.integers(2, 4), st.integers(0, 10**6))
def test_retrieval_is_that_of_the_definition(n, n_subjects, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    positions = torch.rand(n, generator=generator, dtype=torch.float64)
    subjects = [f"s{i % n_subjects}" for i in range(n)]
    found = position_retrieval(features, positions, subjects)
    assert found == pytest.approx(slow_retrieval(features, positions, subjects))
    scaled = position_retrieval(features * 1e-3, positions, subjects)
    assert scaled == pytest.approx(found)


def test_features_that_tell_the_position_find_it():
    positions = torch.linspace(0, 1, 11).repeat(3)
    subjects = [name for name in "abc" for _ in range(11)]
    features = torch.stack([positions.cos(), positions.sin()], dim=1)
    found = position_retrieval(features, positions, subjects)
    assert found.error == 0
    assert found.chance == pytest.approx(4 / 11, rel=1e-6)  # mean |i - j| / 10 of 0 ... 10


def test_slices_of_the_same_subject_do_not_count():
    """The nearest of all is the slice beside, of the same subject."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    positions = torch.tensor([0.25, 0.25, 1.0, 1.0])
    assert position_retrieval(features, positions, list("aabb")) == Retrieval(0.75, 0.75)
    assert position_retrieval(features, positions, list("abab")).error == 0
    assert position_retrieval(features, positions, ["a"] * 4) is None


def test_phases_are_compared_around_the_cycle() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    phases = torch.tensor([0.0, 0.9, 0.5, 0.4])
    found = position_retrieval(features, phases, list("abab"), cyclic=True)
    assert found is not None
    assert found.error == pytest.approx(0.1)
    assert found.chance == pytest.approx((0.1 + 0.4 + 0.4 + 0.1) / 4)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_an_encoder_that_maps_all_to_one_point_is_at_chance(value):
    positions = torch.rand(40, generator=torch.Generator().manual_seed(0))
    features = torch.full((40, 7), value)
    found = position_retrieval(features, positions, [f"s{i % 5}" for i in range(40)])
    assert found.error == pytest.approx(found.chance)


# Freezing


def test_frozen_leaves_every_module_in_its_mode():
    encoder = build_encoder(NetworkSettings(width=2, levels=2)).train()
    encoder.blocks[1].eval()
    modes = [module.training for module in encoder.modules()]
    images = torch.randn(2, 1, 8, 8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16), frozen(encoder) as device:
        assert device == torch.device("cpu")
        assert not any(module.training for module in encoder.modules())
        features = pooled_features(encoder, images)
    assert features.shape == (2, 8)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert [module.training for module in encoder.modules()] == modes
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(RuntimeError, match="broken"), frozen(encoder):
        raise RuntimeError("broken")
    assert [module.training for module in encoder.modules()] == modes


# Linear probe


def test_probe_is_a_1x1_convolution_of_all_levels_enlarged():
    generator = torch.Generator().manual_seed(0)
    probe = LinearProbe([3, 5], 4).eval()
    levels = [torch.randn(2, n, size, size, generator=generator) for n, size in ((3, 8), (5, 4))]
    enlarged, weights = [], []
    for level, norm, weight in zip(levels, probe.norms, probe.weights, strict=True):
        norm.running_mean.copy_(torch.randn(level.shape[1], generator=generator))
        norm.running_var.copy_(torch.rand(level.shape[1], generator=generator) + 0.5)
        weight.data.copy_(torch.randn(weight.shape, generator=generator))
        mean, std = norm.running_mean[:, None, None], (norm.running_var + 1e-5).sqrt()
        normal = (level - mean) / std[:, None, None]
        enlarged.append(interpolate(normal, (8, 8), mode="bilinear"))
        weights.append(weight)
    probe.bias.data.copy_(torch.randn(4, 1, 1, generator=generator))
    expected = conv2d(torch.cat(enlarged, 1), torch.cat(weights, 1), probe.bias.flatten())
    torch.testing.assert_close(probe(levels, 8), expected, rtol=1e-4, atol=1e-5)


class HandMade(nn.Module):
    """Features at two levels: what ``look`` makes of the image, and a constant coarse one."""

    def __init__(self, look):
        super().__init__()
        self.settings = NetworkSettings(width=1, levels=2)
        self.look = look
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images):
        self.norm(images)
        return [self.look(images), torch.ones(len(images), 2, 4, 4)]


def label_in_it(images):
    return torch.cat([images < -1, images > 1], dim=1).float()


def nothing_in_it(images):
    return torch.ones_like(images)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Store:
    """Volumes of some sizes, with one class darker and one brighter than all else.

    The last has none of the second class.
    """
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "scans").mkdir()
    for seed, shape in enumerate([(12, 9, 3), (9, 12, 4), (7, 14, 2), (10, 10, 3)]):
        rng = np.random.default_rng(seed)
        labels = np.zeros(shape, np.uint8)
        labels[2:5, 3:7] = 1
        labels[5:7, 4:8, 1:] = 0 if seed == 3 else 2
        image = np.array([0, -30, 30])[labels] + rng.normal(0, 1, shape)
        affine = np.diag([1, 1, 5, 1])
        nib.save(nib.Nifti1Image(image, affine), folder / f"scans/{seed}.nii")
        nib.save(nib.Nifti1Image(labels, affine), folder / f"scans/{seed}_seg.nii")
    return prepare(folder / "scans", folder / "store", spacing="native", modality="MR")


def probe(encoder, store, **how):
    return linear_segmentation_probe(encoder, store, store.cases[:2], store.cases[2:], 8, **how)


def test_probe_reads_the_label_out_of_features_that_contain_it(blocks):
    dice = probe(HandMade(label_in_it), blocks)
    first, second = blocks.class_names
    with_both, with_one = (case.id for case in blocks.cases[2:])
    assert dice.keys() == {with_both, with_one}
    assert dice[with_both].keys() == {first, second}
    assert dice[with_one].keys() == {first}
    assert min(value for case in dice.values() for value in case.values()) > 0.98


def test_probe_cannot_segment_by_constant_features(blocks):
    dice = probe(HandMade(nothing_in_it), blocks)
    assert max(np.mean(list(case.values())) for case in dice.values()) < 0.4


def test_probe_changes_nothing_but_follows_its_seed(blocks, monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 100)
    torch.manual_seed(3)
    encoder = build_encoder(NetworkSettings(width=2, levels=2)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    dice = probe(encoder, blocks)
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert probe(encoder, blocks, seed=1) != dice
    monkeypatch.setitem(BATCH_PIXELS, "cpu", 1)  # slice by slice: all the same
    assert probe(encoder, blocks) == dice


@pytest.mark.parametrize("size", [4, 5, 8, 10, 16])
def test_labels_are_cut_like_images(blocks, size):
    for case in blocks.cases:
        reader = SliceReader(blocks, [case], size)
        images = reader.centred(np.arange(len(reader))).images[:, 0].numpy()
        np.testing.assert_array_equal(_middle(blocks.image(case)[:, 0], size), images)


# What they say of a pre-trained encoder


def test_pretraining_by_position_is_seen_in_subjects_it_has_not_seen(tmp_path):
    write_phantom(tmp_path / "scans", subjects=20, seed=3)
    store = prepare(tmp_path / "scans", tmp_path / "store", spacing=8.0, processes=1)
    (tmp_path / "train.txt").write_text("\n".join(case.id for case in store.cases[:16]))
    network = NetworkSettings(width=8, levels=3)
    encoder_file = pretrain(
        store.path,
        tmp_path / "run",
        cases=tmp_path / "train.txt",
        epochs=12,
        settings=[
            "network={width: 8, levels: 3}",
            "views={rotation: 10, scale: [0.85, 1.15], shift: 0.05}",
            "size=32",
            "batch=32",
            "optimiser.lr=0.005",
        ],
    )
    reader = SliceReader(store, store.cases[16:], 32)
    slices = reader.centred(np.arange(len(reader)))
    subjects = [reader.cases[case].subject for case in reader.case_of]
    torch.manual_seed(stream(0, "initialisation"))
    encoder = build_encoder(network)
    found = []
    for tensors in (encoder.state_dict(), read_weights(encoder_file)[0]):
        load_by_name(encoder, tensors, where="")
        with frozen(encoder):
            features = pooled_features(encoder, slices.images.float())
        found.append(position_retrieval(features, slices.positions, subjects))
    fresh, trained = found
    assert trained.error < 0.5 * trained.chance
    assert trained.error < 0.6 * fresh.error
