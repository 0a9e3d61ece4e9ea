"""``predictions.json`` beside label maps: how each was made, and which scans could not be used."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.files import parse_json, write_text

PREDICTIONS_FILE = "predictions.json"
_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError)


class PredictionsFile:
    """The ``predictions.json`` of a folder of label maps.

    Args:
        folder: the folder; the file need not be there.

    Attributes:
        model_sha256: hash of the model's file that made the label maps; None: there are none.
        cases: what is known of each label map, by its name.
        failed: what was wrong with a scan, by the name of its case.

    Raises:
        PosconError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PREDICTIONS_FILE
        self.model_sha256: str | None = None
        self.cases: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        if not self.path.is_file():
            return
        try:
            content = parse_json(self.path.read_bytes())
            self.model_sha256 = str(content["model_sha256"])
            self.cases = {name: dict(facts) for name, facts in content["cases"].items()}
            self.failed = dict(content["failed"])
            for name in self.cases:
                self.views(name)
                self.emptied(name)
                self.stated_spacing(name)
        except _DAMAGED as error:
            raise PosconError(
                f"{self.path}: damaged; remove it together with the label maps"
            ) from error

    def begin(self, model_sha256: str) -> None:
        """Begin, or go on, with the label maps of a model.

        Raises:
            PosconError: the folder has label maps of another model.
        """
        if self.cases and self.model_sha256 != model_sha256:
            raise PosconError(
                f"{self.path}: the label maps that are there were made by another model; choose "
                "another output"
            )
        self.model_sha256 = model_sha256

    def done(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write what is known of a label map that is about to be put into the folder."""
        self.cases[name] = dict(facts)
        self._texts.pop(name, None)
        self.failed.pop(name, None)
        self._write()

    def forget_failures(self, names: Collection[str]) -> None:
        """Forget what was wrong with scans that have other names: they are there no longer."""
        gone = self.failed.keys() - set(names)
        if gone:
            self.failed = {name: why for name, why in self.failed.items() if name not in gone}
            self._write()

    def could_not(self, name: str, reason: str) -> None:
        """Write that a scan could not be segmented."""
        self.failed[name] = reason
        self._write()

    def views(self, name: str) -> int:
        """How many views of a slice a label map is the mean of; older ones are of one."""
        return int(self.cases[name].get("views", 1))

    def emptied(self, name: str) -> dict[str, list[int]]:
        """The ranges outside which classes of a label map were removed; none in older files."""
        return dict(self.cases[name].get("emptied_outside", {}))

    def stated_spacing(self, name: str) -> list[float] | None:
        """The voxel size in mm along the file's axes that ``--source-spacing`` gave, or None."""
        stated = self.cases[name].get("source_spacing_mm")
        return None if stated is None else [float(mm) for mm in stated]

    def _write(self) -> None:
        content = {"model_sha256": self.model_sha256, "cases": {}, "failed": self.failed}
        text = json.dumps(content, indent=1) + "\n"
        if self.cases:
            entries = ",\n".join(map(self._entry, self.cases))
            text = text.replace('"cases": {}', f'"cases": {{\n{entries}\n }}', 1)
        write_text(self.path, text)

    def _entry(self, name: str) -> str:
        """The entry of a label map in the file. It is made once: there may be thousands of them."""
        if name not in self._texts:
            facts = json.dumps(self.cases[name], indent=1).replace("\n", "\n  ")
            self._texts[name] = f"  {json.dumps(name)}: {facts}"
        return self._texts[name]
