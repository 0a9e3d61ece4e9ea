"""The table of what the page loads: its own files, the list of cases, and their volumes."""

import gzip
import json
from dataclasses import asdict
from functools import cache, partial
from importlib.resources import files
from typing import Any

from poscon.pictures.contact_sheet import COLOURS
from poscon.viewer.results import mean_dice
from poscon.viewer.server import Resource
from poscon.viewer.shown import Collection, Shown
from poscon.viewer.volume import class_file, image_file
from poscon.volumes.case import IGNORE

PAGE = {
    "": ("text/html", "index.html"),
    "view.css": ("text/css", "view.css"),
    "view.js": ("text/javascript", "view.js"),
    "niivue.js": ("text/javascript", "niivue.umd.js.gz"),
}
"""The files of the page in the folder ``page``, by the name under which they are served."""
_VOLUME, _JSON = "application/octet-stream", "application/json"


def resources(collection: Collection) -> dict[str, Resource]:
    """Everything that is served for a collection, by name."""
    table = {name: Resource(kind, partial(page_file, file)) for name, (kind, file) in PAGE.items()}
    listed = []
    for number, case in enumerate(collection.cases):
        served = _of_case(f"case-{number}", case)
        table |= served
        listed.append(_entry(case, list(served), collection))
    content = {
        "title": collection.title,
        "colours": COLOURS,
        "ignore": IGNORE,
        "classes": collection.classes,
        "cases": listed,
    }
    return {**table, "cases.json": Resource(_JSON, partial(_json, content))}


@cache
def page_file(name: str) -> bytes:
    """The bytes of a file of the page; those of a ``.gz`` are unpacked."""
    content = (files("poscon") / "viewer" / "page" / name).read_bytes()
    return gzip.decompress(content) if name.endswith(".gz") else content


def _of_case(name: str, case: Shown) -> dict[str, Resource]:
    """What is served of a case: where its slices lie, its channels, reference and prediction."""
    served = {f"{name}-place.json": Resource(_JSON, lambda: _json(asdict(case.place())))}
    for number in range(len(case.channels)):
        served[f"{name}-channel-{number}.nii"] = Resource(_VOLUME, partial(_channel, case, number))
    if case.has_reference:
        served[f"{name}-reference.nii"] = Resource(_VOLUME, lambda: class_file(case.reference()))
    if case.has_prediction:
        served[f"{name}-prediction.nii"] = Resource(_VOLUME, lambda: class_file(case.prediction()))
    return served


def _channel(case: Shown, number: int) -> bytes:
    return image_file(case.image(number))


def _entry(case: Shown, names: list[str], collection: Collection) -> dict[str, Any]:
    """What the list says of a case. ``files`` are names of resources."""
    dice = collection.dice.get(case.id, {})
    parts = {name.rsplit(".")[0].split("-", 2)[2]: name for name in names}
    return {
        "id": case.id,
        "group": case.group,
        "dice": dice,
        "mean_dice": mean_dice(dice) if dice else None,
        "channels": [
            {"name": channel, "file": parts[f"channel-{number}"]}
            for number, channel in enumerate(case.channels)
        ],
        "files": {name: parts.get(name) for name in ("place", "reference", "prediction")},
    }


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
