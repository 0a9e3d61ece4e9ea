"""The data of a comparison: prepared once, and found to be the same ever after."""

import hashlib
from pathlib import Path
from typing import Any

from poscon.commands.prepare import prepare
from poscon.comparison.plan import DataSettings, Plan, read_plan
from poscon.errors import PosconError
from poscon.files import complete, read_json
from poscon.settings import GivenSettings
from poscon.store.store import MANIFEST, Store, write_json
from poscon.volumes.phantom import write_phantom

DATA = "data.json"


def plan_with_data(
    plan: str,
    settings: GivenSettings,
    data: Path | str | None,
    pretrain_data: Path | str | None,
) -> Plan:
    """A plan with the folders of its data.

    Args:
        plan: name or file of the plan.
        settings: of the caller, over the plan's.
        data: folder of the data to fine-tune and test on; None: the plan's.
        pretrain_data: of a transfer, folder of the data to pre-train on; None: the plan's.

    Raises:
        PosconError: the plan cannot be used, or a folder is not there or has no effect.
    """
    read = read_plan(str(plan), settings)
    if pretrain_data is not None and read.pretrain_data is None:
        raise PosconError(f"--pretrain-data: no effect, plan {plan} is no transfer")
    found = {"data": located(read.data, data, "--data")}
    if read.pretrain_data is not None:
        found["pretrain_data"] = located(read.pretrain_data, pretrain_data, "--pretrain-data")
    return read.model_copy(update=found)


def located(told: DataSettings, folder: Path | str | None, option: str) -> DataSettings:
    """The data with its folder: that of the command line, else the plan's, else phantoms.

    Raises:
        PosconError: none of these, or no such folder.
    """
    if folder is None and told.folder is None:
        if told.phantom is None:
            raise PosconError(f"the plan names no folder of data: say with {option} where it is")
        return told
    place = Path(str(folder if folder is not None else told.folder)).resolve()
    if not place.is_dir():
        raise PosconError(f"{option} {place}: no such folder")
    return told.model_copy(update={"folder": str(place), "phantom": None})


def scans_of(data: DataSettings, store: Path) -> Path:
    """Where the scans are; phantoms are beside their store, so that all of it can be moved."""
    return store.with_name(f"{store.name}-scans") if data.folder is None else Path(data.folder)


def prepare_once(store: Path, data: DataSettings, name: str, out: Path) -> None:
    """Prepare a store, unless it is there; a comparison stays with the data that it began with.

    Args:
        store: folder of the store.
        data: what to prepare.
        name: of the data in the plan.
        out: folder of the comparison, whose ``data.json`` knows the hashes of stored cases and of
            source files.

    Raises:
        PosconError: it was begun with other data, or store or scans have changed since.
    """
    folder, path = scans_of(data, store), out / DATA
    if data.phantom is not None and not folder.is_dir():
        with complete(folder) as part:
            write_phantom(part, **data.phantom.model_dump())
    known = read_json(path) if path.is_file() else {}
    about = data.model_dump(mode="json", exclude={"folder"})  # a folder may move
    began = known.get(name, {})
    if not (store / MANIFEST).is_file():
        write_json(path, {**known, name: {"data": about}})  # what the store is of, if it ends here
        prepare(
            folder,
            store,
            layout=data.layout,
            labels=data.labels,
            channel=data.channel,
            reverse=data.reverse,
            recipe={"prepare": data.prepare},
        )
        began = {}
    elif began.get("data", about) != about:
        change = ", ".join(
            f"{key} {began['data'].get(key)} then, {value} now"
            for key, value in about.items()
            if began["data"].get(key) != value
        )
        raise PosconError(f"{out}: was begun with other {name} ({change}); choose another folder")
    cases = Store(store).cases
    images = {channel.source for case in cases for channel in case.channels}
    files = images | {case.source_label for case in cases if case.source_label}
    stamps = began.get("scans", {})
    now: dict[str, dict[str, Any]] = {
        "cases": {case.id: case.stored_sha256 for case in cases},
        "scans": {file: _stamp(folder / file, stamps.get(file)) for file in sorted(files)},
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
    write_json(path, {**known, name: {"data": about, **now}})


def _stamp(path: Path, known: list[Any] | None) -> list[Any] | None:
    """Size, time of change and hash of a file; the hash anew only if the others have changed."""
    if not path.is_file():
        return None
    status = path.stat()
    if known is not None and known[:2] == [status.st_size, status.st_mtime_ns]:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [status.st_size, status.st_mtime_ns, digest]


def _content(known: Any) -> Any:
    """What of an entry tells the content: a hash."""
    return known[-1] if isinstance(known, list) else known
