"""What a GPU must do as a CPU does; skipped where there is none. On one: make test-gpu.

Single precision unless a test says otherwise, without TF32, so that tolerances are those of
rounding.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from poscon import finetuning, pretext
from poscon.commands.bench import bench
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.pretrain import pretrain
from poscon.comparison.compare import compare
from poscon.methods import Method
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import read_weights
from poscon.pretext.blockwise import anchor_losses
from poscon.pretext.contrast import unit
from poscon.pretext.pcl import near
from poscon.settings import resolve
from poscon.step import Step
from poscon.store.store import Store
from poscon.training.data import Batches, LabelledBatches, SliceReader
from poscon.training.inference import channels_last
from poscon.training.optimisation import OptimiserSettings, build_optimiser
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.run import part_file
from poscon.views import (
    View,
    ViewMaker,
    ViewSettings,
    apply_view,
    apply_view_to_labels,
    canvas_size,
    draw_view,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU; there: make test-gpu"
)

GPU = "cuda"
TINY = ["network.width=8", "network.levels=2", "size=32", "batch=16"]
TRAINED = [name for name in pretext.METHODS if pretext.find_method(name).trains]
EVERYTHING = ViewSettings(mirror=True, blur=1.0, low_resolution=2.0)


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("canvas", [48, 60])
def test_views_are_those_of_a_cpu(canvas: int) -> None:
    """Two image channels of three neighbouring slices."""
    images = torch.randn(6, 6, canvas, canvas, generator=torch.Generator().manual_seed(0))
    without_noise = EVERYTHING.model_copy(update={"noise": 0.0})  # drawn where the images are
    view = draw_view(6, without_noise, 3, channels=2)
    expected = apply_view(images, view, 48)
    torch.testing.assert_close(apply_view(images.to(GPU), view, 48).cpu(), expected)
    labels = (images[:, 0] > 0).to(torch.uint8)
    found = apply_view_to_labels(labels.to(GPU), view, 48).cpu()
    same = found == apply_view_to_labels(labels, view, 48)
    assert same.float().mean() > 0.999  # a point between two pixels may go to either


def test_noise_is_that_of_its_seed() -> None:
    images = torch.zeros(4, 1, 32, 32, device=GPU)
    first, again, other = (
        apply_view(images, draw_view(4, EVERYTHING, seed), 32) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_slices_that_are_held_are_those_that_are_read(store: Path) -> None:
    opened = Store(store)
    read, held = (SliceReader(opened, opened.cases, 44) for _ in range(2))
    held.hold(GPU)
    indices = np.array([5, 0, len(read) - 1, 5])
    batch = held.centred(indices)
    assert batch.images.device.type == GPU
    assert torch.equal(batch.images.cpu(), read.centred(indices).images)


def test_what_is_read_a_gpu_copies_by_itself(store: Path) -> None:
    opened = Store(store)
    reader = SliceReader(opened, opened.cases, 44)
    batches = LabelledBatches(reader, 8, 32, 10, 0.5, 0, 10, unlabelled=reader)
    batch, _, _ = next(batches.from_step(0, pinned=True))
    assert batch.unlabelled is not None
    expected = batches.batch(0)
    for part, same in ((batch, expected), (batch.unlabelled, expected.unlabelled)):
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                assert value.is_pinned(), name
                assert torch.equal(value, getattr(same, name)), name
    assert batch.labels is not None


class MadeOnCpu(ViewMaker):
    """The same views wherever a batch is."""

    def apply(self, images: torch.Tensor, view: View) -> torch.Tensor:
        return super().apply(images.cpu(), view).to(images)


def gradients(name: str, store: Path, device: str) -> tuple[Step, dict[str, torch.Tensor]]:
    """A method's first step, in double precision."""
    chosen = resolve(PretrainSettings, "pretrain", None, TINY, method=name)
    opened = Store(store)
    method, _, views, batches = assemble(chosen, opened, opened.cases, 32)
    channels_last(method.to(device).double())
    batch = batches.batch(0).to(device)
    batch.images, batch.positions = batch.images.double(), batch.positions.double()
    step = method.step(batch, MadeOnCpu(views.settings, views.size, views.channels), 1, 0.0)
    step.loss.backward()
    trained = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return step, trained


@pytest.mark.parametrize("name", TRAINED)
def test_loss_and_gradients_are_those_of_a_cpu(name: str, store: Path) -> None:
    here, expected = gradients(name, store, "cpu")
    there, found = gradients(name, store, GPU)
    for part in ("loss", "chance", "floor"):
        one, other = (float(getattr(step, part)) for step in (there, here))
        assert one == pytest.approx(other, rel=1e-6)
    assert found.keys() == expected.keys()
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient.cpu(), expected[parameter], rtol=1e-5, atol=1e-8)


def check_no_wait(method: Method, batches: Batches, views: ViewMaker) -> None:
    """A step: a GPU that is waited for stands still while the next step is being prepared."""
    channels_last(method.to(GPU))
    optimiser, _ = build_optimiser(method.parameters(), OptimiserSettings(), 10)

    def step(number: int) -> torch.Tensor:
        with torch.autocast(GPU, torch.bfloat16):
            loss = method.step(batches.batch(number).pinned().to(GPU), views, number, 0.0).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step()
        return loss

    step(0)  # allocates and chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_pretraining_does_not_wait(name: str, held: bool, store: Path) -> None:
    opened = Store(store)
    chosen = resolve(PretrainSettings, "pretrain", None, TINY, method=name)
    method, reader, views, batches = assemble(chosen, opened, opened.cases, 32)
    if held:
        reader.hold(GPU)
    check_no_wait(method, batches, views)


@pytest.mark.parametrize("name", ["supervised", "mixup"])
def test_a_step_of_finetuning_does_not_wait(name: str, store: Path) -> None:
    opened = Store(store)
    views = ViewMaker(ViewSettings(), 32)
    reader = SliceReader(opened, opened.cases, canvas_size(32, views.settings))
    batches = LabelledBatches(reader, 8, 32, 10, 0.5, 0, 10)
    network = build_network(NetworkSettings(width=8, levels=2), len(opened.class_names) + 1)
    found = finetuning.find_method(name)
    check_no_wait(found(network, found.Settings(), 1, 0.99), batches, views)


def test_the_loss_in_blocks_is_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3000, 32, generator=generator).to(GPU).requires_grad_()
    positions = torch.rand(3000, generator=generator).to(GPU)

    def rule(anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return near(anchors, others, 0.1)

    terms = anchor_losses(unit(embeddings), positions, rule, temperature=0.1)
    (blocks,) = torch.autograd.grad(terms.losses.sum(), embeddings)
    wide = embeddings.detach().double().requires_grad_()
    z = unit(wide)
    itself = torch.eye(len(z), dtype=torch.bool, device=GPU)
    logs = (z @ z.T / 0.1).masked_fill(itself, -torch.inf).log_softmax(1)
    positives = rule(positions, positions) & ~itself
    dense = -logs.masked_fill(~positives, 0).sum(1) / positives.sum(1).clamp(min=1)
    (expected,) = torch.autograd.grad(dense.sum(), wide)
    assert torch.equal(terms.weight, positives.sum(1).float())
    torch.testing.assert_close(terms.losses.double(), dense, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(blocks.double(), expected, rtol=1e-3, atol=1e-5)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["loss"]]


def losses(run: Path) -> list[float]:
    return [float(row["loss"]) for row in rows(run)]


def test_pretraining_resumed_goes_on_as_uninterrupted(
    store: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    """To rounding: a GPU adds up in an order that may change."""
    how: dict[str, Any] = {"epochs": 3, "settings": [*TINY, "precision=32"], "device": GPU}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(store, whole, **how)
    with power_cut(pretext.find_method("pcl"), 17):
        pretrain(store, broken, **how)
    pretrain(store, broken, resume=True)
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-3)


def test_compiled_trains_as_eager(store: Path, tmp_path: Path) -> None:
    found = []
    for compiled in ("false", "true"):
        run = tmp_path / compiled
        settings = [*TINY, "precision=32", f"compile={compiled}"]
        pretrain(store, run, epochs=2, settings=settings, device=GPU)
        found.append(losses(run))
        assert read_weights(part_file(run, "encoder"))[0]
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_every_pretraining_method_trains(name: str, store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", method=name, epochs=2, settings=TINY, device=GPU)
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize("name", finetuning.METHODS)
def test_every_finetuning_method_trains(name: str, store: Path, tmp_path: Path) -> None:
    finetune(
        store,
        tmp_path / "run",
        method=name,
        labelled=2,
        iterations=12,
        settings=[*TINY, "checkpoint_every=6"],
        device=GPU,
    )
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_predictions_are_those_of_a_cpu(scans: Path, finetuned: Path, tmp_path: Path) -> None:
    for device in ("cpu", GPU):
        predict(finetuned, scans, tmp_path / device, device=device)
    files = sorted((tmp_path / "cpu").glob("*.nii.gz"))
    assert files
    for file in files:
        here, there = (np.asarray(nib.load(tmp_path / d / file.name).dataobj) for d in ("cpu", GPU))
        assert (here == there).mean() > 0.999
        assert here.any()


def test_a_model_trained_there_segments(scans: Path, store: Path, tmp_path: Path) -> None:
    run, labels = tmp_path / "run", tmp_path / "labels"
    finetune(store, run, labelled=3, iterations=200, settings=["size=32"], device=GPU)
    predict(run, scans, labels, device=GPU)
    assert np.mean([row.dice for row in evaluate(labels, scans).rows]) > 0.5


def test_bench_tries_to_compile(store: Path) -> None:
    found = bench(store, settings=TINY, seconds=3, device=GPU)
    assert found.changes["--set compile=true"] > 0
    assert found.overhead.share > 0


def test_several_runs_share_the_gpu(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    compare(str(plan), tmp_path / "out", device=GPU, processes=2)
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert {row["pretraining"] for row in csv.DictReader(file)} == {"random", "pcl"}


PLAN = """
data: {phantom: {subjects: 4, seed: 3}, prepare: {spacing: 6.0}}
pretraining: [random, pcl]
labelled: [1]
folds: 2
size: 32
network: {width: 4, levels: 2}
pretrain: {epochs: 1, batch: 16}
finetune: {iterations: 10, batch: 8}
"""
