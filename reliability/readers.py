"""Every reader of a file that may come from somebody else, with valid files for it.

A reader here is a function of poscon, called as its commands call it, on a file in a folder where
everything else is as it should be.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
import torch
from examples import nnunet_plans, write_slice, write_structures
from torch import nn

from poscon.comparison.plan_files import plan_names, plan_text, read_plan
from poscon.comparison.slices import read_chosen, slice_table
from poscon.comparison.summary import read_rows as read_result_rows
from poscon.evaluation.results import Evaluation, Row
from poscon.evaluation.writing import write_evaluation
from poscon.exports.card import results_table
from poscon.leakage import read_entries, read_seen
from poscon.models import FeatureExtractor, Model
from poscon.networks.build import build_network
from poscon.networks.checkpoints import read_checkpoint
from poscon.networks.nnunet_plans import read_plans
from poscon.networks.settings import NetworkSettings
from poscon.networks.translations import basic_unet
from poscon.predictions import PredictionsFile
from poscon.settings import load_recipe, recipe_names, recipe_text, resolve
from poscon.store.names import read_names
from poscon.store.slices import read_slice_table
from poscon.store.store import Store
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.loop import ChunkMeans, restore
from poscon.training.pretrain_settings import PretrainSettings
from poscon.training.run import MetricsFile, RunFolder
from poscon.training.start import read_start, seen_before
from poscon.viewer.results import read_dice
from poscon.volumes.drawing import Drawing
from poscon.volumes.formats.dicom.writer import write_segments
from poscon.volumes.label_maps import drawn_scheme, on_grid, read_labels
from poscon.volumes.layouts import read_dataset
from poscon.volumes.layouts.dicom import only_series
from poscon.volumes.range_differences import RangeDifference
from poscon.volumes.ranges import read_ranges
from poscon.volumes.scan import read_scan

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader with valid files for it.

    Attributes:
        name: what is read.
        place: where the file is put.
        around: the folder of all readers, where nothing else may be written.
        kind: see :func:`mutations.damaged`.
        seeds: valid content.
        read: reads the file. A damaged one may only make it raise a ``PosconError``.
        words: words of which a refusal has one. The name of the file is one of them.
        cost: how long it takes in comparison with others: so much more rarely it is tried.
    """

    name: str
    place: Path
    around: Path
    kind: str
    seeds: tuple[bytes, ...]
    read: Read
    words: tuple[str, ...]
    cost: int


@dataclass
class Readers:
    """The readers, each with a folder of its own.

    Attributes:
        folder: where their folders are.
    """

    folder: Path
    found: list[Reader] = field(default_factory=list)

    def add(
        self,
        name: str,
        file: str,
        kind: str,
        seeds: Sequence[bytes | str],
        read: Read,
        *,
        beside: Path | None = None,
        words: Sequence[str] = (),
        cost: int = 1,
    ) -> Path:
        """Add a reader.

        Args:
            name: see :class:`Reader`.
            file: the file, below the folder of the reader.
            kind: see there.
            seeds: valid content; nothing for that of the file in ``beside``.
            read: see there.
            beside: a folder whose content the folder of the reader has too.
            words: further words that a refusal may have in place of the name of the file.
            cost: see there.

        Returns:
            The folder of the file.
        """
        folder = self.folder / name.replace(" ", "_")
        if beside is not None:
            shutil.copytree(beside, folder)
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        content = [seed.encode() if isinstance(seed, str) else seed for seed in seeds]
        content = content or [place.read_bytes()]
        place.write_bytes(content[0])
        named = (place.name, *words)
        around = self.folder.parent
        self.found.append(Reader(name, place, around, kind, tuple(content), read, named, cost))
        return place.parent


def all_readers(
    folder: Path, scans: Path, store: Path, pretrained: Path, finetuned: Path
) -> list[Reader]:
    """Every reader.

    Args:
        folder: an empty folder.
        scans: a data set in the layout of the Decathlon.
        store: what ``poscon prepare`` made of it.
        pretrained: a run of ``poscon pretrain``.
        finetuned: a run of ``poscon finetune``.
    """
    readers = Readers(folder / "read")
    made = folder / "made"
    made.mkdir()
    _scans(readers, made)
    _dicom(readers, made)
    _tables(readers)
    _layouts(readers, scans)
    _settings(readers)
    _store(readers, store)
    _runs(readers, store, pretrained, finetuned)
    _weights(readers, made)
    _results(readers, made, store)
    return readers.found


def _scans(readers: Readers, made: Path) -> None:
    """NIfTI, NRRD, MHA and MetaImage."""
    data = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    affine = np.diag([-0.8, -0.8, 2.5, 1.0])
    image = SimpleITK.GetImageFromArray(data.T)
    image.SetSpacing((0.8, 0.8, 2.5))
    segments = SimpleITK.GetImageFromArray((data.T > 9).astype(np.uint8))
    segments.SetMetaData("Segment0_Name", "liver")
    segments.SetMetaData("Segment0_LabelValue", "1")
    for number, kind in enumerate((nib.Nifti1Image, nib.Nifti2Image)):
        nib.save(kind(data, affine), made / f"{number}.nii")
        nib.save(kind(data.astype(np.float32), affine), made / f"{number}.nii.gz")
    for suffix in (".nrrd", ".mha"):
        for packed in (0, 1):
            SimpleITK.WriteImage(image, str(made / f"{packed}{suffix}"), useCompression=packed == 1)
    SimpleITK.WriteImage(segments, str(made / "segments.nrrd"))
    (made / "mhd").mkdir()
    SimpleITK.WriteImage(image, str(made / "mhd" / "a.mhd"))

    def read(place: Path) -> None:
        read_scan(place)
        read_labels(place)

    formats = {".nii": "bytes", ".nii.gz": "gzip", ".nrrd": "bytes", ".mha": "bytes"}
    for suffix, how in formats.items():
        seeds = [(made / f"{number}{suffix}").read_bytes() for number in (0, 1)]
        readers.add(suffix[1:], f"a{suffix}", how, seeds, read, cost=2)
    readers.add(
        "segments", "a.seg.nrrd", "bytes", [(made / "segments.nrrd").read_bytes()], read, cost=2
    )
    readers.add("mhd", "a.mhd", "bytes", [], read, beside=made / "mhd", cost=2)


def _dicom(readers: Readers, made: Path) -> None:
    """A slice of a series, a SEG and an RTSTRUCT on it."""
    volume = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    for number, pixels in enumerate(volume):
        write_slice(made / "series" / f"{number}.dcm", pixels, number)
    series = only_series(made / "series")
    affine = np.array(series.affine)
    seg = made / "seg.dcm"
    write_segments(seg, (volume.T > 20).astype(np.uint8), series, {1: "liver"}, "0" * 64)

    def read_series(place: Path) -> None:
        read_scan(only_series(place.parent))

    def read_structures(place: Path) -> None:
        found = on_grid(place, series.shape, affine)
        if isinstance(found, Drawing):
            read_labels(found, drawn_scheme([found], where=str(place)))

    words = ("dicom", "0.dcm", "1.dcm", "2.dcm")
    beside = made / "series"
    readers.add("dicom", "0.dcm", "bytes", [], read_series, beside=beside, words=words, cost=2)
    readers.add("seg", "s.dcm", "bytes", [seg.read_bytes()], read_structures, cost=2)
    contours = write_structures(made / "rt.dcm").read_bytes()
    readers.add("rtstruct", "r.dcm", "bytes", [contours], read_structures, cost=2)


def _tables(readers: Readers) -> None:
    """CSV and TSV files, and lists of names."""
    ranges = "case,class,first,last\na,liver,1,3\na,RV,,\nb,liver,0,0\n"
    readers.add("ranges", "r.csv", "text", [ranges], lambda p: read_ranges(p, ("liver", "RV")))

    def slices(place: Path) -> None:
        read_slice_table(place)
        read_slice_table(place, in_files=True)

    table = "case,slice,file_slice\na,3,4\nb,0,1\n"
    readers.add("table of slices", "s.csv", "text", [table], slices)
    table = "image,label,subject,split\na.nii,b.nii,p1,train\nc.nii,,p2,\n"
    beside = readers.add("table of paths", "data.csv", "text", [table], read_dataset)
    for name in "abc":
        _small_scan(beside / f"{name}.nii")
    names = ["a\nb # no\n", "\ufeffa\r\nb\r\n"]
    readers.add("names", "test.txt", "text", names, read_names)
    readers.add("split", "split.json", "json", ['["a", "b"]'], read_names)
    split = '{"train": ["a"], "test": ["b", "c"]}'
    readers.add("key of a split", "s.json", "json", [split], lambda p: read_names(f"{p}:test"))


def _small_scan(place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(27, dtype=np.uint8).reshape(3, 3, 3), np.eye(4)), place)


def _layouts(readers: Readers, scans: Path) -> None:
    """What data sets say of themselves."""

    def read(place: Path) -> None:
        read_dataset(place.parent)

    description = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    description |= {"training": description["training"][:1], "numTraining": 1}
    own = readers.add(
        "dataset.json", "dataset.json", "json", [json.dumps(description)], read, words=("read/",)
    )
    for path in ("imagesTr/phantom_000.nii.gz", "labelsTr/phantom_000.nii.gz"):
        _small_scan(own / path)
    regions = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    theirs = readers.add(
        "dataset.json of nnU-Net",
        "dataset.json",
        "json",
        [json.dumps(regions)],
        read,
        words=("read/",),
    )
    for path in ("imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a"):
        _small_scan(theirs / f"{path}.nii.gz")
    labels = {
        "classes": [{"name": "RV", "values": [1, 2]}, {"name": "LV", "values": [3]}],
        "ignore": 9,
    }
    beside = readers.add(
        "labels.json",
        "labels/labels.json",
        "json",
        [json.dumps(labels)],
        lambda place: read_dataset(place.parents[1]),
        words=("read/",),
    )
    for folder in ("images", "labels"):
        _small_scan(beside.parent / folder / "a.nii.gz")
    people = "participant_id\tage\nsub-01\t3\n02\t4\n"
    bids = readers.add("participants.tsv", "participants.tsv", "text", [people], read)
    _small_scan(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    classes = "index\tname\n0\tbackground\n1\tliver\n2\tspleen\n"
    bids = readers.add("dseg.tsv", "x_dseg.tsv", "text", [classes], read)
    _small_scan(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    _small_scan(bids / "derivatives" / "sub-01" / "anat" / "sub-01_dseg.nii.gz")
    info = readers.add(
        "Info.cfg",
        "patient001/Info.cfg",
        "text",
        ["ED: 1\nES: 2\n"],
        lambda place: read_dataset(place.parents[1]),
    )
    _small_scan(info / "patient001_frame01.nii.gz")


def _settings(readers: Readers) -> None:
    """Plans, recipes, and the plans of nnU-Net."""
    plans = [plan_text(name) for name in plan_names()]
    readers.add("plan", "plan.yaml", "yaml", plans, lambda place: read_plan(str(place)), cost=12)

    def read_recipe(place: Path) -> None:
        content = load_recipe(str(place))
        if "pretrain" in content:
            resolve(PretrainSettings, "pretrain", str(place))
        if "finetune" in content:
            resolve(FinetuneSettings, "finetune", str(place))

    recipes = [recipe_text(name) for name in recipe_names()]
    words = ("setting", "method", "architecture")
    readers.add("recipe", "recipe.yaml", "yaml", recipes, read_recipe, words=words, cost=4)
    theirs = json.dumps(nnunet_plans())
    readers.add("plans of nnU-Net", "nnUNetPlans.json", "json", [theirs], read_plans)


def _store(readers: Readers, store: Path) -> None:
    """The manifest and the arrays of a store."""
    case = next(case for case in Store(store).cases if case.labelled)

    def whole(place: Path) -> None:
        opened = Store(place.parent)
        for case in opened.cases:
            opened.image(case)
            if case.labelled:
                opened.label(case)
            repr((opened, case.positions, case.voxel_ml, case.n_labelled_slices, case.modality))

    def arrays(place: Path) -> None:
        opened = Store(place.parents[2])
        case = next(case for case in opened.cases if case.id == place.parent.name)
        np.asarray(opened.image(case)).sum()
        np.asarray(opened.label(case)).sum()

    small = readers.folder.parent / "small store"
    shutil.copytree(store, small)
    for other in (small / "cases").iterdir():
        if other.name != case.id:
            shutil.rmtree(other)
    manifest = json.loads((small / "manifest.json").read_text(encoding="utf-8"))
    manifest["cases"] = [one for one in manifest["cases"] if one["id"] == case.id]
    (small / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    readers.add(
        "manifest", "manifest.json", "json", [], whole, beside=small, words=("read/manifest",)
    )
    for name in ("image", "label"):
        readers.add(
            f"{name} array",
            f"cases/{case.id}/{name}.npy",
            "bytes",
            [],
            arrays,
            beside=small,
            words=(case.id,),
        )


def _runs(readers: Readers, store: Path, pretrained: Path, finetuned: Path) -> None:
    """The files of a run."""
    opened = Store(store)

    def config(place: Path) -> None:
        folder = RunFolder(place.parent)
        folder.kept_settings(FinetuneSettings, folder.resume("finetune"))

    def cases(place: Path) -> None:
        RunFolder(place.parent).resume_cases("finetune", opened)
        read_entries(place.parent)
        seen_before(place.parent)

    def encoder(place: Path) -> None:
        FeatureExtractor(place.parent, "cpu")
        read_start(place.parent, "all")

    small = readers.folder.parent / "small run"
    small.mkdir()
    for name in ("config.yaml", "cases.json", "metrics.csv", "model.safetensors"):
        shutil.copy(finetuned / name, small / name)
    readers.add("run config", "config.yaml", "yaml", [], config, beside=small, cost=4)
    readers.add("run cases", "cases.json", "json", [], cases, beside=small, words=("store",))
    readers.add(
        "run metrics",
        "metrics.csv",
        "text",
        [],
        lambda p: MetricsFile(p).forget_after(30),
        beside=small,
    )
    readers.add(
        "model",
        "model.safetensors",
        "safetensors",
        [],
        lambda p: Model(p.parent, "cpu"),
        beside=small,
        cost=6,
    )
    small = readers.folder.parent / "small pretraining"
    small.mkdir()
    shutil.copy(pretrained / "encoder.safetensors", small)
    readers.add("encoder", "encoder.safetensors", "safetensors", [], encoder, beside=small, cost=4)


class _Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


def _weights(readers: Readers, made: Path) -> None:
    """Files of ``torch.save``."""

    def saved(content: Any) -> bytes:
        torch.save(content, made / "saved.pt")
        return (made / "saved.pt").read_bytes()

    def parts() -> dict[str, Any]:
        method = _Method()
        return {"method": method, "optimiser": torch.optim.SGD(method.parameters(), 0.1, 0.9)}

    def checkpoint(place: Path) -> None:
        restore(RunFolder(place.parents[1]), parts(), ChunkMeans(torch.device("cpu")))

    state = {"step": 3, **{name: part.state_dict() for name, part in parts().items()}}
    readers.add("checkpoint", "checkpoints/last.ckpt", "bytes", [saved(state)], checkpoint)
    settings = NetworkSettings(width=2, levels=4)
    theirs = basic_unet(build_network(settings, 2).state_dict(), 2)
    content = [saved({"state_dict": theirs})]
    readers.add("weights", "start.pth", "bytes", content, read_checkpoint, cost=2)


def _results(readers: Readers, made: Path, store: Path) -> None:
    """What ``predict``, ``evaluate`` and ``compare`` leave."""
    ranges = RangeDifference("both", 1, 2, 1, 2, 0, 0, 0.0, 0.0)
    row = Row("a", "p", "RV", 0.5, 1.0, 2.0, 0.9, 0.1, 3.0, 4.0, (1.0, 1.0, 2.0), 2.0, ranges)
    files = [made / f"results{suffix}" for suffix in (".json", ".csv")]
    write_evaluation(Evaluation((row,), ("RV",)), files)
    as_json = (made / "results.json").read_bytes()
    as_csv = (made / "results.csv").read_bytes()

    def read_json(place: Path) -> None:
        read_dice(place)
        results_table(place)

    readers.add("results", "results.json", "json", [as_json], read_json)
    readers.add("table of results", "results.csv", "text", [as_csv], read_dice)
    readers.add("rows of a run", "results.csv", "text", [as_csv], read_result_rows)
    cases = Store(store).cases
    chosen = slice_table([(cases[0], 1), (cases[1], 2)])
    readers.add("chosen slices", "c.csv", "text", [chosen], lambda p: read_chosen(p, cases))
    seen = '{"cases": {"a": ["labelled", "pretrain"]}}'
    readers.add("seen.json", "seen.json", "json", [seen], lambda p: read_seen(p.parent))

    def predictions(place: Path) -> None:
        file = PredictionsFile(place.parent)
        for name in file.cases:
            file.views(name)

    facts = '{"model_sha256": "0", "cases": {"a": {"plane": "axial", "views": 4}}, "failed": {}}'
    readers.add("predictions.json", "predictions.json", "json", [facts], predictions)
