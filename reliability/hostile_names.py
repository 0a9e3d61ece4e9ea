"""Hostile names in data sets, stores and runs: nothing is written outside the target folder.

Names of scans, subjects, classes, channels, cases and parts have ``..``, absolute paths, escapes of
a terminal, formulas, look-alikes of a slash, the names of devices and 300 letters. Each data set is
prepared, its cases are listed in tables, and every name in a store or a run is replaced by each
hostile one. A folder around the target is compared before and after.
"""

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from examples import make_runs
from outcomes import Promise, finish

from poscon.commands.inspect import inspect
from poscon.commands.label import label
from poscon.commands.prepare import prepare
from poscon.errors import COMMANDS, PosconError
from poscon.files import FORMULA
from poscon.progress import silent
from poscon.store.store import Store
from poscon.training.start import read_start

NAMES = (
    *("..", ".", "", "../../sentinel", "/etc", "a/../../b", "..\\..\\b", "C:\\b", "a\0b", "a\nb"),
    *("\x1b[31mred", "\x9b2J", "\u202eabc", "a\u2215b", "a\uff0fb", "..\u2044b", "CON", "nul.txt"),
    *("=1+1", "+1", "-1", "@sum", "\t=1", " =1", "x" * 300, "<script>", "$(id)", "%s", "a,b", '"'),
)


def data_sets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Data sets with a hostile name each: of a file, a subject, a class or a channel."""
    volume = np.random.default_rng(0).integers(0, 99, (6, 6, 4)).astype(np.int16)
    for number, name in enumerate(NAMES):
        place = folder / f"table{number}"
        place.mkdir()
        nib.save(nib.Nifti1Image(volume, np.eye(4)), place / "a.nii")
        with (place / "t.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "subject"), ("a.nii", name)])
        yield f"subject {name!r}", place / "t.csv"
        place = folder / f"class{number}"
        for part in ("imagesTr", "labelsTr"):
            (place / part).mkdir(parents=True)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), place / "imagesTr" / "a_0000.nii")
        labels = (volume > 50).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), place / "labelsTr" / "a.nii")
        for what, described in (
            ("class", {"channel_names": {"0": "CT"}, "labels": {"background": 0, name: 1}}),
            ("channel", {"channel_names": {"0": name}, "labels": {"background": 0, "b": 1}}),
        ):
            text = json.dumps({**described, "file_ending": ".nii"})
            (place / "dataset.json").write_text(text, encoding="utf-8")
            yield f"{what} {name!r}", place
        place = folder / f"file{number}"
        place.mkdir()
        try:
            nib.save(nib.Nifti1Image(volume, np.eye(4)), place / f"{name}.nii")
        except (OSError, ValueError, nib.filebasedimages.ImageFileError):
            continue  # no file has this name
        yield f"file {name!r}", place


def tables_of(store: Path) -> Iterator[str]:
    """Every cell of the table of cases of a store."""
    inspect(store, out=store.with_name("sheet.png"))
    table = store.with_name("sheet_cases.csv")
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            yield from row


def trial(folder: Path, store: Path, pretrained: Path) -> list[Promise]:
    """Prepare the data sets, and open stores and runs with hostile names."""
    inside = Promise("nothing is written outside the target")
    cells = Promise("no cell of a table is a formula, or commands a terminal")
    refused = Promise("a hostile name is made harmless, or refused in one line")
    (folder / "target").mkdir()
    sources = folder / "sources"
    sources.mkdir()
    for what, source in data_sets(sources):
        before = _snapshot(folder)
        target = folder / "target" / "store"
        try:
            with silent():
                prepare(source, target, processes=1)
                found = list(tables_of(target))
            odd = [cell for cell in found if cell[:1] in tuple(FORMULA) or COMMANDS.search(cell)]
            odd = [cell for cell in odd if not _is_number(cell)]
            cells.note(not odd, f"{what}: {odd[:3]}")
            refused.note(True, what)
        except PosconError:
            refused.note(True, what)
        except Exception as error:
            refused.note(False, f"{what}: {error!r}")
        shutil.rmtree(folder / "target")
        (folder / "target").mkdir()
        inside.note(_snapshot(folder) == before, what)
    _stores(folder, store, inside, refused)
    weights = folder / "run"
    shutil.copytree(pretrained, weights)
    for name in NAMES:
        _hostile_parts(weights / "encoder.safetensors", name)
        try:
            read_start(weights, "all")
            refused.note(False, f"part {name!r}")
        except PosconError:
            refused.note(True, name)
    return [inside, cells, refused]


def _stores(folder: Path, store: Path, inside: Promise, refused: Promise) -> None:
    """A store in which a case, its label map or its subject has a hostile name."""
    copy = folder / "copy"
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    victim = folder / "label-0.npy"
    victim.write_bytes(b"0")
    for name in (*NAMES, "../..", "../../../label-0.npy"):
        for key in ("id", "label_file", "subject"):
            changed = json.loads(json.dumps(manifest))
            changed["cases"][0][key] = name
            (copy / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")
            before = _snapshot(folder)
            try:
                case = Store(copy).cases[0]
                with silent():
                    label(copy, remove=[case.id])
                refused.note(key == "subject" or name in ("CON", "nul.txt"), f"{key} {name!r}")
            except PosconError:
                refused.note(True, name)
            except Exception as error:
                refused.note(False, f"{key} {name!r}: {error!r}")
            after = {p: n for p, n in _snapshot(folder).items() if not p.startswith(str(copy))}
            kept = {p: n for p, n in before.items() if not p.startswith(str(copy))}
            inside.note(after == kept, f"{key} {name!r}")


def _hostile_parts(path: Path, name: str) -> None:
    """Let the weights of a run name a part of the network by a hostile name."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["parts"] = json.dumps(["encoder", name])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def _snapshot(folder: Path) -> dict[str, int]:
    """Every file around the target, and its size."""
    target = folder / "target"
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_relative_to(target))
    return {str(path): path.stat().st_size for path in files}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "made").mkdir()
        _, store, pretrained, _ = make_runs(folder / "made")
        (folder / "trial").mkdir()
        finish(trial(folder / "trial", store, pretrained))


if __name__ == "__main__":
    main()
