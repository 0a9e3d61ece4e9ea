"""Every method with every kind of network: residual, two channels, neighbours, nnU-Net's own."""

import csv
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunet_examples import write_plans

from poscon import finetuning, pretext
from poscon.commands.bench import bench, bench_tables
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.networks.build import build_encoder
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import read_weights
from poscon.reports.embeddings import embed
from poscon.store.store import Store
from poscon.training.probes import linear_segmentation_probe
from poscon.training.run import part_file

pytestmark = pytest.mark.usefixtures("no_picture")
TINY = ["network.width=2", "network.levels=2", "size=32"]
WIDER = ["network.width=4", *TINY[1:]]
RESIDUAL = ["network.architecture=residual", "network.blocks=[1,1,2]"]
KINDS = {
    "residual": RESIDUAL,
    "channels": [],
    "context": ["network.context=1"],
    "nnunet": ["network.architecture=nnunet", "network.plans=PLANS"],
}
EVERYTHING = [*RESIDUAL, "network.context=1"]
INPUTS = {"residual": 1, "channels": 2, "context": 3, "nnunet": 1}
FIRST = ("blocks.0.0.weight", "stem.0.weight", "layers.stages.0.0.convs.0.all_modules.0.weight")
"""The first convolution, in any encoder."""
TRAINED = [name for name in pretext.METHODS if pretext.find_method(name).trains]


def with_every_kind(names: Sequence[str]) -> list[Any]:
    """Every method with every kind of network; three quarters of them are slow tests.

    Each method keeps one kind, and each kind a quarter of the methods.
    """
    pairs = ((i, name, j, kind) for i, name in enumerate(names) for j, kind in enumerate(KINDS))
    return [
        pytest.param(name, kind, marks=[pytest.mark.slow] if (i + j) % len(KINDS) else [])
        for i, name, j, kind in pairs
    ]


def settings_of(kind: str, folder: Path, width: int = 2) -> list[str]:
    """The settings of a kind of network; the plans of nnU-Net are written into a folder."""
    if kind == "nnunet":
        pytest.importorskip("dynamic_network_architectures")
        write_plans(folder / "plans.json", features=[width, 2 * width, 4 * width])
    return [text.replace("PLANS", str(folder / "plans.json")) for text in KINDS[kind]]


@pytest.fixture(scope="module")
def two_scans(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms with a second channel: the first with its values reversed and squared."""
    folder = tmp_path_factory.mktemp("two-channels")
    about = json.loads((scans / "dataset.json").read_text())
    about["modality"] = {"0": "CT", "1": "MRI"}
    (folder / "dataset.json").write_text(json.dumps(about))
    for file in scans.glob("*/*.nii.gz"):
        image = nib.load(file)
        data = np.asarray(image.dataobj)
        if file.parent.name.startswith("images"):
            other = (data.max() - data.astype(np.float32)) ** 2 / 1000
            data = np.stack([data.astype(np.float32), other], axis=-1)
        (folder / file.parent.name).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(data, image.affine), folder / file.relative_to(scans))
    return folder


@pytest.fixture(scope="module")
def two(two_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "store"
    prepare(two_scans, path, spacing=6.0, processes=1)
    return path


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["loss"]]


def input_channels(tensors: dict[str, torch.Tensor]) -> int:
    """Of the first convolution of an encoder or of a model."""
    (first,) = (value for name, value in tensors.items() if name.removeprefix("encoder.") in FIRST)
    return first.shape[1]


def equal(a: Path, b: Path) -> bool:
    x, y = read_weights(a)[0], read_weights(b)[0]
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize(("name", "kind"), with_every_kind(TRAINED))
def test_pretraining_and_a_finetuning_of_it(
    name: str, kind: str, store: Path, two: Path, tmp_path: Path
) -> None:
    """The loss is finite, the input channels are those asked for, and the parts are taken."""
    chosen = two if kind == "channels" else store
    run = tmp_path / "pre"
    given = [*TINY, *settings_of(kind, tmp_path), "batch=24"]
    pretrain(chosen, run, method=name, epochs=1, settings=given)
    assert all(np.isfinite(float(row["loss"])) for row in rows(run))
    tensors, about = read_weights(part_file(run, "encoder"))
    assert input_channels(tensors) == INPUTS[kind]
    assert about["network"]["channels"] == (2 if kind == "channels" else 1)
    settings = ["size=32", "batch=4", "encoder_rate.frozen=0.9"]
    finetune(chosen, tmp_path / "fine", init=run, labelled=2, iterations=1, settings=settings)
    model = read_weights(tmp_path / "fine" / "model.safetensors")[0]
    weights = [key for key in tensors if key.endswith("weight")]
    assert all(torch.equal(model[f"encoder.{key}"], tensors[key]) for key in weights)


@pytest.mark.parametrize(("name", "kind"), with_every_kind(list(finetuning.METHODS)))
def test_finetuning(name: str, kind: str, store: Path, two: Path, tmp_path: Path) -> None:
    """The loss falls, with deep supervision and the unlabelled slices where they are used."""
    chosen = two if kind == "channels" else store
    given = settings_of(kind, tmp_path, width=4)
    settings = [*WIDER, *given, "batch=6", "checkpoint_every=3"]
    run = tmp_path / "run"
    finetune(chosen, run, method=name, labelled=2, iterations=12, settings=settings)
    losses = [float(row.get("supervised", row["loss"])) for row in rows(run)]
    assert min(losses[1:]) < losses[0]
    tensors = read_weights(run / "model.safetensors")[0]
    assert input_channels(tensors) == INPUTS[kind]


@pytest.mark.parametrize("name", ["pcl", "pcl-mae", "gcl", "pirl"])
def test_pretraining_resumed_with_everything(
    name: str, two: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    settings = [*TINY, *EVERYTHING, "batch=30"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(two, whole, method=name, epochs=2, settings=settings)
    steps = int(rows(whole)[-1]["step"])
    with power_cut(pretext.find_method(name), steps - 1):
        pretrain(two, broken, method=name, epochs=2, settings=settings)
    pretrain(two, broken, resume=True)
    for part in read_weights(part_file(whole, "encoder"))[1]["parts"]:
        assert equal(part_file(whole, part), part_file(broken, part)), part


def test_finetuning_resumed_with_everything_then_predicted(
    two: Path,
    two_scans: Path,
    tmp_path: Path,
    power_cut: Callable[..., AbstractContextManager[None]],
) -> None:
    how: dict[str, Any] = {"method": "bcp", "labelled": 2, "iterations": 8}
    how["settings"] = [*TINY, *EVERYTHING, "batch=4", "checkpoint_every=4"]
    (tmp_path / "watch.txt").write_text("phantom_003\n")
    how["validation"] = tmp_path / "watch.txt"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune(two, whole, **how)
    with power_cut(finetuning.find_method("bcp"), 6):
        finetune(two, broken, **how)
    finetune(two, broken, resume=True)
    assert equal(whole / "model.safetensors", broken / "model.safetensors")
    (tmp_path / "test.txt").write_text("phantom_003\nphantom_004\n")
    paths = predict(whole, two_scans, tmp_path / "out", cases=tmp_path / "test.txt")
    for path in paths:
        scan = nib.load(two_scans / "imagesTr" / path.name)
        assert nib.load(path).shape == scan.shape[:3]
    evaluate(tmp_path / "out", two_scans, tmp_path / "dice.csv")
    assert (tmp_path / "dice.csv").is_file()


def test_what_looks_at_an_encoder(two: Path, tmp_path: Path) -> None:
    """The pages' embeddings and the linear probe, with everything at once."""
    run, opened = tmp_path / "run", Store(two)
    pretrain(two, run, epochs=1, settings=[*TINY, *EVERYTHING, "batch=30"])
    found = embed(run, opened, opened.cases, 32)
    assert np.isfinite(found.similarity).all()
    encoder = build_encoder(
        NetworkSettings(architecture="residual", width=2, levels=2, channels=2, context=1)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("poscon.training.probes.STEPS", 2)
        labelled = [case for case in opened.cases if case.labelled]
        dice = linear_segmentation_probe(encoder, opened, labelled[:1], labelled[1:2], 32)
    assert list(dice) == [labelled[1].id]


def test_bench(two: Path) -> None:
    result = bench(two, settings=[*TINY, *EVERYTHING, "batch=4"], seconds=1.0)
    assert result.overhead.share > 0
    assert bench_tables(result)
