"""``poscon demo`` does the main job on the built-in phantom, in minutes on a laptop."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from poscon.arguments import checked
from poscon.commands.evaluate import Evaluation, Summary, evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.pictures.predictions import draw_predictions
from poscon.progress import console
from poscon.store.store import MANIFEST, Store, write_json
from poscon.training.run import MODEL, part_file
from poscon.volumes.phantom import MODALITIES, write_phantom

SUBJECTS = 30
TEST_SUBJECTS = 8
LABELLED = 2
RECIPE = "demo"
STARTS = {"random": "random init", "pcl": "PCL init"}


@dataclass(frozen=True)
class Demo:
    """The result of the demo.

    Attributes:
        evaluations: evaluations of the test subjects, by initialisation (``random``, ``pcl``).
        picture: file with the image, the reference and both predictions.
        seconds: seconds that each stage took. Stages of an earlier call are not in it.
        modality: modality of the phantoms, ``mr`` or ``ct``.
        seed: seed of every random choice.
    """

    evaluations: dict[str, Evaluation]
    picture: Path
    seconds: dict[str, float]
    modality: str
    seed: int


@checked
def demo(out: Path | str = "demo", *, seed: int = 0, modality: str = "MR") -> Demo:
    """Pre-train on synthetic scans, fine-tune on two of them from two initialisations, compare.

    A finished stage is not done again. So an interrupted demo goes on where it was.

    Args:
        out: folder to write.
        seed: seed of the phantoms, of the draw of labelled subjects and of the training.
        modality: modality of the scans, ``MR`` or ``CT``, in upper or lower case.

    Raises:
        PosconError: the modality is unknown, or ``out`` is no folder of this demo.
    """
    out, modality = Path(out), modality.lower()
    if modality not in MODALITIES:
        raise PosconError(f"--modality {modality}: must be MR or CT")
    _open(out, {"seed": seed, "modality": modality})
    seconds: dict[str, float] = {}
    scans, store, test = out / "phantom", out / "store", out / "test_subjects.txt"
    names = [f"phantom_{number:03d}" for number in range(SUBJECTS)]
    test.write_text("\n".join(names[-TEST_SUBJECTS:]) + "\n")

    def stage(name: str, done: Path, run: Callable[[], object]) -> None:
        if done.exists():
            return
        started = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - started

    def training(folder: Path) -> bool:
        """Whether to resume. A run that was killed before it had begun starts anew."""
        if folder.exists() and not (folder / "config.yaml").is_file():
            shutil.rmtree(folder)
        return folder.exists()

    def pretrain_pcl() -> None:
        run = out / "runs" / "pretrain"
        if training(run):
            pretrain(store, run, resume=True)
        else:
            pretrain(store, run, exclude=test, seed=seed, recipe=RECIPE)

    def finetune_from(start: str) -> None:
        run = out / "runs" / start
        if training(run):
            finetune(store, run, resume=True)
            return
        init = out / "runs" / "pretrain" if start == "pcl" else None
        finetune(store, run, init=init, labelled=LABELLED, exclude=test, seed=seed, recipe=RECIPE)

    last_label = scans / "labelsTr" / f"{names[-1]}.nii.gz"
    stage(
        "phantom",
        last_label,
        lambda: write_phantom(scans, subjects=SUBJECTS, seed=seed, modality=modality),
    )
    stage("prepare", store / MANIFEST, lambda: prepare(scans, store))
    stage("pretrain", part_file(out / "runs" / "pretrain", "encoder"), pretrain_pcl)
    evaluations = {}
    for start in STARTS:
        run, predictions = out / "runs" / start, out / "predictions" / start
        stage(f"finetune {start}", run / MODEL, lambda start=start: finetune_from(start))  # type: ignore[misc]
        started = time.perf_counter()
        predict(run, scans, predictions, cases=test, resume=True)
        evaluations[start] = evaluate(predictions, scans)
        seconds[f"predict and evaluate {start}"] = time.perf_counter() - started
    picture = out / "predictions.png"
    draw_predictions(
        picture,
        Store(store),
        names[-TEST_SUBJECTS:][:3],
        {STARTS[start]: out / "predictions" / start for start in STARTS},
        title=f"Synthetic {modality.upper()} phantoms, {LABELLED} labelled subjects",
    )
    return Demo(evaluations, picture, seconds, modality, seed)


def demo_tables(result: Demo) -> list[object]:
    """The tables that the demo shows in a terminal."""
    table = Table(
        title=(
            f"Synthetic data: {TEST_SUBJECTS} test phantoms ({result.modality.upper()}), "
            f"{LABELLED} labelled subjects, seed {result.seed}"
        ),
        title_justify="left",
        caption="mean ± standard deviation over the test subjects. Synthetic scans show that the "
        "program works, not how well the method does on patients: see docs/results.",
        caption_justify="left",
    )
    table.add_column("class")
    for measure in ("Dice", "HD95, mm"):
        for title in STARTS.values():
            table.add_column(f"{measure}\n{title}", justify="right")
    summaries = {start: e.summary() for start, e in result.evaluations.items()}
    for rows in zip(*(summaries[start] for start in STARTS), strict=True):
        table.add_row(
            rows[0].name,
            *(f"{row.dice.mean:.3f} ± {row.dice.std:.3f}" for row in rows),
            *(f"{row.hd95_mm.mean:.1f} ± {row.hd95_mm.std:.1f}" for row in rows),
            end_section=rows[0] is summaries["random"][-2],
        )
    means: dict[str, Summary] = {start: summary[-1] for start, summary in summaries.items()}
    difference = means["pcl"].dice.mean - means["random"].dice.mean
    text = (
        f"With {LABELLED} labelled subjects, the PCL init differs from the random init by "
        f"{difference:+.3f} mean Dice in this one run."
    )
    took = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    return [table, text, f"time: {took}"]


def _open(out: Path, about: dict[str, object]) -> None:
    """Create the folder, or check that it holds a demo with the same arguments."""
    path = out / "demo.json"
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs != about:
            raise PosconError(
                f"{out}: holds a demo of seed {theirs['seed']}, modality {theirs['modality']}; "
                "choose another folder or delete it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PosconError(f"{out}: exists and is no demo; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, about)
        console.print("The demo uses synthetic scans, drawn by poscon itself.")
