"""``poscon demo`` does the main job on the built-in phantom, in minutes on a laptop."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.columns import Columns
from rich.table import Table

from poscon.arguments import checked
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.commands.suggest import PICTURE, TABLE, suggest
from poscon.errors import PosconError
from poscon.evaluation.results import Evaluation
from poscon.files import complete, read_json, write_text
from poscon.pictures.predictions import draw_predictions
from poscon.progress import console
from poscon.store.manifest import MANIFEST, write_json
from poscon.store.selection import choose_cases, draw_subjects
from poscon.store.slices import read_slice_table
from poscon.store.store import Store
from poscon.training.run import MODEL, part_file
from poscon.volumes.phantom import MODALITIES, write_phantom

SUBJECTS = 30
TEST_SUBJECTS = 8
WHOLE_SUBJECTS = 2
"""Subjects of which every slice is labelled, for one model. The other has as many slices."""
STRATEGY = "coverage"
RECIPE = "demo"
MODELS = {"slices": "chosen slices", "subjects": "whole subjects"}


@dataclass(frozen=True)
class Demo:
    """The result of the demo.

    Attributes:
        chosen: numbers of the chosen slices, as in the store, by case.
        whole: ids of the cases of which every slice is labelled. Together they have as many slices
            as were chosen.
        evaluations: evaluations of the test subjects, by what is labelled (``slices``,
            ``subjects``).
        suggestion: file with the chosen slices, and where they lie among all.
        picture: file with the image, the reference and both predictions.
        seconds: seconds that each stage took. Stages of an earlier call are not in it.
        modality: modality of the phantoms, ``mr`` or ``ct``.
        seed: seed of every random choice.
    """

    chosen: dict[str, tuple[int, ...]]
    whole: tuple[str, ...]
    evaluations: dict[str, Evaluation]
    suggestion: Path
    picture: Path
    seconds: dict[str, float]
    modality: str
    seed: int


@checked
def demo(out: Path | str = "demo", *, seed: int = 0, modality: str = "MR") -> Demo:
    """Pre-train on synthetic scans, choose slices to label, compare them with whole subjects.

    The slices are chosen in a store of the scans alone, by an encoder that was pre-trained without
    labels. One model is then trained on these slices. Another one is trained on as many slices of
    whole subjects. Both start from the pre-trained encoder.

    A finished stage is not done again. So an interrupted demo goes on where it was.

    Args:
        out: folder to write.
        seed: seed of the phantoms, of the draw of whole subjects and of the training.
        modality: modality of the scans, ``MR`` or ``CT``, in upper or lower case.

    Raises:
        PosconError: the modality is unknown, or ``out`` is no folder of this demo.
    """
    out, modality = Path(out), modality.lower()
    if modality not in MODALITIES:
        raise PosconError(f"--modality {modality}: must be MR or CT")
    _open(out, {"seed": seed, "modality": modality})
    seconds: dict[str, float] = {}
    scans, store, unlabelled = out / "phantom", out / "store", out / "store_without_labels"
    pretrained, suggestion = out / "runs" / "pretrain", out / "next"
    test = out / "test_subjects.txt"
    names = [f"phantom_{number:03d}" for number in range(SUBJECTS)]
    write_text(test, "\n".join(names[-TEST_SUBJECTS:]) + "\n")

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

    def draw() -> None:
        with complete(scans) as part:
            write_phantom(part, subjects=SUBJECTS, seed=seed, modality=modality)

    def pretrain_pcl() -> None:
        if training(pretrained):
            pretrain(store, pretrained, resume=True)
        else:
            pretrain(store, pretrained, exclude=test, seed=seed, recipe=RECIPE)

    def choose_slices() -> None:
        chosen = suggest(
            unlabelled,
            suggestion,
            budget=sum(case.n_labelled_slices for case in whole),
            strategy=STRATEGY,
            init=pretrained,
            exclude=test,
            seed=seed,
        )
        text = f"{len(chosen.slices)} slices chosen: {chosen.picture}"
        console.print(text, soft_wrap=True, markup=False)

    def finetune_on(labelled: str) -> None:
        run = out / "runs" / labelled
        if training(run):
            finetune(store, run, resume=True)
            return
        finetune(
            store,
            run,
            init=pretrained,
            cases=[case.id for case in whole] if labelled == "subjects" else None,
            labelled_slices=suggestion / TABLE if labelled == "slices" else None,
            exclude=test,
            seed=seed,
            recipe=RECIPE,
        )

    stage("phantom", scans, draw)
    stage("prepare", store / MANIFEST, lambda: prepare(scans, store))
    stage(
        "prepare without labels",
        unlabelled / MANIFEST,
        lambda: prepare(scans / "imagesTr", unlabelled),
    )
    stage("pretrain", part_file(pretrained, "encoder"), pretrain_pcl)
    opened = Store(store)
    whole = draw_subjects(choose_cases(opened, None, test), WHOLE_SUBJECTS, seed)
    stage("suggest", suggestion / TABLE, choose_slices)
    evaluations = {}
    for labelled in MODELS:
        run, predictions = out / "runs" / labelled, out / "predictions" / labelled
        stage(
            f"finetune {labelled}",
            run / MODEL,
            lambda labelled=labelled: finetune_on(labelled),  # type: ignore[misc]
        )
        started = time.perf_counter()
        predict(run, scans, predictions, cases=test, resume=True)
        evaluations[labelled] = evaluate(predictions, scans)
        seconds[f"predict and evaluate {labelled}"] = time.perf_counter() - started
    result = Demo(
        chosen=read_slice_table(suggestion / TABLE),
        whole=tuple(case.id for case in whole),
        evaluations=evaluations,
        suggestion=suggestion / PICTURE,
        picture=out / "predictions.png",
        seconds=seconds,
        modality=modality,
        seed=seed,
    )
    draw_predictions(
        result.picture,
        opened,
        names[-TEST_SUBJECTS:][:3],
        {MODELS[labelled]: out / "predictions" / labelled for labelled in MODELS},
        title=f"Synthetic {modality.upper()} phantoms, {_n_slices(result)} labelled slices",
    )
    return result


def demo_tables(result: Demo) -> list[object]:
    """What the demo shows in a terminal: the chosen slices, and a table of both models."""
    number = _n_slices(result)
    chosen = Columns(
        [f"{case}: {', '.join(map(str, each))}" for case, each in sorted(result.chosen.items())],
        padding=(0, 3),
        equal=True,
    )
    table = Table(
        title=(
            f"Synthetic data: {TEST_SUBJECTS} test phantoms ({result.modality.upper()}), "
            f"{number} labelled slices, seed {result.seed}"
        ),
        title_justify="left",
        caption="mean ± standard deviation over the test subjects. Synthetic scans show that the "
        "program works, not how well it does on patients: see docs/results.",
        caption_justify="left",
    )
    table.add_column("class")
    for measure in ("Dice", "HD95, mm"):
        for title in MODELS.values():
            table.add_column(f"{measure}\n{title}", justify="right")
    summaries = [result.evaluations[labelled].summary() for labelled in MODELS]
    for rows in zip(*summaries, strict=True):
        table.add_row(
            rows[0].name,
            *(f"{row.dice.mean:.3f} ± {row.dice.std:.3f}" for row in rows),
            *(f"{row.hd95_mm.mean:.1f} ± {row.hd95_mm.std:.1f}" for row in rows),
            end_section=rows[0] is summaries[0][-2],
        )
    slices, subjects = (summary[-1].dice.mean for summary in summaries)
    text = (
        f"The model of the chosen slices reaches a mean Dice of {slices:.3f}, the model of "
        f"{len(result.whole)} whole subjects {subjects:.3f}. Both had {number} labelled slices. "
        f"The difference is {slices - subjects:+.3f} in this one run with seed {result.seed}; "
        "another seed gives another difference."
    )
    took = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    return [
        f"{number} slices chosen by {STRATEGY} in {len(result.chosen)} subjects without labels:",
        chosen,
        f"The whole subjects {' and '.join(result.whole)} have {number} slices too.\n",
        table,
        text,
        f"time: {took}",
    ]


def _n_slices(result: Demo) -> int:
    """How many labelled slices each model had."""
    return sum(map(len, result.chosen.values()))


def _open(out: Path, about: dict[str, object]) -> None:
    """Create the folder, or check that it holds a demo with the same arguments."""
    path = out / "demo.json"
    if path.is_file():
        theirs = read_json(path)
        if theirs != about:
            pairs = theirs.items() if isinstance(theirs, dict) else ()
            of = ", ".join(f"{name} {value}" for name, value in pairs) or "other arguments"
            raise PosconError(f"{out}: holds a demo of {of}; choose another folder or delete it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PosconError(f"{out}: exists and is no demo; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, about)
        console.print("The demo uses synthetic scans, drawn by poscon itself.")
