"""``poscon compare``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from poscon.cli.options import Address, Device, Engine
from poscon.cli.output import print_json, say, show
from poscon.errors import PosconError


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
            print_json([run.as_record() for run in runs])
        else:
            show(*dry_run_tables(runs))
        return
    if as_json:
        raise PosconError("--json: no effect without --dry-run; the results are in OUT/results.csv")
    from poscon.comparison import compare as module
    from poscon.reports.report import report as write_report

    comparison = module.compare(plan, out, **options)
    show(*module.comparison_tables(comparison))
    say(f"tables: {out / module.SUMMARY}, {out / 'results.csv'}, {out / module.TABLE}")
    say(f"report: {write_report(out)}")
