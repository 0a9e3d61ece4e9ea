"""The command line: arguments and messages, nothing else.

Every command calls the function of the same name with the same arguments. They are imported when
called, so that ``--help`` answers at once.
"""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from poscon.environment import quiet_libraries, write_anything
from poscon.errors import PartlyDone, PosconError
from poscon.memory import keep_freed_memory
from poscon.version import __version__

if TYPE_CHECKING:
    from poscon.listings import Listing

app = typer.Typer(
    name="poscon",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Segmentation from many scans and few labels: pre-train on unlabelled CT and MRI by "
    "contrasting slices by their position, fine-tune with a few labelled patients.",
)

Store = Annotated[
    str, typer.Argument(help="Prepared store that poscon prepare wrote: a folder, or its URL.")
]
Run = Annotated[Path, typer.Argument(help="Folder of the run. It is written, so it must be new.")]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Takes settings from a recipe: a name (see poscon recipes) or a YAML file. "
        "Default: none."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Changes any setting, such as -s optimiser.lr=1e-3. It may be repeated.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Decides every random choice. Default: that of the recipe, else 0."),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: auto (a GPU if there is one), cpu or cuda. Default: auto."
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continues an interrupted run with its own settings."),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Leaves out the subjects that this file names, such as the test subjects. A case in "
        "it stands for its subject. Default: none is left out.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        help="Reads the folder in this layout (see poscon layouts). Default: it is detected."
    ),
]
Channel = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Takes this image channel of a data set that has several, counted from 0. "
        "Default: the only one.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="V=NAME,...",
        help="Says what label values mean, such as 1=RV,2=MYO,3=LV. Default: as the layout says.",
    ),
]
Engine = Annotated[
    str, typer.Option(help="Where to work: local (this machine) or ray (a Ray cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster. Default: a cluster is started on this machine."),
]
SourceSpacing = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="Voxel size in mm along the axes of the files. It replaces that of the headers. "
        "Default: the headers are believed.",
    ),
]
Modality = Annotated[
    str | None,
    typer.Option(
        help="Kind of all scans: CT, MR or auto. Default: auto (by the layout, else by the "
        "intensities)."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Prints JSON on stdout instead of tables; notes go to stderr."),
]


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"poscon {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Prints the version and exits."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: poscon prepare Task04_Hippocampus hippocampus.store --plane coronal")
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of scans, in any known layout.")],
    store: Annotated[str, typer.Argument(help="Folder of the store to write.")],
    layout: Layout = None,
    plane: Annotated[
        str | None,
        typer.Option(
            help="Plane of the slices: axial, coronal, sagittal, or auto (as acquired). "
            "Default: auto."
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            help="Resamples the slices to this pixel size, in mm; auto takes the median of the "
            "data set, native keeps each scan as it is. Default: that of the layout, else auto."
        ),
    ] = None,
    source_spacing: SourceSpacing = None,
    modality: Modality = None,
    labels: Labels = None,
    channel: Channel = None,
    reverse: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Turns the slice order of the cases or subjects that this file names. "
            "Default: none is turned.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes. Default: one for a small data set, else one per core.",
        ),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    recipe: Recipe = None,
    settings: Set = None,
) -> None:
    """Read scans in any known layout and write the store that training reads.

    An interrupted command goes on where it was when it is run again.
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
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Where the contact sheet goes; the table of cases is written beside it. "
            "Default: STORE/contact_sheet.png.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what is in a store and what looks odd, and draw a contact sheet."""
    from poscon.commands import inspect as module

    inspection = module.inspect(store, out)
    if as_json:
        _print_json(module.inspection_record(inspection))
        return
    _show(*module.inspection_tables(inspection))
    _say(f"pictures: {inspection.contact_sheet}")


@app.command(
    epilog="Example: poscon pretrain hippocampus.store runs/pcl --exclude test.txt --epochs 20"
)
def pretrain(
    store: Store,
    run: Run,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pre-training method (see poscon methods). Default: that of the recipe, else pcl."
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Uses the cases or subjects that this file names. Default: all."
        ),
    ] = None,
    exclude: Exclude = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="How often every slice is seen. Default: that of the recipe, else 10."
        ),
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
        typer.Option(
            metavar="RUN",
            help="Starts from the weights of this pre-training run. Default: random weights.",
        ),
    ] = None,
    labelled: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of labelled subjects to draw; --seed decides which. Default: all.",
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Uses, or draws from, the labelled cases or subjects that this file names. "
            "Default: all labelled ones.",
        ),
    ] = None,
    exclude: Exclude = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Uses the cases or subjects that this file names without their labels, with a "
            "method that does so. Default: those that are not drawn as labelled.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measures the Dice of the cases or subjects that this file names during the "
            "training. Nothing is chosen by it. Default: none.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Fine-tuning method (see poscon methods). Default: that of the recipe, else "
            "supervised."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps, for any number of cases. Default: that of the recipe, else 2000.",
        ),
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
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.")],
    input: Annotated[Path, typer.Argument(help="A scan, or a folder of scans in any layout.")],
    output: Annotated[
        Path, typer.Argument(help="The label map to write, or the folder to write label maps to.")
    ],
    layout: Layout = None,
    channel: Channel = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Segments the cases or subjects of a folder that this file names. Default: all.",
        ),
    ] = None,
    source_spacing: SourceSpacing = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keeps the label maps that are there; adds the rest.")
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
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of label maps.")],
    references: Annotated[
        Path, typer.Argument(help="A label map, a folder of them, or a labelled data set.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes the results to FILE.json, to FILE.csv, or to both for FILE. "
            "Default: nothing is written."
        ),
    ] = None,
    layout: Layout = None,
    channel: Channel = None,
    labels: Labels = None,
    source_spacing: SourceSpacing = None,
    as_json: Json = False,
) -> None:
    """Measure Dice, HD95 and ASSD in mm and volumes in ml, per case and class."""
    from poscon.commands import evaluate as module

    incomplete = None
    try:
        evaluation = module.evaluate(
            predictions,
            references,
            out,
            layout=layout,
            channel=channel,
            labels=labels,
            source_spacing=_triple("--source-spacing", source_spacing),
        )
    except PartlyDone as error:
        evaluation, incomplete = error.result, error
    if as_json:
        _print_json(module.evaluation_record(evaluation))
    else:
        _show(module.summary_table(evaluation))
    if incomplete is not None:
        raise incomplete


@app.command(
    epilog="Example: poscon compare hippocampus results/hippocampus --data Task04_Hippocampus"
)
def compare(
    plan: Annotated[str, typer.Argument(help="A plan: a name (see poscon plans) or a YAML file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; one that is there is continued.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the data set to fine-tune and test on. Default: that of the plan.",
        ),
    ] = None,
    pretrain_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the data set to pre-train on, in a transfer. Default: that of the "
            "plan.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Changes any key of the plan, such as -s draws=3. It may be repeated.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time. Default: one per GPU, else one per core."),
    ] = None,
    device: Device = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Prints every run with its settings and where each of them comes from. Nothing is "
            "done and nothing is written.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Prints the runs of --dry-run as JSON on stdout.")
    ] = False,
) -> None:
    """Compare methods by the few-label protocol: folds, draws, statistics, no leakage.

    Run again after an interruption, or with a changed plan, it does what is missing.
    """
    options: dict[str, Any] = {
        "data": data,
        "pretrain_data": pretrain_data,
        "settings": settings or (),
        "processes": processes,
        "device": device,
        "engine": engine,
        "address": address,
    }
    if dry_run:
        from poscon.comparison.dry_run import dry_run_tables, planned_runs

        runs = planned_runs(plan, **options)
        if as_json:
            _print_json([run.as_record() for run in runs])
        else:
            _show(*dry_run_tables(runs))
        return
    if as_json:
        raise PosconError("--json: no effect without --dry-run; the results are in OUT/results.csv")
    from poscon.comparison import compare as module
    from poscon.reports.report import report as write_report

    comparison = module.compare(plan, out, **options)
    _show(*module.comparison_tables(comparison))
    _say(f"tables: {out / module.SUMMARY}, {out / 'results.csv'}, {out / module.TABLE}")
    _say(f"report: {write_report(out)}")


@app.command(epilog="Example: poscon report results/hippocampus")
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that poscon compare, pretrain or finetune wrote.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="File to write; an earlier one is replaced. Default: FOLDER/report.html.",
        ),
    ] = None,
) -> None:
    """Write one HTML file that shows what was done, how far to trust it, and what came out."""
    from poscon.reports import report as module

    _say(f"report: {module.report(folder, out)}")


@app.command(epilog="Example: poscon bench hippocampus.store")
def bench(
    store: Annotated[
        str | None,
        typer.Argument(help="Prepared store. Default: synthetic scans that poscon draws."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pre-training method (see poscon methods). Default: that of the recipe, else pcl."
        ),
    ] = None,
    recipe: Recipe = None,
    settings: Set = None,
    device: Device = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long to measure, in seconds, roughly.")
    ] = 90,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine pre-trains, where the time goes, and what would help."""
    from poscon.commands import bench as module

    result = module.bench(
        store,
        method=method,
        recipe=recipe,
        settings=settings or (),
        device=device,
        seconds=seconds,
    )
    if as_json:
        _print_json(module.bench_record(result))
    else:
        _show(*module.bench_tables(result))


@app.command(epilog="Example: poscon demo --seed 1")
def demo(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder to write. A demo that is in it is continued."),
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the synthetic scans and the training.")
    ] = 0,
    modality: Annotated[
        str, typer.Option(help="What the synthetic scans look like: MR or CT.")
    ] = "MR",
) -> None:
    """Do the main job on synthetic scans: pre-train, fine-tune, predict, evaluate."""
    from poscon.commands import demo as module

    result = module.demo(out, seed=seed, modality=modality)
    _show(*module.demo_tables(result))
    _say(f"picture: {result.picture}")


@app.command(epilog="Example: poscon methods")
def methods(as_json: Json = False) -> None:
    """List the pre-training and fine-tuning methods, those of installed packages too."""
    from poscon.listings import list_methods

    _list(list_methods(), as_json)


@app.command(epilog="Example: poscon layouts")
def layouts(as_json: Json = False) -> None:
    """List the data set layouts that poscon reads, in the order in which they are tried."""
    from poscon.listings import list_layouts

    _list(list_layouts(), as_json)


@app.command(epilog="Example: poscon recipes paper-acdc > my.yaml")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Prints this recipe.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes of training, or print one to change it."""
    from poscon.listings import list_recipes
    from poscon.settings import recipe_text

    if name is None:
        _list(list_recipes(), as_json)
    else:
        _print_text(recipe_text(name), as_json)


@app.command(epilog="Example: poscon plans acdc > my-plan.yaml")
def plans(
    name: Annotated[str | None, typer.Argument(help="Prints this plan.")] = None,
    as_json: Json = False,
) -> None:
    """List the plans of poscon compare, or print one to change it."""
    from poscon.comparison.plan import plan_text
    from poscon.listings import list_plans

    if name is None:
        _list(list_plans(), as_json)
    else:
        _print_text(plan_text(name), as_json)


INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line; what the user can mend is one line on stderr and exit code 2."""
    keep_freed_memory()
    write_anything()
    quiet_libraries()
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


def _print_json(content: object) -> None:
    from poscon.files import json_text

    sys.stdout.write(json_text(content))


def _print_text(text: str, as_json: bool) -> None:
    """A recipe or a plan, as it was written: its comments are lost in JSON."""
    if as_json:
        raise PosconError("--json: no effect with a name, whose file is printed; leave it out")
    sys.stdout.write(text)


def _list(listing: "Listing", as_json: bool) -> None:
    """Show a listing as one table, or one for each kind; say which plug-ins cannot be used."""
    from rich.markup import escape
    from rich.table import Table

    for problem in listing.problems:
        sys.stderr.write(f"note: {' '.join(problem.split())}\n")
    if as_json:
        _print_json(listing.rows)
        return
    tables: dict[str, Table] = {}
    for row in listing.rows:
        cells = dict(row)
        kind = cells.pop("kind", "")
        if kind not in tables:
            tables[kind] = Table(*cells, title=kind or None, title_justify="left")
        tables[kind].add_row(*map(escape, cells.values()))
    _show(*tables.values())


def _number_or_word(text: str | None) -> Any:
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
