"""Supervision of the decoder at several resolutions, which every fine-tuning method has."""

import pytest
import torch

from poscon import finetuning
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings

VIEWS = ViewMaker(ViewSettings(), 16)


def build(name: str, deep_supervision: int, levels: int = 3) -> FinetuneMethod:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=2, levels=levels), 3)
    method = finetuning.find_method(name)
    return method(network, method.Settings(), deep_supervision, 0.0 if method.has_own_ema else 0.9)


def batch() -> SliceBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 24, 24, generator=generator)
    labels = torch.randint(0, 3, (4, 24, 24), generator=generator, dtype=torch.uint8)
    without = SliceBatch(torch.randn(4, 1, 24, 24, generator=generator), torch.rand(4))
    return SliceBatch(images, torch.rand(4), labels, unlabelled=without)


def test_the_weights_halve_with_the_resolution_and_sum_to_one() -> None:
    logits = [torch.full((1, 1, 8 // 2**k, 8), 10.0**k) for k in range(3)]
    seen = []

    def loss(part: torch.Tensor, stride: int) -> torch.Tensor:
        seen.append((part.shape[2], stride))
        return part.mean()

    assert float(over_resolutions(loss, logits)) == pytest.approx((4 + 2 * 10 + 100) / 7)
    assert seen == [(8, 1), (4, 2), (2, 4)]
    assert float(over_resolutions(loss, logits[:1])) == 1


def test_scores_come_at_every_resolution_from_the_decoder_there() -> None:
    method = build("supervised", 2).eval()
    images = torch.randn(2, 1, 16, 16)
    logits = method.logits(images)
    assert [tuple(s.shape) for s in logits] == [(2, 3, 16, 16), (2, 3, 8, 8), (2, 3, 4, 4)]
    torch.testing.assert_close(logits[0], method.network(images))
    maps = method.network.decoder(method.network.encoder(images))
    torch.testing.assert_close(logits[1], method.coarse[0](maps[-2]))
    torch.testing.assert_close(logits[2], method.coarse[1](maps[-3]))


@pytest.mark.parametrize(("levels", "asked", "given"), [(3, 0, 0), (3, 1, 1), (3, 9, 2), (1, 2, 0)])
def test_as_many_as_asked_for_if_there_are_so_many(levels: int, asked: int, given: int) -> None:
    assert len(build("supervised", asked, levels).coarse) == given


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("name", finetuning.METHODS)
def test_every_method_trains_them(name: str, progress: float) -> None:
    method = build(name, 2)
    step = method.step(batch(), VIEWS, 0, progress)
    step.loss.backward()
    assert step.loss.dtype == torch.float32
    for parameter_name, parameter in [
        *method.network.named_parameters(),
        *method.coarse.named_parameters(),
    ]:
        assert parameter.grad is not None, parameter_name
    assert not torch.equal(step.loss, build(name, 0).step(batch(), VIEWS, 0, progress).loss)


@pytest.mark.parametrize("name", finetuning.METHODS)
def test_the_loss_of_low_precision_is_single(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert build(name, 2).step(batch(), VIEWS, 0, 0.9).loss.dtype == torch.float32
