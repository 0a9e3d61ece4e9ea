"""The command line: arguments and messages, nothing else.

Every command calls the function of the same name with the same arguments. That function is imported
when the command is called, so that ``--help`` answers at once.
"""

import shlex
import sys
from collections.abc import Callable
from inspect import signature
from typing import Annotated, Any, NoReturn

import typer

from poscon.cli.commands.align import align
from poscon.cli.commands.bench import bench
from poscon.cli.commands.compare import compare
from poscon.cli.commands.demo import demo
from poscon.cli.commands.evaluate import evaluate
from poscon.cli.commands.export import export
from poscon.cli.commands.finetune import finetune
from poscon.cli.commands.inspect import inspect
from poscon.cli.commands.label import label
from poscon.cli.commands.listings import layouts, methods, plans, recipes
from poscon.cli.commands.predict import predict
from poscon.cli.commands.prepare import prepare
from poscon.cli.commands.pretrain import pretrain
from poscon.cli.commands.report import report
from poscon.cli.commands.suggest import suggest
from poscon.cli.commands.view import view
from poscon.cli.errors import one_line_errors
from poscon.cli.once import OnceCommand
from poscon.cli.output import say
from poscon.environment import open_streams, quiet_libraries, write_anything
from poscon.memory import keep_freed_memory
from poscon.stops import sigterm_interrupts
from poscon.version import __version__

COMMANDS: tuple[tuple[Callable[..., Any], str], ...] = (
    (prepare, "prepare Task04_Hippocampus hippocampus.store --plane coronal"),
    (inspect, "inspect hippocampus.store"),
    (align, "align abdomen.store"),
    (pretrain, "pretrain hippocampus.store runs/pcl --exclude test.txt --epochs 20"),
    (suggest, "suggest hippocampus.store next --budget 20 --source Task04_Hippocampus"),
    (label, "label hippocampus.store next/labels --suggestion next/suggestion.csv"),
    (finetune, "finetune hippocampus.store runs/seg --init runs/pcl --labelled 2"),
    (predict, "predict runs/seg scan.nii.gz scan_seg.nii.gz"),
    (evaluate, "evaluate predictions Task04_Hippocampus --out results"),
    (view, "view predictions --scans Task04_Hippocampus --results results.json"),
    (export, "export runs/seg exported --to onnx"),
    (compare, "compare hippocampus results/hippocampus --data Task04_Hippocampus"),
    (report, "report results/hippocampus"),
    (bench, "bench hippocampus.store"),
    (demo, "demo --seed 1"),
    (methods, "methods"),
    (layouts, "layouts"),
    (recipes, "recipes paper-acdc > my.yaml"),
    (plans, "plans acdc > my-plan.yaml"),
)
"""Every command with an example of its arguments, in the order of ``poscon --help``."""

app = typer.Typer(
    name="poscon",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Segmentation from many scans and few labels: pre-train on unlabelled CT and MRI by "
    "contrasting slices by their position, fine-tune with a few labelled patients.",
)
for _command, _example in COMMANDS:
    app.command(epilog=f"Example: poscon {_example}", cls=OnceCommand)(_command)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"poscon {__version__}")
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


def main() -> NoReturn:
    """Run the command line. An error that the user can repair is one line and exit code 2."""
    keep_freed_memory()
    open_streams()
    write_anything()
    quiet_libraries()
    with one_line_errors(_again(sys.argv[1:])), sigterm_interrupts():
        app(standalone_mode=True)
    sys.exit(0)


def _again(arguments: list[str]) -> str:
    """The command that goes on where one with these arguments is cut off."""
    resumed = any(
        [command.__name__] == arguments[:1] and "resume" in signature(command).parameters
        for command, _ in COMMANDS
    )
    more = ["--resume"] if resumed and "--resume" not in arguments else []
    return shlex.join(["poscon", *arguments, *more])
