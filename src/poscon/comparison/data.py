"""The data of a comparison. They are prepared once. Later calls check that they are the same."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from poscon.commands.prepare import prepare
from poscon.comparison.folds import check_fold_files
from poscon.comparison.plan import Plan
from poscon.comparison.plan_files import read_plan
from poscon.comparison.plan_parts import DataSettings
from poscon.errors import PosconError
from poscon.files import complete, read_json
from poscon.progress import console
from poscon.settings import GivenSettings, validate
from poscon.store.manifest import MANIFEST, write_json
from poscon.store.prepare_settings import PrepareSettings
from poscon.store.store import Store
from poscon.volumes.case import parse_labels
from poscon.volumes.layouts import find_layout, folder_of_paths, is_dataset, read_dataset
from poscon.volumes.phantom import write_phantom

DATA = "data.json"
SCHEDULE = "schedule.json"
"""What has every run of a comparison. It is there once a plan has been found to fit the data."""
_STATING = ("dataset.json", "labels.json", "participants.tsv", "*_dseg.tsv")
"""Files of a layout's folder that say what its subjects and the values of its labels are."""


def plan_with_data(
    plan: str,
    settings: GivenSettings,
    data: Path | str | None,
    pretrain_data: Path | str | None,
) -> Plan:
    """Read a plan, and put the folders of its data into it.

    Args:
        plan: name or file of the plan.
        settings: settings of the caller; they override those of the plan.
        data: folder of the data to fine-tune and test on; None: the folder that the plan names.
        pretrain_data: folder of the data to pre-train on, in a transfer; None: the folder that
            the plan names.

    Raises:
        PosconError: the plan or what it says of its data cannot be used, a folder or a file of a
            fold is not there, or a folder has no effect.
    """
    read = read_plan(str(plan), settings)
    if pretrain_data is not None and read.pretrain_data is None:
        raise PosconError(f"--pretrain-data: no effect, plan {plan} is no transfer")
    found = {"data": located(read.data, data, "--data")}
    if read.pretrain_data is not None:
        found["pretrain_data"] = located(read.pretrain_data, pretrain_data, "--pretrain-data")
    for name, told in found.items():
        _check_told(told, f"plan {plan}: {name}")
    if found["data"].folder is not None:
        check_fold_files(read, Path(found["data"].folder))
    return read.model_copy(update=found)


def _check_told(told: DataSettings, where: str) -> None:
    """Refuse what ``poscon prepare`` would refuse, before any scan is read.

    Raises:
        PosconError: the layout, the labels or a setting of ``prepare`` cannot be used.
    """
    try:
        validate(PrepareSettings, told.prepare, "prepare")
        if told.layout is not None:
            find_layout(told.layout)
        if told.labels is not None:
            parse_labels(told.labels)
    except PosconError as error:
        raise PosconError(f"{where}: {error}") from error


def located(told: DataSettings, folder: Path | str | None, option: str) -> DataSettings:
    """Put the folder of the command line into the data, else keep the plan's, else phantoms.

    Raises:
        PosconError: nothing names a folder, or the folder does not exist.
    """
    if folder is None and told.folder is None:
        if told.phantom is None:
            raise PosconError(f"the plan names no folder of data: say with {option} where it is")
        return told
    place = Path(str(folder if folder is not None else told.folder)).resolve()
    if not is_dataset(place):
        raise PosconError(f"{option} {place}: no such folder")
    return told.model_copy(update={"folder": str(place), "phantom": None})


def scans_of(data: DataSettings, store: Path) -> Path:
    """The folder of the scans. Phantoms lie beside their store, so that both can be moved."""
    return store.with_name(f"{store.name}-scans") if data.folder is None else Path(data.folder)


def prepare_once(store: Path, data: DataSettings, name: str, out: Path) -> None:
    """Prepare a store, unless it is there. A comparison keeps the data that its runs began with.

    Args:
        store: folder of the store.
        data: what to prepare.
        name: name of the data in the plan.
        out: folder of the comparison. Its ``data.json`` holds the hashes of the stored cases,
            of the source files, and of the files that say what these are.

    Raises:
        PosconError: the comparison was begun with other data; or the store, the scans, or a
            file that says what they are has changed since.
    """
    folder, path = scans_of(data, store), out / DATA
    if data.phantom is not None:
        console.print(
            f"note: {name}: {data.phantom.subjects} synthetic scans; --{name.replace('_', '-')} "
            "names a folder of real ones",
            soft_wrap=True,
            markup=False,
        )
    if data.phantom is not None and not folder.is_dir():
        with complete(folder) as part:
            write_phantom(part, **data.phantom.model_dump())
    known = read_json(path) if path.is_file() else {}
    # a folder may move, and a comparison begun by an earlier version knows no ignore_label
    unsaid = {"folder"} if data.ignore_label else {"folder", "ignore_label"}
    about = data.model_dump(mode="json", exclude=unsaid)
    began = known.get(name, {})
    same = began.get("data", about) == about
    refused = (store / MANIFEST).is_file() and not (out / SCHEDULE).is_file()
    if same and refused and _corrected(store, folder, data, began):
        shutil.rmtree(store)
    if not (store / MANIFEST).is_file():
        write_json(path, {**known, name: {"data": about}})  # known also if prepare is killed
        prepare(
            folder,
            store,
            layout=data.layout,
            labels=data.labels,
            ignore_label=data.ignore_label,
            channel=data.channel,
            reverse=data.reverse,
            recipe={"prepare": data.prepare},
        )
        began = {}
    elif not same:
        change = ", ".join(
            f"{key} {began['data'].get(key)} then, {value} now"
            for key, value in about.items()
            if began["data"].get(key) != value
        )
        raise PosconError(f"{out}: was begun with other {name} ({change}); choose another folder")
    cases = Store(store).cases
    images = {channel.source for case in cases for channel in case.channels}
    files = images | {case.source_label for case in cases if case.source_label}
    stamps, home = began.get("scans", {}), folder_of_paths(folder)
    now: dict[str, dict[str, Any]] = {
        "cases": {case.id: case.stored_sha256 for case in cases},
        "scans": {file: _stamp(home / file, stamps.get(file)) for file in sorted(files)},
    }
    for what, place in (("cases", store), ("scans", folder)):
        then = began.get(what, now[what])
        changed = [
            key
            for key in sorted({*then, *now[what]})
            if _content(then.get(key)) != _content(now[what].get(key))
        ]
        if changed:
            raise PosconError(
                f"{place}: has changed since {out} was begun ({len(changed)} {what}: "
                f"{', '.join(changed[:5])}); put it back, or choose another folder"
            )
    named = _named_files(folder, data)
    then = began.get("files", {})
    stated = {key: _stamp(file, then.get(key)) for key, file in named.items()}
    for key in sorted({*then, *stated}) if "files" in began else ():
        file = named.get(key, home / key)
        if _content(then.get(key)) != _content(stated.get(key)):
            raise PosconError(
                f"{file}: has changed since {out} was begun; put it back, or choose another folder"
            )
    write_json(path, {**known, name: {"data": about, **now, "files": stated}})


def _corrected(store: Path, folder: Path, data: DataSettings, began: dict[str, Any]) -> bool:
    """Whether scans, label maps or what says what they are have changed since the preparation.

    Args:
        store: the prepared store.
        folder: the scans.
        data: how they are read.
        began: what ``data.json`` knows of them.
    """
    now = read_dataset(folder, data.layout, channel=data.channel).cases
    then = Store(store).cases
    if {case.id: case.label is not None for case in now} != {c.id: c.labelled for c in then}:
        return True
    home, named = folder_of_paths(folder), _named_files(folder, data)
    files = {key: home / key for key in began.get("scans", {})} | named
    known = {**began.get("scans", {}), **began.get("files", {})}
    return any(
        _content(known.get(key)) != _content(_stamp(files.get(key, home / key), known.get(key)))
        for key in {*files, *known}
    )


def _named_files(folder: Path, data: DataSettings) -> dict[str, Path]:
    """The files that say what the scans and their labels are, by a name that moves with them."""
    is_table = folder_of_paths(folder) != folder
    files = [folder] if is_table else [file for name in _STATING for file in folder.glob(name)]
    reverse = {} if data.reverse is None else {"reverse": Path(data.reverse)}
    return {**{file.name: file for file in files}, **reverse}


def _stamp(path: Path, known: list[Any] | None) -> list[Any] | None:
    """Size, time of change and hash of a file. The hash is kept while the other two are equal."""
    if not path.is_file():
        return None
    status = path.stat()
    if known is not None and known[:2] == [status.st_size, status.st_mtime_ns]:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [status.st_size, status.st_mtime_ns, digest]


def _content(known: Any) -> Any:
    """The part of an entry that depends on the content alone: its hash."""
    return known[-1] if isinstance(known, list) else known
