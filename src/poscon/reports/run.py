"""The report of a single pre-training or fine-tuning: the parts that exist."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poscon.leakage import read_entries
from poscon.reports import figures
from poscon.reports.page import Picture, Section, Slices, Table, render, style, svg
from poscon.reports.parts import diagnostics, embedding_section, volume
from poscon.store.store import Store
from poscon.training.diagnostics import numbers
from poscon.training.run import MODEL, PREDICTIONS, MetricsFile, RunFolder, part_file

SHOWN_IDS = 6
SHOWN_VOLUMES = 3


def run_page(folder: Path) -> str:
    """Make the page of a pre-training or a fine-tuning, as HTML."""
    run = RunFolder(folder)
    config = run.read_config()
    command, settings = config["command"], config["settings"]
    rows = numbers(MetricsFile(run.metrics_path).rows())
    name = folder.resolve().name
    done = (part_file(folder, "encoder") if command == "pretrain" else folder / MODEL).is_file()
    by_role: dict[str, set[str]] = defaultdict(set)
    for entry in read_entries(folder):
        by_role[entry["role"]].add(entry["id"])
    facts = []
    for role, ids in by_role.items():
        more = ", ..." if len(ids) > SHOWN_IDS else ""
        facts.append((role, f"{len(ids)} cases: {', '.join(sorted(ids)[:SHOWN_IDS])}{more}"))
    with style():
        sections = [
            Section(
                "What was done",
                [] if done else ["The run is not finished yet."],
                tables=[
                    Table(("role", "cases seen in it"), facts),
                    Table(("setting", "value"), _flat(settings)),
                ],
            )
        ]
        if rows and command == "pretrain":
            positions = {name: settings.get("position", "relative")}
            curves = diagnostics({name: rows}, [name], positions)
            sections.append(Section("Pre-training", [], curves))
        columns = [c for c in ("loss", "validation_dice") if any(c in row for row in rows)]
        pictures = []
        for column in columns:
            points = [(row["step"], row[column]) for row in rows if column in row]
            steps, values = zip(*points, strict=True)
            drawn = figures.curves({name: (steps, values)}, column.replace("_", " "), "step", "")
            pictures.append(Picture(svg(drawn, f"curve-{column}"), column))
        if pictures:
            sections.append(Section("Learning curves", [], pictures))
        if command == "pretrain" and done:
            store = Store(config["store"])
            cases = run.resume_cases("pretrain", store)["pretrain"]
            encoders = {settings["method"]: (folder, int(settings["size"]))}
            sections.append(
                embedding_section(encoders, store, cases, "subjects that it was trained on")
            )
        if command == "finetune" and (folder / PREDICTIONS).is_dir():
            sections += _predictions(Store(config["store"]), folder / PREDICTIONS)
    return render(f"poscon {command}: {name}", f"method {settings['method']}", sections)


def _predictions(store: Store, folder: Path) -> list[Section]:
    """Show the first predictions of a run beside their references."""
    volumes: list[Slices] = []
    for case in (c for c in store.cases if c.labelled):
        if len(volumes) == SHOWN_VOLUMES:
            break
        if any(folder.glob(f"{case.id}.*")):
            volumes.append(volume(store, case, folder, case.id))
    return (
        [Section("Predictions", ["These are the first cases by name."], slices=volumes)]
        if volumes
        else []
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
