"""What all methods have in common."""

from contextlib import nullcontext

import pytest
import torch

from poscon import finetuning, pretext
from poscon.errors import PosconError
from poscon.finetuning.base import FinetuneMethod
from poscon.methods import Method
from poscon.networks.build import build_encoder, build_network
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.step import SliceBatch
from poscon.views import View, ViewMaker, ViewSettings, canvas_size

TINY = NetworkSettings(width=4, levels=2)
SLICES, SIZE = 8, 32
CANVAS = canvas_size(SIZE, ViewSettings())
NOWHERE = "meta"
"""A device whose tensors have shapes and no numbers, so that to read one is an error."""


class ViewsOfNothing(ViewMaker):
    """Of the right shapes; parameters are drawn on the CPU, as always."""

    def apply(self, images: torch.Tensor, view: View) -> torch.Tensor:
        return torch.empty(len(images), 1, self.size, self.size, device=NOWHERE)

    def apply_to_labels(self, labels: torch.Tensor, view: View) -> torch.Tensor:
        return torch.empty(len(labels), self.size, self.size, dtype=torch.int64, device=NOWHERE)


def slices(labels: torch.Tensor | None = None, n: int = SLICES) -> SliceBatch:
    numbers = torch.arange(n, device=NOWHERE)
    images = torch.empty(n, 1, CANVAS, CANVAS, device=NOWHERE)
    positions = torch.empty(n, device=NOWHERE)
    return SliceBatch(images, positions, labels, numbers, numbers)


def labelled(unlabelled: int = SLICES) -> SliceBatch:
    batch = slices(torch.empty(SLICES, CANVAS, CANVAS, dtype=torch.uint8, device=NOWHERE))
    batch.unlabelled = slices(n=unlabelled)
    return batch


def two_steps(method: Method, batch: SliceBatch, progress: float) -> None:
    method.to(NOWHERE)
    for seed in range(2):
        method.step(batch, ViewsOfNothing(ViewSettings(), SIZE), seed, progress).loss.backward()
        method.after_step()


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which torch does not have there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.mark.parametrize("progress", [0.0, 0.99])
@pytest.mark.parametrize("name", [n for n in pretext.METHODS if pretext.find_method(n).trains])
def test_a_step_of_pretraining_reads_no_number(name: str, progress: float) -> None:
    """A GPU that is read from is waited for, and stands still while the next step is prepared."""
    method = pretext.find_method(name)
    two_steps(
        method(build_encoder(TINY), HeadSettings(), method.Settings(), 100), slices(), progress
    )


def finetuning_method(name: str) -> FinetuneMethod:
    method = finetuning.find_method(name)
    average = 0.0 if method.has_own_ema else 0.99
    return method(build_network(TINY, 4), method.Settings(), 1, average)


WAITS = ("bcp", 0.99)
"""It looks for the largest structure of its pseudo-labels, on the CPU."""
STAGES = [(name, progress) for name in finetuning.METHODS for progress in (0.0, 0.99)]


@pytest.mark.parametrize(("name", "progress"), [stage for stage in STAGES if stage != WAITS])
def test_a_step_of_finetuning_reads_no_number(name: str, progress: float) -> None:
    two_steps(finetuning_method(name), labelled(), progress)


PAIRED = ("bcp",)
"""It pastes between a labelled and an unlabelled slice."""


@pytest.mark.parametrize("unlabelled", [3, 13])
@pytest.mark.parametrize("name", [n for n in finetuning.METHODS if n not in PAIRED])
def test_any_number_of_unlabelled_slices_goes_along(name: str, unlabelled: int) -> None:
    method = finetuning_method(name)
    method.check_batches(SLICES, unlabelled)
    two_steps(method, labelled(unlabelled), 0.99)


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_need_as_many_unlabelled_slices(name: str) -> None:
    method = finetuning_method(name)
    method.check_batches(SLICES, SLICES)
    with pytest.raises(PosconError, match=f"unlabelled_batch = 3: method {name} .* = {SLICES}"):
        method.check_batches(SLICES, 3)


def test_what_reads_a_number_is_found() -> None:
    name, progress = WAITS
    with pytest.raises(NotImplementedError, match="meta"):
        two_steps(finetuning_method(name), labelled(), progress)
