"""Run folders hold what a training writes, and what it needs to resume.

::

    RUN/
        config.yaml              every setting, resolved
        cases.json               every case seen, its role and the SHA-256 of its pixels
        metrics.csv              one row per checkpoint
        checkpoints/last.ckpt    the state of the training, for --resume
        tensorboard/             or mlruns/ or wandb/, by the logger
        logger.json              the run's id at MLflow or Weights & Biases
        encoder.safetensors      after pre-training: the result
        decoder.safetensors      after pre-training, if the method trains the decoder
        diagnostics.png          after pre-training: how it went
        model.safetensors        after fine-tuning: the result
"""

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.structs import asdict, replace

from poscon.errors import PosconError
from poscon.files import complete, holds_nothing, parse_json, read_csv, whole_number, write_text
from poscon.progress import console
from poscon.settings import S, parse_yaml, validate
from poscon.store.manifest import (
    MANIFEST,
    AxisRecord,
    CaseRecord,
    refuse_inside_store,
    write_json,
)
from poscon.store.slices import with_slices
from poscon.store.store import Store
from poscon.store.training_range import TrainingRange
from poscon.version import __version__
from poscon.volumes.ranges import Range

CHECKPOINT = "last.ckpt"
MODEL = "model.safetensors"
PREDICTIONS = "predictions"
"""Folder of label maps in a run of a comparison."""
RESULTS = "results.csv"
"""What ``poscon evaluate`` says of them."""


_WORDS = {"32": "float32", "bf16": "bfloat16"}
"""Names of precisions, for messages."""


class _Entry(msgspec.Struct, frozen=True):
    """An entry of ``cases.json`` of the run's own command; it may say more."""

    id: str
    stored_sha256: str
    role: str
    pixels_sha256: str = ""
    labelled_slices: tuple[int, ...] | None = None
    ranges: dict[str, Range] = {}
    axis: AxisRecord | None = None


def refuse_no_run(folder: Path, command: str) -> None:
    """Refuse a folder with nothing that a run writes, such as a store or a folder of scans.

    Args:
        folder: the folder.
        command: the command whose run is asked for, for the message.

    Raises:
        PosconError: it is one.
    """
    written = ("config.yaml", MODEL, part_file(folder, "encoder").name)
    if not any((folder / name).is_file() for name in written):
        kind = "a store" if (folder / MANIFEST).is_file() else "a folder"
        raise PosconError(f"{folder}: {kind}, and no run; give that of a run of poscon {command}")


def part_file(run: Path, part: str) -> Path:
    """The file of a part of the network, ``encoder`` or ``decoder``, in a pre-training run."""
    return run / f"{part}.safetensors"


def inputs_record(store: Store, cases: Sequence[CaseRecord], size: int | str) -> dict[str, Any]:
    """What the file of a network says of its inputs. A scan can be prepared by it.

    Args:
        store: store that the network was trained on.
        cases: cases that it was trained on.
        size: extent of the training crops in pixels.
    """
    return {
        "size": size,
        "preparation": store.manifest.preparation.model_dump(mode="json"),
        "training": TrainingRange.of(store, cases).model_dump(mode="json"),
    }


def say_mixtures(store: Store, cases: Sequence[CaseRecord], *, positions: bool) -> None:
    """Print notes on stderr: several planes or modalities, volumes that run the other way.

    Args:
        store: the store.
        cases: the cases to train on.
        positions: whether the training uses positions that do not know of it.
    """
    against = [case.id for case in cases if case.axis is not None and case.axis.against]
    texts = list(TrainingRange.of(store, cases).mixtures())
    if against:
        texts.append(
            f"{len(against)} volume(s) run against the others, such as {against[0]}; turn them "
            f"with poscon prepare --reverse{', or use position=learned' if positions else ''}"
        )
    for text in texts:
        console.print(f"note: {text}", soft_wrap=True, markup=False)


def _machine(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a training computes with here: ``auto`` means different things on two machines."""
    import torch  # commands that only look at a run do without it

    from poscon.training.inference import choose_device, choose_precision

    device = choose_device(settings["device"])
    precision = choose_precision(settings["precision"], device)
    return {"device": device, "precision": precision, "torch": str(torch.__version__)}


class RunFolder:
    """A run's folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.cases_path = self.path / "cases.json"
        self.metrics_path = self.path / "metrics.csv"
        self.logger_path = self.path / "logger.json"
        self.checkpoint_folder = self.path / "checkpoints"
        self.checkpoint_path = self.checkpoint_folder / CHECKPOINT

    def begin(
        self,
        command: str,
        store: Store,
        settings: dict[str, Any],
        cases: dict[str, list[CaseRecord]],
        earlier: Sequence[dict[str, Any]] = (),
        **inputs: Any,
    ) -> None:
        """Create the folder of a new run.

        Args:
            command: ``pretrain`` or ``finetune``.
            store: store to train on.
            settings: every setting, resolved.
            cases: the cases by role.
            earlier: entries of the ``cases.json`` of the run that this one starts from. This
                run's network has seen these cases too.
            inputs: further inputs to record.

        Raises:
            PosconError: the folder is not empty, or it cannot be written.
        """
        self.check_new()
        roles = [
            {
                "id": case.id,
                "subject": case.subject,
                "role": role,
                "by": command,
                "pixels_sha256": case.pixels_sha256,
                "stored_sha256": case.stored_sha256,
                **(
                    {"labelled_slices": list(case.labelled_slices)}
                    if role == "labelled" and case.labelled_slices is not None
                    else {}
                ),
                **(
                    {"ranges": dict(case.ranges)}
                    if role in ("labelled", "unlabelled") and case.ranges
                    else {}
                ),
                **({} if case.axis is None else {"axis": asdict(case.axis)}),
            }
            for role, members in cases.items()
            for case in members
        ]
        config = {
            "command": command,
            "poscon_version": __version__,
            "store": str(store.path),
            "inputs": inputs,
            "settings": settings,
            "began_on": _machine(settings),
        }
        # it is put in place last: a folder with a config.yaml is a complete start
        with complete(self.config_path) as part:
            write_json(part.with_name(self.cases_path.name), [*roles, *earlier])
            part.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        self.checkpoint_folder.mkdir()

    @property
    def is_new(self) -> bool:
        """Whether there is nothing in the folder, or what a killed start left."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and (holds_nothing(self.path) or self._half_begun())

    def _half_begun(self) -> bool:
        """Whether there are the cases of a run alone: it was killed before its configuration."""
        try:
            entries = parse_json(self.cases_path.read_bytes())
            ours = {"role", "by", "stored_sha256"}
            return holds_nothing(self.path, besides=self.cases_path.name) and all(
                ours <= entry.keys() for entry in entries
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def check_new(self) -> None:
        """Refuse a folder that is not empty, or lies in a store.

        Raises:
            PosconError: it is, or does.
        """
        refuse_inside_store(self.path)
        if not self.is_new:
            raise PosconError(
                f"{self.path}: exists already; choose another folder, or continue it with --resume"
            )

    def read_config(self) -> dict[str, Any]:
        """Read the run's ``config.yaml``.

        Raises:
            PosconError: the file is damaged.
        """
        try:
            text = self.config_path.read_text(encoding="utf-8")
            config = parse_yaml(text, where=str(self.config_path))
        except (UnicodeDecodeError, PosconError):
            config = None
        if (
            not isinstance(config, dict)
            or not isinstance(config.get("settings"), dict)
            or not isinstance(config.get("store"), str)
            or config.get("command") not in ("pretrain", "finetune")
        ):
            raise PosconError(f"{self.config_path}: damaged; start the run anew")
        return config

    def resume(self, command: str) -> dict[str, Any]:
        """The configuration of the run to be continued.

        Raises:
            PosconError: the folder has no run of this command.
        """
        if not self.begun:
            raise PosconError(f"{self.path}: no run to resume (no config.yaml)")
        config = self.read_config()
        if config["command"] != command:
            raise PosconError(f"{self.path}: a run of poscon {config['command']}, not {command}")
        return config

    def kept_settings(
        self, model: type[S], config: Mapping[str, Any], device: str | None = None
    ) -> S:
        """The settings of the run to be continued.

        Prints a note on stderr if they mean another precision here than where the run began.

        Args:
            model: their class.
            config: what :meth:`resume` returned.
            device: where to go on; None: as before.

        Raises:
            PosconError: the file holds a setting that cannot be used, in another version or by a
                change of the file.
        """
        elsewhere = {} if device is None else {"device": device}
        try:
            chosen = validate(model, {**config["settings"], **elsewhere})
        except PosconError as error:
            raise PosconError(f"{self.config_path}: {error}") from error
        began_on = config.get("began_on")
        before = began_on.get("precision") if isinstance(began_on, dict) else None
        here = _machine(chosen.model_dump())["precision"]
        if before in ("32", "bf16") and before != here:
            console.print(
                f"note: {self.path} began in {_WORDS[before]} and goes on in {_WORDS[here]}; "
                "a machine like the first would repeat what one without an interruption does",
                soft_wrap=True,
                markup=False,
            )
        return chosen

    def resume_cases(self, command: str, store: Store) -> dict[str, list[CaseRecord]]:
        """The cases of the run to be continued, by role, as the store has them.

        Cases that only an earlier run has seen are not among them. If the run used only some
        slices of a case as labelled, only these are labelled. The ranges and the learned positions
        are those that it began with.

        Raises:
            PosconError: the store no longer has a case, or the case has changed.
        """
        by_id = {case.id: case for case in store.cases}
        cases: dict[str, list[CaseRecord]] = {}
        try:
            entries = parse_json(self.cases_path.read_bytes())
            own = [entry for entry in entries if entry["by"] == command]
            listed = msgspec.convert(own, list[_Entry])
        except (OSError, ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
            raise PosconError(f"{self.cases_path}: damaged; start the run anew") from error
        for entry in listed:
            case = by_id.get(entry.id)
            if case is None or case.stored_sha256 != entry.stored_sha256:
                if case is not None and case.pixels_sha256 == entry.pixels_sha256:
                    raise PosconError(
                        f"{store.path}: case {entry.id!r} has other labels than {self.path} was "
                        "started with; start a new run"
                    )
                raise PosconError(
                    f"{store.path}: case {entry.id!r} is not what {self.path} was started with; "
                    "resume with the same store or start a new run"
                )
            slices = entry.labelled_slices
            if not set(slices or ()) <= set(case.labelled_slice_numbers.tolist()) or (
                not entry.ranges.keys() <= set(store.class_names)
            ):
                raise PosconError(f"{self.cases_path}: damaged; start the run anew")
            if slices is not None:
                case = with_slices(store, case, slices)
            case = replace(case, ranges=entry.ranges, axis=entry.axis)
            cases.setdefault(entry.role, []).append(case)
        return cases

    def discard_if_nothing_done(self) -> None:
        """Remove the folder of a run that failed before its first checkpoint."""
        if self.checkpoint is None:
            shutil.rmtree(self.path)

    def is_finished(self, result: Path) -> bool:
        """Whether nothing is left to be resumed: the result is there, and no checkpoint.

        Who needs room may have removed that. A note says that the run is finished.

        Args:
            result: the file that the run writes last.
        """
        finished = self.checkpoint is None and result.is_file()
        if finished:
            console.print(
                f"note: {self.path} is finished; there is nothing to resume",
                soft_wrap=True,
                markup=False,
            )
        return finished

    @property
    def begun(self) -> bool:
        """Whether a run has been started here."""
        return self.config_path.is_file()

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint, if one has been written."""
        return self.checkpoint_path if self.checkpoint_path.is_file() else None


class MetricsFile:
    """``metrics.csv``: a row for each chunk. A resumed run continues it after its checkpoint.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        """The rows of the file, as text. Every field is a number, or empty.

        Raises:
            PosconError: the file is damaged.
        """
        if not self.path.is_file():
            return []
        rows = read_csv(self.path, ("step",))
        for number, row in enumerate(rows, start=1):
            if whole_number(row["step"]) is None or not all(map(_is_number, row.values())):
                raise PosconError(f"{self.path}: damaged (row {number} has no numbers); remove it")
        return rows

    def forget_after(self, step: int) -> None:
        """Remove the rows of steps that will be done again."""
        rows = self.rows()
        kept = [row for row in rows if int(row["step"]) <= step]
        if not kept:
            self.path.unlink(missing_ok=True)
        elif len(kept) < len(rows):
            self._write(kept)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row. A new column is empty in the rows before it.

        The rows before it are copied as they are, unless there is a new column: a long training
        has thousands of them, and to understand them all takes longer than its steps.
        """
        text = self.path.read_bytes().decode("utf-8") if self.path.is_file() else ""
        columns = next(csv.reader(text.splitlines()[:1]), [])
        if not (text.endswith("\n") and row.keys() <= set(columns)):
            self._write([*self.rows(), row])
            return
        line = io.StringIO()
        csv.DictWriter(line, columns).writerow(row)
        write_text(self.path, text + line.getvalue())

    def _write(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


def _is_number(text: str) -> bool:
    """Whether a field is a number, or empty."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def check_same_cases(
    run: Path, kept: Mapping[str, Sequence[CaseRecord]], told: Mapping[str, Sequence[CaseRecord]]
) -> None:
    """Refuse a selection of cases that is not that of a run that goes on.

    Args:
        run: folder of the run.
        kept: its cases by role.
        told: the cases by role as a caller selects them.

    Raises:
        PosconError: a role has other cases, or other labelled slices.
    """
    for role in {**kept, **told}:
        ours, theirs = (
            {(case.id, case.labelled_slices) for case in cases.get(role, ())}
            for cases in (kept, told)
        )
        if ours != theirs:
            raise PosconError(
                f"{run}: was begun with other {role} cases than these options select; leave them "
                "out or start a new run"
            )
