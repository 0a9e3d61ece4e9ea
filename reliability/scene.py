"""A small piece of work for every command that writes, and what it should have written."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from commandline import Outcome, poscon

from poscon.volumes.phantom import write_phantom

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


@dataclass(frozen=True)
class Scene:
    """What the commands work on.

    Attributes:
        folder: where there is room for what they write.
        scans, store, unlabelled: scans, and the stores of them with and without labels.
        pretrained, finetuned: runs.
        predictions: what the fine-tuned model made of the scans.
        plan, recipe: a comparison, and settings of the demo.
    """

    folder: Path
    scans: Path
    store: Path
    unlabelled: Path
    pretrained: Path
    finetuned: Path
    predictions: Path
    plan: Path
    recipe: Path

    @classmethod
    def made(cls, folder: Path) -> "Scene":
        """Make all of it in an empty folder."""
        names = [field.name for field in fields(cls) if field.name not in ("folder", "plan")]
        scene = cls(folder, plan=folder / "plan.yaml", **{name: folder / name for name in names})
        scene.plan.write_text(yaml.safe_dump(PLAN))
        scene.recipe.write_text(yaml.safe_dump(DEMO))
        write_phantom(scene.scans, subjects=3, seed=5)
        for arguments in (
            ("prepare", scene.scans, scene.store, "--spacing", 6),
            ("prepare", scene.scans / "imagesTr", scene.unlabelled, "--spacing", 6),
            ("pretrain", scene.store, scene.pretrained, "--epochs", 1, *TINY),
            ("finetune", scene.store, scene.finetuned, *scene._finetune()),
            ("predict", scene.finetuned, scene.scans, scene.predictions),
        ):
            done(scene.run(arguments), str(arguments[0]))
        return scene

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
    ) -> Outcome:
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

        return poscon(arguments, set_up)

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
        return self.run([command.name.split()[0], *of_target], before)

    def put(self, command: Command, target: Path) -> None:
        """Put in place what a command writes into."""
        if command.inside is not None:
            shutil.copytree(command.inside, target)


def done(outcome: Outcome, what: str) -> None:
    """Stop where a command does not do its work without any fault."""
    if outcome.code != 0:
        raise RuntimeError(f"{what} without a fault: {outcome}\n{outcome.err}")


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
    if path.suffix == ".safetensors":  # its metadata are in any order
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        return json.dumps(json.loads(whole[8:end]), sort_keys=True).encode() + whole[end:]
    if path.name == "cost.json":
        return repr(list(json.loads(path.read_text()))).encode()
    if path.name in ("data.json", "report.html", "last.ckpt"):
        return b""  # times of change, how long it took, and which objects a pickle shares
    return path.read_bytes()
