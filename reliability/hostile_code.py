"""Files with code in them: every file that poscon reads, as a pickle or YAML that runs code.

The code writes a marker file. Each file must be refused, and the marker must not be there.
"""

import argparse
import io
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples import make_runs
from outcomes import Promise, finish
from readers import Reader, all_readers

from poscon.errors import PosconError
from poscon.progress import silent
from poscon.settings import resolve
from poscon.training.pretrain_settings import PretrainSettings


class Code:
    """What a pickle of it does when it is read: it writes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def hostile_contents(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Contents that run code, if a reader lets them, with the name of each kind."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle {protocol}", pickle.dumps(Code(marker), protocol)
    contents = {"alone": Code(marker), "in a dictionary": {"state_dict": Code(marker)}}
    for name, content in contents.items():
        for form, new in (("new", True), ("old", False)):
            saved = io.BytesIO()
            torch.save(content, saved, _use_new_zipfile_serialization=new)
            yield f"torch, {form}, {name}", saved.getvalue()
    array = np.empty(1, object)
    array[0] = Code(marker)
    for name, save in (("npy", np.save), ("npz", np.savez)):
        stored = io.BytesIO()
        save(stored, array)
        yield name, stored.getvalue()
    scripted = io.BytesIO()
    with zipfile.ZipFile(scripted, "w") as archive:  # as torch.jit and torch.package write it
        archive.writestr("model/data.pkl", pickle.dumps(Code(marker)))
        archive.writestr("model/constants.pkl", pickle.dumps(Code(marker)))
        archive.writestr("model/version", "3\n")
        archive.writestr("model/code/__torch__.py", f"open({str(marker)!r}, 'w')\n")
    yield "torch.jit", scripted.getvalue()
    for tag in ("object/apply", "object/new", "name"):
        text = (
            f"!!python/{tag}:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]"
        )
        for key in ("pretrain", "finetune", "settings", "name", "data"):
            yield f"YAML {tag} {key}", f"{key}: {text}\n".encode()
    yield "Python", f"open({str(marker)!r}, 'w')\n".encode()


def trial(folder: Path, readers: Sequence[Reader]) -> list[Promise]:
    """Give every content to every reader, and YAML to ``--set``."""
    marker = folder / "marker"
    code = Promise("code in a file is not run")
    refused = Promise("a file with code is refused in one line, or holds nothing that is read")
    for reader in readers:
        for kind, content in hostile_contents(marker):
            reader.place.write_bytes(content)
            with silent():
                error = _error_of(partial(reader.read, reader.place))
            code.note(not marker.exists(), f"{reader.name}: {kind}")
            refused.note(error is None or isinstance(error, PosconError), f"{reader.name}: {kind}")
            marker.unlink(missing_ok=True)
        reader.place.write_bytes(reader.seeds[0])
    for kind, content in hostile_contents(marker):
        value = content.decode("latin-1").partition(": ")[2]
        setting = f"epochs={value}"
        error = _error_of(partial(resolve, PretrainSettings, "pretrain", None, setting))
        code.note(not marker.exists(), f"--set: {kind}")
        refused.note(isinstance(error, PosconError), f"--set: {kind}: {error!r}")
    return [code, refused]


def _error_of(act: Callable[[], object]) -> BaseException | None:
    try:
        act()
    except Exception as error:
        return error
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="has no effect: nothing is drawn")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        finish(trial(folder, all_readers(folder, *make_runs(folder))))


if __name__ == "__main__":
    main()
