"""The command line: arguments and messages, nothing else.

Every command calls the function of the same name with the same arguments. They are imported when
called, so that ``--help`` answers at once.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from poscon.errors import PosconError
from poscon.memory import keep_freed_memory

app = typer.Typer(
    name="poscon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Segmentation from many scans and few labels: pre-train on unlabelled CT and MRI by "
    "contrasting slices by their position, fine-tune with a few labelled patients.",
)

Store = Annotated[
    str, typer.Argument(help="Prepared store, from poscon prepare: a folder, or its URL.")
]
Run = Annotated[Path, typer.Argument(help="Folder of the run, written anew.")]
Recipe = Annotated[
    str | None, typer.Option(help="Recipe to follow: a name (poscon recipes) or a YAML file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change any setting; may be repeated."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of every random choice.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Exclude = Annotated[
    Path | None,
    typer.Option(help="File naming subjects to leave out, or any one case of them."),
]
Layout = Annotated[
    str | None, typer.Option(help="Layout of the folder (poscon layouts); detected if not given.")
]
Channel = Annotated[
    int | None, typer.Option(min=0, help="Image channel, where the data set has several.")
]
Labels = Annotated[
    str | None, typer.Option(help="What label values mean: 1=RV,2=MYO,3=LV; overrides the layout.")
]
Engine = Annotated[str, typer.Option(help="local, or ray: on many machines.")]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster.")]
SourceSpacing = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Voxel size in mm along the files' axes, if headers lie."),
]


@app.command(epilog="Example: poscon prepare Task04_Hippocampus hippocampus.store --plane coronal")
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of scans, in any known layout.")],
    store: Annotated[str, typer.Argument(help="Folder to write.")],
    layout: Layout = None,
    plane: Annotated[
        str | None,
        typer.Option(help="auto (as acquired), axial, coronal or sagittal."),
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="In-plane mm per pixel, or auto (median), or native.")
    ] = None,
    source_spacing: SourceSpacing = None,
    modality: Annotated[str | None, typer.Option(help="CT, MR or auto.")] = None,
    labels: Labels = None,
    channel: Channel = None,
    reverse: Annotated[
        Path | None,
        typer.Option(help="File naming cases or subjects whose slices run the other way."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many to use; all cores, or one for a small set.")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    recipe: Recipe = None,
    settings: Set = None,
) -> None:
    """Read scans in any known layout and write the store that training reads.

    Interrupted, it goes on where it was when run again.
    """
    from poscon.commands import prepare as module

    opened = module.prepare(
        source,
        store,
        layout=layout,
        plane=plane,
        spacing=_number_or_word(spacing),
        source_spacing=_triple("--source-spacing", source_spacing),
        modality=modality,
        labels=labels,
        channel=channel,
        reverse=reverse,
        processes=processes,
        engine=engine,
        address=address,
        recipe=recipe,
        settings=settings or (),
    )
    subjects = len({case.subject for case in opened.cases})
    _say(
        f"{len(opened.cases)} cases of {subjects} subjects, layout {opened.manifest.layout}, "
        f"in {store}"
    )
    for note in opened.manifest.notes:
        _say(f"note: {note}")
    _say(f"look at it with: poscon inspect {store}")


@app.command(epilog="Example: poscon inspect hippocampus.store")
def inspect(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(help="Contact sheet; STORE/contact_sheet.png if not given.")
    ] = None,
) -> None:
    """Print what is in a store and what looks odd, and draw a contact sheet."""
    from poscon.commands import inspect as module

    inspection = module.inspect(store, out)
    _show(*module.inspection_tables(inspection))
    _say(f"pictures: {inspection.contact_sheet}")


@app.command(
    epilog="Example: poscon pretrain hippocampus.store runs/pcl --exclude test.txt --epochs 20"
)
def pretrain(
    store: Store,
    run: Run,
    method: Annotated[
        str | None, typer.Option(help="Pre-training method (poscon methods).")
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(help="File naming the cases or subjects to use; all if not given."),
    ] = None,
    exclude: Exclude = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often every slice is seen.")
    ] = None,
    seed: Seed = None,
    recipe: Recipe = None,
    settings: Set = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Pre-train an encoder on a store's slices, without labels."""
    from poscon.commands import pretrain as module

    path = module.pretrain(
        store,
        run,
        method=method,
        cases=cases,
        exclude=exclude,
        epochs=epochs,
        seed=seed,
        recipe=recipe,
        settings=settings or (),
        device=device,
        resume=resume,
    )
    _say(f"encoder: {path}")


@app.command(
    epilog="Example: poscon finetune hippocampus.store runs/seg --init runs/pcl --labelled 2"
)
def finetune(
    store: Store,
    run: Run,
    init: Annotated[
        Path | None,
        typer.Option(help="Pre-training run to start from; a random start if not given."),
    ] = None,
    labelled: Annotated[
        int | None, typer.Option(min=1, help="How many labelled subjects to draw (by --seed).")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="File naming the labelled cases to use or draw from.")
    ] = None,
    exclude: Exclude = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="File naming cases to use without labels, for methods that do; default: the rest."
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="File naming cases to watch while training; nothing is chosen by them."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Fine-tuning method (poscon methods).")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Training steps, whatever the number of cases.")
    ] = None,
    seed: Seed = None,
    recipe: Recipe = None,
    settings: Set = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Train a U-Net on a few labelled subjects, from a pre-trained encoder or at random."""
    from poscon.commands import finetune as module

    path = module.finetune(
        store,
        run,
        init=init,
        labelled=labelled,
        cases=cases,
        exclude=exclude,
        unlabelled=unlabelled,
        validation=validation,
        method=method,
        iterations=iterations,
        seed=seed,
        recipe=recipe,
        settings=settings or (),
        device=device,
        resume=resume,
    )
    _say(f"model: {path}")


@app.command(epilog="Example: poscon predict runs/seg scan.nii.gz scan_seg.nii.gz")
def predict(
    run: Annotated[Path, typer.Argument(help="Fine-tuning run.")],
    input: Annotated[Path, typer.Argument(help="A scan, or a folder of them in any layout.")],
    output: Annotated[Path, typer.Argument(help="Label map to write, or the folder for them.")],
    layout: Layout = None,
    channel: Channel = None,
    cases: Annotated[
        Path | None, typer.Option(help="File naming the cases or subjects to segment.")
    ] = None,
    source_spacing: SourceSpacing = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is there and make the rest.")
    ] = False,
) -> None:
    """Segment scans; every label map lies exactly on its scan."""
    from poscon.commands import predict as module

    written = module.predict(
        run,
        input,
        output,
        layout=layout,
        channel=channel,
        cases=cases,
        source_spacing=_triple("--source-spacing", source_spacing),
        device=device,
        resume=resume,
    )
    _say(f"{len(written)} label map(s) in {written[0] if len(written) == 1 else output}")


@app.command(epilog="Example: poscon evaluate predictions Task04_Hippocampus --out results")
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    references: Annotated[
        Path, typer.Argument(help="A label map, a folder of them, or a labelled data set.")
    ],
    out: Annotated[Path | None, typer.Option(help="FILE.json, FILE.csv, or FILE for both.")] = None,
    layout: Layout = None,
    channel: Channel = None,
    labels: Labels = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Voxel size in mm, if headers lie.")
    ] = None,
) -> None:
    """Dice, HD95 and ASSD in mm and volumes in ml, per case and class."""
    from poscon.commands import evaluate as module

    evaluation = module.evaluate(
        predictions,
        references,
        out,
        layout=layout,
        channel=channel,
        labels=labels,
        spacing=_triple("--spacing", spacing),
    )
    _show(module.summary_table(evaluation))


@app.command(
    epilog="Example: poscon compare hippocampus results/hippocampus --data Task04_Hippocampus"
)
def compare(
    plan: Annotated[str, typer.Argument(help="A name (poscon recipes) or a YAML file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, or to go on with.")],
    data: Annotated[
        Path | None, typer.Option(help="Data set to fine-tune and test on; overrides the plan's.")
    ] = None,
    pretrain_data: Annotated[
        Path | None, typer.Option(help="Of a transfer: data set to pre-train on.")
    ] = None,
    settings: Set = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one a GPU, else one a core.")
    ] = None,
    device: Device = None,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Compare methods by the few-label protocol: folds, draws, statistics, no leakage.

    Interrupted, or with a changed plan, it does what is missing when run again.
    """
    from poscon.comparison import compare as module

    comparison = module.compare(
        plan,
        out,
        data=data,
        pretrain_data=pretrain_data,
        settings=settings or (),
        processes=processes,
        device=device,
        engine=engine,
        address=address,
    )
    _show(*module.comparison_tables(comparison))
    from poscon.reports.report import report as write_report

    _say(f"tables: {out / module.SUMMARY}, {out / 'results.csv'}, {out / module.TABLE}")
    _say(f"report: {write_report(out)}")


@app.command(epilog="Example: poscon report results/hippocampus")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of poscon compare, pretrain or finetune.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; FOLDER/report.html if not given.")
    ] = None,
) -> None:
    """One HTML file that shows what was done, how far to trust it, and what came out."""
    from poscon.reports import report as module

    _say(f"report: {module.report(folder, out)}")


@app.command(epilog="Example: poscon bench hippocampus.store")
def bench(
    store: Annotated[
        str | None, typer.Argument(help="Prepared store; built-in synthetic scans if not given.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Pre-training method, see poscon methods.")
    ] = None,
    recipe: Recipe = None,
    settings: Set = None,
    device: Device = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure, about.")] = 90,
) -> None:
    """How fast this machine pre-trains, where the time goes, and what would help."""
    from poscon.commands import bench as module

    result = module.bench(
        store,
        method=method,
        recipe=recipe,
        settings=settings or (),
        device=device,
        seconds=seconds,
    )
    _show(*module.bench_tables(result))


@app.command(epilog="Example: poscon demo --seed 1")
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the phantoms and the training.")] = 0,
    modality: Annotated[str, typer.Option(help="mr or ct: which the phantoms look like.")] = "mr",
) -> None:
    """The main job on built-in synthetic scans: pre-train, fine-tune, predict, evaluate."""
    from poscon.commands import demo as module

    result = module.demo(out, seed=seed, modality=modality)
    _show(*module.demo_tables(result))
    _say(f"picture: {result.picture}")


@app.command(epilog="Example: poscon methods")
def methods() -> None:
    """List the pre-training and fine-tuning methods."""
    from rich.table import Table

    from poscon import finetuning, pretext

    for title, room in (("Pre-training", pretext), ("Fine-tuning", finetuning)):
        table = Table(
            "method", "what it does", "needs", "source", title=title, title_justify="left"
        )
        for name in room.METHODS:
            method = room.find_method(name)
            table.add_row(name, method.summary, method.needs, method.citation)
        _show(table)


@app.command(epilog="Example: poscon layouts")
def layouts() -> None:
    """List the data set layouts that poscon reads."""
    from rich.markup import escape
    from rich.table import Table

    from poscon.volumes.layouts import LAYOUTS

    table = Table("layout", "what it looks like")
    for layout in LAYOUTS:
        table.add_row(layout.name, escape(layout.description))
    _show(table)


@app.command(epilog="Example: poscon recipes paper-acdc > my.yaml")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe or plan.")] = None,
) -> None:
    """List the recipes of training and the plans of comparisons, or print one to change it."""
    from rich.markup import escape
    from rich.table import Table

    from poscon.comparison.plan import plan_names, plan_text, read_plan
    from poscon.settings import load_recipe, recipe_names, recipe_text

    if name is not None:
        sys.stdout.write(plan_text(name) if name in plan_names() else recipe_text(name))
        return
    table = Table("recipe", "what it is", "commands")
    for known in recipe_names():
        content = load_recipe(known)
        commands = ", ".join(key for key in content if key != "description")
        table.add_row(known, escape(content["description"].strip()), commands)
    plans = Table("plan, for poscon compare", "what it is", "setting")
    for known in plan_names():
        plan = read_plan(known)
        plans.add_row(known, escape(plan.description.strip()), plan.setting)
    _show(table, plans)


INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line; what the user can mend is one line on stderr and exit code 2."""
    keep_freed_memory()
    try:
        app(standalone_mode=True)
    except PosconError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        sys.exit(_fail(f"{error.filename or 'the output'}: cannot be used ({error.strerror})"))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # which is what Typer makes of Ctrl-C
            sys.stderr.write("interrupted; what was finished is kept\n")
        raise
    sys.exit(0)


_PLACES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),  # no room, or not allowed
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),  # a file where a folder belongs, or vice versa
)


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 2


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _show(*renderables: object) -> None:
    from rich.console import Console

    Console().print(*renderables, sep="\n")


def _number_or_word(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise PosconError(
            f"{option} {text}: write three sizes in mm, such as 1.25,1.25,10"
        ) from None
    return x, y, z
