from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from poscon.models import Model
from poscon.store.store import Store
from poscon.suggestion import disagreement as module
from poscon.suggestion.disagreement import MIRRORS, VIEWS, disagreement, trained_with_mirrors


def stack_of(store: Path, number: int = 0) -> Tensor:
    opened = Store(store)
    return torch.from_numpy(opened.image(opened.cases[number]).astype(np.float32))


def test_it_is_the_divergence_of_the_definition(
    finetuned: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stack = Model(finetuned, "cpu"), stack_of(store)[:3]
    (inputs,), top, left = module.network_inputs(stack, model.network.encoder, model.size)
    generator = torch.Generator().manual_seed(0)
    shape = (VIEWS, 3, 4, *inputs.shape[2:])
    given = torch.rand(shape, generator=generator).log().neg().softmax(2)
    monkeypatch.setattr(module, "_probabilities", lambda _, __, view, *___: given[view])
    rows, columns = stack.shape[2:]
    p = given[..., top : top + rows, left : left + columns].double().numpy()
    mean = p.mean(axis=0)
    entropy_of_mean = -(mean * np.log(mean)).sum(axis=1)
    mean_entropy = -(p * np.log(p)).sum(axis=2).mean(axis=0)
    expected = (entropy_of_mean - mean_entropy).mean(axis=(1, 2))
    found = disagreement(model, stack, 0, mirrored=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_views_that_change_nothing_agree(
    finetuned: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stack = Model(finetuned, "cpu"), stack_of(store)
    plain = disagreement(model, stack, 0, mirrored=False)
    assert plain.shape == (len(stack),)
    assert (plain > 0).all()
    assert (plain < np.log(len(model.classes) + 1)).all()
    np.testing.assert_array_equal(plain, disagreement(model, stack, 0, mirrored=False))
    assert (disagreement(model, stack, 1, mirrored=False) != plain).any()
    assert (disagreement(model, stack, 0, mirrored=True) > plain).mean() > 0.5
    monkeypatch.setattr(module, "draw_intensity", lambda *_: {})
    np.testing.assert_allclose(disagreement(model, stack, 0, mirrored=False), 0, atol=1e-6)


def test_mirrored_views_are_turned_back(finetuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(finetuned, "cpu")
    monkeypatch.setattr(module, "draw_intensity", lambda *_: {})
    monkeypatch.setattr(model, "network", lambda images: torch.cat([images, -images], 1))
    images = torch.randn(2, 1, 32, 32)
    for view in range(len(MIRRORS)):
        found = module._probabilities(model, images, view, 0, True)
        torch.testing.assert_close(found[:, :1], torch.sigmoid(2 * images))


def test_mirrors_are_those_of_the_training(finetuned: Path, tmp_path: Path) -> None:
    model = Model(finetuned, "cpu")
    assert not trained_with_mirrors(model)
    text = (finetuned / "config.yaml").read_text()
    assert "mirror: false" in text
    (tmp_path / "config.yaml").write_text(text.replace("mirror: false", "mirror: true"))
    model.run = tmp_path
    assert trained_with_mirrors(model)
