"""Where a fine-tuning starts: the weights of a pre-training run, or those of a file."""

from pathlib import Path
from typing import Any, Literal

from poscon.errors import PosconError
from poscon.leakage import read_entries
from poscon.networks.checkpoints import PARTS, Checkpoint, read_checkpoint
from poscon.networks.weights import network_settings, read_weights
from poscon.training.run import MODEL, part_file, refuse_no_run


def read_start(init: Path, init_parts: Literal["all", "encoder"]) -> Checkpoint:
    """The weights to start from.

    Args:
        init: folder of a pre-training run, or a file, see
            :func:`poscon.networks.checkpoints.read_checkpoint`.
        init_parts: which parts are taken.

    Raises:
        PosconError: there are no weights that can be used.
    """
    if init.is_dir():
        return _of_run(init, init_parts)
    if not init.is_file():
        raise PosconError(
            f"--init {init}: no such folder or file; give the folder of a pre-training run, or a "
            "file of weights"
        )
    found = read_checkpoint(init)
    if init_parts == "all":
        return found
    left = [
        f"{part}.{name}" for part in found.parts if part != "encoder" for name in found.parts[part]
    ]
    encoder = {"encoder": found.parts["encoder"]}
    return Checkpoint(found.path, found.settings, encoder, (*found.unused, *left), found.about)


def seen_before(init: Path) -> list[dict[str, Any]]:
    """The scans that the weights have seen: those of the ``cases.json`` in or beside ``init``.

    What a fine-tuning has used is marked, because the next one has a ``by`` of its own.

    Raises:
        PosconError: the file is damaged.
    """
    entries = read_entries(init if init.is_dir() else init.parent)
    return [
        {**entry, "by": "earlier finetune"} if entry.get("by") == "finetune" else entry
        for entry in entries
    ]


def _of_run(run: Path, init_parts: str) -> Checkpoint:
    """The parts that a pre-training run has trained.

    Raises:
        PosconError: it is another run, or a file is missing or damaged.
    """
    refuse_no_run(run, "pretrain")
    if (run / MODEL).is_file():
        raise PosconError(f"--init {run}: a fine-tuning run; give one of poscon pretrain")
    path = part_file(run, "encoder")
    encoder, about = read_weights(path)
    parts = {"encoder": encoder}
    if init_parts == "all":
        stated = about.get("parts", [])
        if not isinstance(stated, list) or not all(part in PARTS for part in stated):
            raise PosconError(f"{path}: damaged (its parts are {stated!r:.80}); train it again")
        for part in stated:
            parts[part], _ = read_weights(part_file(run, part))
    return Checkpoint(path, network_settings(about, path), parts, (), about)
