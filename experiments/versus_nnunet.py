"""poscon and nnU-Net v2, trained on the same few subjects for the same minutes of one core.

    python experiments/versus_nnunet.py DATA OUT --nnunet-python NNUNET/bin/python
        [--minutes 10 30] [--labelled 6] [--seed 0]

DATA is the Decathlon's Task04_Hippocampus. The subjects in hippocampus-test.txt are only tested on.
Of the others, poscon's seeded draw chooses the labelled ones. nnU-Net and ``supervised`` learn from
these alone, ``fixmatch`` also from all others, without their labels. Each of them is trained once
for each number of minutes, and segments the test subjects. ``poscon evaluate`` measures all.

Only the training counts as minutes. Preparation and prediction are timed besides. Everything runs
in one thread on one core: the last one that the process may use (``taskset -c`` says which).

nnU-Net is in an environment of its own, whose Python is given (see
docs/how-to/compare-with-nnunet.md). OUT/versus.md has the table and all settings, and
OUT/versus.csv every subject and class. What is done in OUT is not done again. A training that was
interrupted begins again, because its time is not known.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import poscon
from poscon.errors import PosconError
from poscon.files import alone, check_outside, complete, read_json, write_text
from poscon.statistics import differences, mean_interval
from poscon.store.manifest import MANIFEST, write_json
from poscon.store.names import read_names
from poscon.store.selection import choose_cases, draw_subjects
from poscon.store.store import Store
from poscon.training.run import RunFolder
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts import read_dataset

HERE = Path(__file__).resolve().parent
TEST = HERE / "hippocampus-test.txt"
PLANE = "coronal"
SETTINGS = ["size=48"]
"""Plane and size are those of the plan ``hippocampus``."""
NNUNET = "nnU-Net"
POSCON = {"poscon, supervised": "supervised", "poscon, fixmatch": "fixmatch"}
"""Fine-tuning methods by the name in the table."""
RAW = "Dataset900_few"
SUFFIX = ".nii.gz"
ROWS = ("minutes", "trained", "subject", "class", "dice", "hd95_mm")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=_minutes, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--labelled", type=int, default=6, help="number of labelled subjects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nnunet-python", type=Path, default=Path(sys.executable))
    arguments = parser.parse_args(argv)
    try:
        check_outside(arguments.out, arguments.data)
        versions = nnunet_versions(arguments.nnunet_python)
        with alone(arguments.out, "comparison"), one_core():
            comparison = Comparison(
                arguments.data,
                arguments.out.resolve(),
                arguments.labelled,
                arguments.seed,
                arguments.nnunet_python,
            )
            comparison.begin(versions)
            for minutes in arguments.minutes:
                for name in (NNUNET, *POSCON):
                    comparison.do(name, minutes)
        print(comparison.report())
    except PosconError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _minutes(text: str) -> float:
    """An argument that is a number above 0."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return minutes


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and those it starts on one core, and torch on one thread."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(allowed)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)


def note_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a comparison to its folder.

    Raises:
        PosconError: the folder has a comparison with other settings.
    """
    path = out / "settings.json"
    earlier = read_json(path) if path.is_file() else settings
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise PosconError(
                f"{path}: this comparison was begun with {name} = {earlier.get(name)}, now it is "
                f"{value}; choose another folder"
            )
    write_json(path, settings)


def nnunet_versions(python: Path) -> dict[str, str]:
    """The versions of nnU-Net and its torch.

    Raises:
        PosconError: this Python has no nnU-Net.
    """
    code = "from importlib.metadata import version as v; print(v('nnunetv2'), v('torch'))"
    try:
        found = subprocess.run([python, "-c", code], env=_environment(), capture_output=True)
    except OSError as error:
        raise PosconError(
            f"--nnunet-python {python}: cannot be run ({error.strerror}); give the Python of the "
            "environment that has nnU-Net"
        ) from error
    if found.returncode:
        raise PosconError(
            f"--nnunet-python {python}: has no nnunetv2; install it into an environment of its "
            "own, and give the Python of that"
        )
    nnunet, of_torch = found.stdout.decode().split()
    return {"nnunetv2": nnunet, "torch of nnunetv2": of_torch}


def _environment(nnunet: Path | None = None) -> dict[str, str]:
    """The variables of a process of nnU-Net: its folders, one thread, no other process, no GPU."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    processes = {"nnUNet_def_n_proc": "1", "CUDA_VISIBLE_DEVICES": ""}
    folders = {} if nnunet is None else {"nnUNet_raw": str(nnunet / "raw")}
    if nnunet is not None:
        folders["nnUNet_preprocessed"] = str(nnunet / "preprocessed")
    return usual | threads | processes | folders


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where.

    Attributes:
        data: the data set.
        out: folder of all that is made, absolute.
        labelled: number of labelled subjects.
        seed: of the draw and of the trainings.
        python: Python that has nnU-Net.
    """

    data: Path
    out: Path
    labelled: int
    seed: int
    python: Path

    @cached_property
    def store(self) -> Store:
        """The data set, prepared by poscon."""
        path = self.out / "store"
        if not (path / MANIFEST).is_file():
            poscon.prepare(self.data, path, plane=PLANE, processes=1)
        return Store(path)

    @cached_property
    def test(self) -> list[str]:
        return read_names(TEST)

    @property
    def nnunet(self) -> Path:
        return self.out / "nnunet"

    def begin(self, versions: dict[str, str]) -> None:
        """Note the settings, and prepare the data for both.

        Raises:
            PosconError: the folder has a comparison with other settings, or the data cannot be
                used.
        """
        subjects = drawn_subjects(self.store, self.test, self.labelled, self.seed)
        settings = {
            "labelled subjects": subjects,
            "seed": self.seed,
            "test subjects": len(self.test),
            "plane": PLANE,
            "settings of poscon": SETTINGS,
            "poscon": poscon.__version__,
            "torch": str(torch.__version__),
            **versions,
        }
        note_settings(self.out, settings)
        raw = self.nnunet / "raw" / RAW
        if not raw.is_dir():
            with complete(raw) as folder:
                write_raw(folder, read_dataset(self.data), subjects, self.test)
        done(self.nnunet / "preparation.json", lambda: self.side(self.nnunet, "prepare", RAW))

    def folder(self, name: str, minutes: float) -> Path:
        """Where a training and its predictions are."""
        return self.out / f"{name.replace(', ', '-')}-{minutes:g}"

    def do(self, name: str, minutes: float) -> None:
        """Train, predict and evaluate, as far as that is not done.

        Raises:
            PosconError: one of them failed.
        """
        place = self.folder(name, minutes)
        results, predictions = place / "results.csv", place / "predictions"
        if results.is_file():
            return
        if not (place / "training.json").is_file():
            shutil.rmtree(place, ignore_errors=True)  # what an interruption left
        place.mkdir(exist_ok=True)
        train, predict = (
            (self.train_nnunet, self.predict_nnunet)
            if name == NNUNET
            else (self.train_poscon, self.predict_poscon)
        )
        done(place / "training.json", lambda: train(place, name, minutes))
        if not (place / "prediction.json").is_file():
            shutil.rmtree(predictions, ignore_errors=True)
        done(place / "prediction.json", lambda: predict(place, predictions))
        measured = place / "measured-results.csv"
        measured.unlink(missing_ok=True)
        poscon.evaluate(predictions, self.data, measured)
        measured.replace(results)

    def train_poscon(self, place: Path, name: str, minutes: float) -> dict[str, Any]:
        started = time.perf_counter()
        poscon.finetune(
            self.store.path,
            place / "run",
            labelled=self.labelled,
            exclude=self.test,
            method=POSCON[name],
            minutes=minutes,
            seed=self.seed,
            settings=SETTINGS,
            device="cpu",
        )
        seconds = time.perf_counter() - started
        settings = RunFolder(place / "run").read_config()["settings"]
        told = ("iterations", "batch", "size", "precision", "network")
        return {"seconds": seconds, **{name: settings[name] for name in told}}

    def predict_poscon(self, place: Path, predictions: Path) -> dict[str, Any]:
        started = time.perf_counter()
        poscon.predict(place / "run", self.data, predictions, cases=self.test, device="cpu")
        return {"seconds": time.perf_counter() - started}

    def train_nnunet(self, place: Path, name: str, minutes: float) -> dict[str, Any]:
        return self.side(place, "train", RAW, minutes, self.seed)

    def predict_nnunet(self, place: Path, predictions: Path) -> dict[str, Any]:
        predictions.mkdir()
        scans = self.nnunet / "raw" / RAW / "imagesTs"
        return self.side(place, "predict", RAW, scans, predictions)

    def side(self, place: Path, *arguments: object) -> dict[str, Any]:
        """Run nnunet_side.py on the data of this comparison, see :func:`run_side`."""
        return run_side(self.python, self.nnunet, place, *arguments)

    def report(self) -> str:
        """Write versus.csv and versus.md from all that is in the folder; the text of the latter.

        Raises:
            PosconError: a file cannot be written.
        """
        found = [
            Found.read(self.folder(name, minutes), name, minutes)
            for minutes in self.all_minutes()
            for name in (NNUNET, *POSCON)
            if (self.folder(name, minutes) / "results.csv").is_file()
        ]
        told = read_json(self.out / "settings.json")
        prepared = read_json(self.nnunet / "preparation.json")
        told["preparation by nnU-Net (s)"] = round(prepared["seconds"], 1)
        text = f"{table(found)}\n\n{settings_of(found, told)}"
        write_text(self.out / "versus.csv", rows_of(found))
        write_text(self.out / "versus.md", text)
        return text

    def all_minutes(self) -> list[float]:
        """Every number of minutes that something was trained for in this folder."""
        return sorted({float(p.name.rpartition("-")[2]) for p in self.out.glob(f"{NNUNET}-*")})


def run_side(python: Path, nnunet: Path, place: Path, *arguments: object) -> dict[str, Any]:
    """Run nnunet_side.py, and read what it says of itself.

    Args:
        python: Python that has nnU-Net.
        nnunet: folder of nnU-Net's data, raw and preprocessed.
        place: folder of the results and the log.
        arguments: those of the script, without the last one.

    Raises:
        PosconError: it failed.
    """
    about, log = place / "about.json", place / "nnunet.log"
    command = [python, HERE / "nnunet_side.py", *arguments, about]
    environment = _environment(nnunet) | {
        "nnUNet_results": str(place / "results"),
        # batches are made in the training process itself; planning needs at least 1
        "nnUNet_n_proc_DA": "1" if arguments[0] == "prepare" else "0",
    }
    with log.open("a") as file:
        ended = subprocess.run(
            list(map(str, command)), env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    if ended.returncode:
        *_, last = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise PosconError(f"{log}: nnU-Net failed to {arguments[0]}; its last line is: {last}")
    return dict(read_json(about))


def done(path: Path, work: Callable[[], dict[str, Any]]) -> None:
    """Do a stage and write what it says of itself, unless that is there."""
    if not path.is_file():
        print(f"{path.parent.name}: {path.stem}", file=sys.stderr, flush=True)
        write_json(path, work())


def drawn_subjects(store: Store, test: Sequence[str], labelled: int, seed: int) -> list[str]:
    """The labelled subjects that ``poscon finetune`` draws with ``--labelled`` and ``--exclude``.

    Raises:
        PosconError: there are not so many, or a test subject is not in the store.
    """
    pool = choose_cases(store, None, list(test))
    return sorted({case.subject for case in draw_subjects(pool, labelled, seed)})


def write_raw(
    folder: Path, dataset: Dataset, labelled: Collection[str], test: Collection[str]
) -> None:
    """Write a raw data set of nnU-Net: the labelled subjects, and the images of the test subjects.

    Files are copied as they are. Documentation of the format:
    https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md

    Args:
        folder: to write.
        dataset: with one 3-D image of a case in NIfTI.
        labelled: subjects to learn from.
        test: subjects to predict.

    Raises:
        PosconError: the data set is of another kind.
    """
    labels = dataset.labels
    values = () if labels is None else tuple(c.values for c in labels.classes)
    if labels is None or values != tuple((i + 1,) for i in range(len(values))):
        raise PosconError(
            f"{dataset.root}: label values 1, 2, ... of one class each are needed here, as nnU-Net "
            "reads no others"
        )
    learnt = [case for case in dataset.cases if case.subject in labelled and case.label]
    tested = [case for case in dataset.cases if case.subject in test]
    for case in learnt:
        _copy(case, folder / "imagesTr")
        assert isinstance(case.label, Path)
        _copy_file(case.label, folder / "labelsTr" / f"{case.id}{SUFFIX}")
    for case in tested:
        _copy(case, folder / "imagesTs")
    description = {
        "channel_names": {"0": "CT" if learnt[0].modality == "CT" else "MRI"},
        "labels": {"background": 0} | {name: i + 1 for i, name in enumerate(labels.names)},
        "numTraining": len(learnt),
        "file_ending": SUFFIX,
    }
    write_json(folder / "dataset.json", description)


def _copy(case: Case, folder: Path) -> None:
    """Copy the image of a case."""
    if case.channels or case.frame_index is not None or not isinstance(case.image, Path):
        raise PosconError(f"{case.image}: one 3-D image of a case is needed here")
    _copy_file(case.image, folder / f"{case.id}_0000{SUFFIX}")


def _copy_file(source: Path, target: Path) -> None:
    if not source.name.endswith(SUFFIX):
        raise PosconError(f"{source}: a {SUFFIX} file is needed here")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


@dataclass(frozen=True)
class Found:
    """What came out of one training.

    Attributes:
        name: what trained.
        minutes: for how long.
        training: what the training says of itself.
        prediction: what the prediction says of itself.
        rows: the rows of ``poscon evaluate``: a subject and a class each.
    """

    name: str
    minutes: float
    training: dict[str, Any]
    prediction: dict[str, Any]
    rows: list[dict[str, str]]

    @classmethod
    def read(cls, place: Path, name: str, minutes: float) -> "Found":
        with (place / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        training, prediction = (
            read_json(place / f"{stage}.json") for stage in ("training", "prediction")
        )
        return cls(name, minutes, training, prediction, rows)

    def by(self, key: str, measure: str) -> dict[str, float]:
        """The mean of a measure for each subject or class. What is not measured does not count."""
        values: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if row[measure]:
                values[row[key]].append(float(row[measure]))
        return {name: fmean(found) for name, found in values.items()}


def table(found: Sequence[Found]) -> str:
    """Markdown: a line for each training. Dice and HD95 are means over subjects of class means."""
    classes = list(found[0].by("class", "dice"))
    head = ["minutes", "trained by", "Dice [95 %]", *classes, "lowest subject", "HD95 (mm)"]
    head += ["against nnU-Net [95 %]", "p", "iterations", "training (s)", "prediction (s)"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in found:
        dice = one.by("subject", "dice")
        values = list(dice.values())
        interval = mean_interval(values)
        against, p = _against_nnunet(one, found)
        cells = [
            f"{one.minutes:g}",
            one.name,
            f"{fmean(values):.3f} [{interval.low:.3f}, {interval.high:.3f}]",
            *(f"{one.by('class', 'dice')[name]:.3f}" for name in classes),
            f"{min(values):.3f}",
            f"{fmean(one.by('subject', 'hd95_mm').values()):.2f}",
            *(against, p),
            str(one.training["iterations"]),
            f"{one.training['seconds']:.0f}",
            f"{one.prediction['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against_nnunet(one: Found, found: Sequence[Found]) -> tuple[str, str]:
    """The mean difference in Dice to nnU-Net after the same minutes, and p (Holm)."""
    level = {other.name: other for other in found if other.minutes == one.minutes}
    if one.name == NNUNET or NNUNET not in level:
        return "", ""
    baseline = level.pop(NNUNET).by("subject", "dice")
    dice = {name: other.by("subject", "dice") for name, other in level.items()}
    result = differences(baseline, dice)[one.name]
    low, high = result.interval.low, result.interval.high
    return f"{result.mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{result.p:.2g}"


def settings_of(found: Sequence[Found], settings: dict[str, Any]) -> str:
    """Markdown: a line for each setting of the comparison and of its trainings."""
    trained = {
        f"{one.name}, {one.minutes:g} minutes": {
            name: value
            for name, value in one.training.items()
            if name not in ("seconds", "iterations")
        }
        for one in found
    }
    return "".join(f"- {name}: {_plain(value)}\n" for name, value in (settings | trained).items())


def _plain(value: Any) -> str:
    """A setting as text, without quotation marks and brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return str(value)


def rows_of(found: Sequence[Found]) -> str:
    """CSV: a row for each training, subject and class. What is not measured is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ROWS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in found:
        for row in one.rows:
            writer.writerow({"minutes": f"{one.minutes:g}", "trained": one.name, **row})
    return file.getvalue()


if __name__ == "__main__":
    main()
