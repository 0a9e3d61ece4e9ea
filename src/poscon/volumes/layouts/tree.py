"""Walk a data set's folder, and name everything that is left out."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from poscon.volumes.scan import scan_suffix

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Tree:
    """Everything below a folder.

    Attributes:
        files: regular files that are not hidden, sorted by path.
        hidden: files and folders whose name begins with a dot. The folders are not entered.
        unreachable: what cannot be read, and why.
    """

    files: tuple[Path, ...]
    hidden: tuple[Path, ...]
    unreachable: tuple[tuple[Path, str], ...]


def walk(root: Path) -> Tree:
    """List everything below a folder. Links are followed. Each folder is entered once.

    Args:
        root: the folder.
    """
    files: list[Path] = []
    hidden: list[Path] = []
    unreachable: list[tuple[Path, str]] = []
    entered: set[tuple[int, int]] = set()
    # folders come before links to them, so that a file is known by its own path
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        try:
            status = folder.stat()
            entries = list(folder.iterdir())
        except OSError as error:
            unreachable.append((folder, error.strerror or str(error)))
            continue
        if (status.st_dev, status.st_ino) in entered:
            unreachable.append((folder, "a link to a folder that is read already"))
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                hidden.append(entry)
                continue
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                lost = entry.is_symlink() and not os.path.exists(entry)
                why = "a link to nothing" if lost else error.strerror or str(error)
                unreachable.append((entry, why))
                continue
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(entry)
            elif not stat.S_ISREG(mode):
                unreachable.append((entry, "neither a file nor a folder"))
            elif not os.access(entry, os.R_OK):
                unreachable.append((entry, "no permission to read it"))
            else:
                files.append(entry)
    return Tree(tuple(sorted(files)), tuple(sorted(hidden)), tuple(sorted(unreachable)))


def passed_over(
    root: Path,
    used: Iterable[Path],
    companions: Iterable[str],
    unused: Iterable[tuple[str, Path]] = (),
) -> tuple[str, ...]:
    """Count what is below a folder and was not read, one line for each kind.

    Args:
        root: the data set's folder.
        used: the files that were read, and the folders whose scan files were all read.
        companions: names of files that the layout reads or that describe the data set.
        unused: files that the layout has looked into and does not use, each with its kind.
    """
    tree, known = walk(root), {os.path.realpath(path) for path in used}
    names = set(companions)
    kinds: dict[str, list[Path]] = defaultdict(list)
    for kind, path in unused:
        kinds[kind].append(path)
        known.add(os.path.realpath(path))
    for path in tree.files:
        if os.path.realpath(path) in known or os.path.realpath(path.parent) in known:
            continue
        if scan_suffix(path):
            kinds["scan file(s) not read"].append(path)
        elif path.name not in names:
            suffix = path.suffix.lower() or "without suffix"
            kinds[f"file(s) of another kind ({suffix})"].append(path)
    kinds["hidden"] = list(tree.hidden)
    for path, why in tree.unreachable:
        kinds[f"out of reach, {why}"].append(path)
    return tuple(
        f"passed over: {len(paths)} {kind}: {_listed(paths, root)}"
        for kind, paths in sorted(kinds.items())
        if paths
    )


def _listed(paths: list[Path], root: Path) -> str:
    shown = ", ".join(path.relative_to(root).as_posix() for path in paths[:NAMES_SHOWN])
    return f"{shown}, ..." if len(paths) > NAMES_SHOWN else shown
