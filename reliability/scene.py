"""A small piece of work for every command that writes, and what it should have written."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from commandline import Outcome, poscon

NETWORK = {"width": 2, "levels": 2}
TINY = [f"-snetwork.{key}={value}" for key, value in NETWORK.items()]
TINY += ["-ssize=32", "-sbatch=16", "-sprecision=32"]
PLAN: dict[str, Any] = {
    "data": {"phantom": {"subjects": 4, "seed": 3}, "prepare": {"spacing": 12.0}},
    "pretraining": ["random", "pcl"],
    "labelled": [1],
    "folds": 2,
    "size": 16,
    "precision": 32,
    "network": NETWORK,
    "pretrain": {"epochs": 1, "batch": 16},
    "finetune": {"iterations": 4, "batch": 4, "checkpoint_every": 2},
}
DEMO = {
    part: {"size": 16, "precision": 32, "network": NETWORK, **more}
    for part, more in (
        ("pretrain", {"epochs": 1, "batch": 16}),
        ("finetune", {"iterations": 3, "batch": 4}),
    )
}
PASSING = ("slices_per_second", "seconds", "memory_mib")
"""What no two runs of a command have in common."""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: its name.
        arguments: its arguments; ``TARGET`` is what it writes.
        again: the arguments that let it go on where it was, if these are others.
        inside: a folder that must lie at the target before, as the command writes into it.
    """

    name: str
    arguments: tuple[object, ...]
    again: tuple[object, ...] | None = None
    inside: Path | None = None


class Scene:
    """Scans, a store, runs, predictions: what the commands work on.

    Args:
        folder: where to make all that; it must be empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scans, self.store = folder / "scans", folder / "store"
        self.unlabelled = folder / "unlabelled"
        self.pretrained, self.finetuned = folder / "pretrained", folder / "finetuned"
        self.predictions, self.results = folder / "predictions", folder / "results.json"
        self.plan, self.recipe = folder / "plan.yaml", folder / "recipe.yaml"
        self.plan.write_text(yaml.safe_dump(PLAN))
        self.recipe.write_text(yaml.safe_dump(DEMO))
        from poscon.volumes.phantom import write_phantom

        write_phantom(self.scans, subjects=3, seed=5)
        for arguments in (
            ("prepare", self.scans, self.store, "--spacing", 6),
            ("prepare", self.scans / "imagesTr", self.unlabelled, "--spacing", 6),
            ("pretrain", self.store, self.pretrained, "--epochs", 1, *TINY),
            ("finetune", self.store, self.finetuned, *self._finetune()),
            ("predict", self.finetuned, self.scans, self.predictions),
            ("evaluate", self.predictions, self.scans, "--out", self.results),
        ):
            self.run(arguments).check(f"poscon {arguments[0]}")

    def _finetune(self) -> tuple[object, ...]:
        more = ("-siterations=4", "-sbatch=4", "-scheckpoint_every=2", "-sprecision=32")
        return ("--init", self.pretrained, "-ssize=32", *more)

    def commands(self) -> dict[str, Command]:
        """Every command that writes, by name."""
        out = "TARGET"
        resumed = (self.store, out, "--resume")
        images = self.scans / "imagesTr"
        predict = (self.finetuned, self.scans, out)
        found = [
            Command("prepare", (self.scans, out, "--spacing", 6)),
            Command("pretrain", (self.store, out, "--epochs", 2, *TINY), resumed),
            Command("finetune", (self.store, out, *self._finetune()), resumed),
            Command("predict", predict, (*predict, "--resume")),
            Command("evaluate", (self.predictions, self.scans, "--out", f"{out}/results")),
            Command("compare", (self.plan, out)),
            Command("align", (out,), inside=self.store),
            Command("suggest", (self.unlabelled, out, "--budget", 4, "--source", images)),
            Command("label", (out, self.scans / "labelsTr"), inside=self.unlabelled),
            *(
                Command(f"export {form}", (self.finetuned, out, "--to", form))
                for form in ("torch", "onnx", "monai")
            ),
            Command("inspect", (out,), inside=self.store),
            Command("report", (out,), inside=self.finetuned),
            Command("demo", ("--out", out)),
        ]
        return {command.name: command for command in found}

    def run(
        self,
        arguments: Sequence[object],
        before: Callable[[], object] | None = None,
    ) -> "Ended":
        """Run a command line in a copy of this process, with a small demo and no processes."""

        def set_up() -> None:
            stack = ExitStack()
            demo = "poscon.commands.demo."
            for name, value in (
                (f"{demo}SUBJECTS", 4),
                (f"{demo}TEST_SUBJECTS", 1),
                (f"{demo}WHOLE_SUBJECTS", 1),
                (f"{demo}RECIPE", str(self.recipe)),
            ):
                stack.enter_context(patch(name, value))
            no_processes = OSError(38, "Function not implemented")
            pool = "poscon.executors.ProcessPoolExecutor"
            stack.enter_context(patch(pool, side_effect=no_processes))
            if before is not None:
                before()

        return Ended(poscon(arguments, set_up))

    def do(
        self,
        command: Command,
        target: Path,
        before: Callable[[], object] | None = None,
        again: bool = False,
    ) -> Outcome:
        """Run a command of :meth:`commands`.

        Args:
            command: the command.
            target: what it writes.
            before: see :func:`commandline.poscon`.
            again: whether an earlier run of it was broken off.
        """
        told = command.arguments
        if again and command.again is not None and target.exists():
            told = command.again
        of_target = [
            str(target) + each[6:] if isinstance(each, str) and each.startswith("TARGET") else each
            for each in told
        ]
        return self.run([command.name.split()[0], *of_target], before).outcome

    def put(self, command: Command, target: Path) -> None:
        """Put in place what a command writes into."""
        if command.inside is not None:
            shutil.copytree(command.inside, target)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    outcome: Outcome

    def check(self, what: str) -> None:
        """Raise where it did not do its work."""
        if self.outcome.code != 0:
            raise RuntimeError(f"{what}: {self.outcome}\n{self.outcome.err}")


def content(folder: Path) -> dict[str, str]:
    """A hash of every file of a folder, without what differs each time, such as seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or "tensorboard/" in name or name.startswith("logs/"):
            continue
        found[name] = hashlib.sha256(_lasting(path)).hexdigest()
    return found


def _lasting(path: Path) -> bytes:
    """The part of a file that is the same each time."""
    if path.name == "metrics.csv":
        text = io.StringIO(path.read_text())
        rows: list[Mapping[str, str]] = list(csv.DictReader(text))
        return repr([{k: v for k, v in row.items() if k not in PASSING} for row in rows]).encode()
    if path.name in ("predictions.json", "seen.json"):  # in the order in which they were made
        return json.dumps(json.loads(path.read_text()), sort_keys=True).encode()
    if path.name == "cost.json":
        return repr(list(json.loads(path.read_text()))).encode()
    if path.name in ("data.json", "report.html", "last.ckpt"):
        return b""  # times of change, how long it took, and which objects a pickle shares
    return path.read_bytes()
