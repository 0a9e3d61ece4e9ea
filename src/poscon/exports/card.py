"""The model card beside an export: what is recorded of the run, and nothing else.

The sections follow Mitchell et al., *Model Cards for Model Reporting* (FAT* 2019, arXiv
1810.03993). Names of cases, subjects and folders are not written: they may be those of patients.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from poscon.errors import PosconError
from poscon.exports.trained import Trained
from poscon.files import markdown_cell, parse_json
from poscon.finetuning import find_method as find_finetuning
from poscon.models import Model
from poscon.pretext import find_method as find_pretraining
from poscon.store.manifest import write_json
from poscon.training.run import MetricsFile, RunFolder
from poscon.version import __version__

CARD = "MODEL_CARD.md"
_MEASURES = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 in mm", 1),
    "assd_mm": ("ASSD in mm", 1),
    "nsd": ("NSD", 3),
    "rvd": ("RVD", 3),
}
"""Measures of ``poscon evaluate``: title and digits."""
_LATER = ("nsd", "rvd")
"""Measures that the results of an earlier version do not have."""

_SOURCE = (
    "Zeng et al., *Positional Contrastive Learning for Volumetric Medical Image Segmentation*, "
    "MICCAI 2021, arXiv 2106.09157"
)


def write_cases(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the hashes of the scans that were trained on. ``finetune --init`` compares them.

    A scan is named by the beginning of its hash, as its own name may be that of a patient.
    """
    kept = [
        {
            "id": entry["pixels_sha256"][:12],
            "role": entry["role"],
            "by": entry["by"],
            "pixels_sha256": entry["pixels_sha256"],
        }
        for entry in entries
    ]
    write_json(path, kept)


def data_sha256(entries: Sequence[Mapping[str, Any]]) -> str:
    """Hash of a set of scans: SHA-256 of the sorted hashes of their pixels, a line each."""
    lines = sorted({entry["pixels_sha256"] for entry in entries})
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def model_card(
    trained: Trained, usage: str, difference: float, licence: str | None, results: str | None
) -> str:
    """The card, as Markdown.

    Args:
        trained: what is exported.
        usage: lines that say how the files are used.
        difference: the largest relative difference of outputs that was found.
        licence: of the weights; None: it is not stated.
        results: of :func:`results_table`; None: nothing was measured.
    """
    front = {"license": licence} if licence else {}
    tags = {**front, "tags": ["medical-imaging", "segmentation", "poscon"]}
    sections = [
        ("", _what(trained)),
        ("Use", f"{usage}\n\nThe outputs were compared with those of poscon on random images. The "
         f"largest difference is {difference:.1g} of the largest output."),
        ("Inputs", _inputs(trained)),
        ("Training", _training(trained)),
        ("Data", _data(trained)),
        ("Measured", _measured(trained, results)),
        ("Intended use", _intended(trained)),
        ("Licence", licence or "Not stated. Ask who trained it before you pass it on."),
        ("Citation", _citation(trained)),
    ]  # fmt: skip
    text = "\n\n".join(f"## {name}\n\n{body}" if name else body for name, body in sections)
    return f"---\n{yaml.safe_dump(tags, sort_keys=False)}---\n\n{text}\n"


def _command(trained: Trained) -> str:
    return "finetune" if isinstance(trained.loaded, Model) else "pretrain"


def _method(trained: Trained) -> Any:
    find = find_finetuning if isinstance(trained.loaded, Model) else find_pretraining
    return find(trained.config["settings"]["method"])


def _what(trained: Trained) -> str:
    network = trained.settings
    of = f"{network.architecture}, width {network.width}, {network.levels} levels, 2-D"
    numbers = sum(p.numel() for p in trained.network.parameters())
    if not isinstance(trained.loaded, Model):
        return (
            "# Pre-trained encoder for slices of medical scans\n\n"
            f"An encoder ({of}; {numbers:,} parameters). It was trained without labels."
        )
    classes = trained.loaded.classes
    cells = [markdown_cell(c.name) for c in classes]
    names = ", ".join(cells)
    table = [
        f"| {number} | {name} | {c.values[0]} |"
        for number, (name, c) in enumerate(zip(cells, classes, strict=True), 1)
    ]
    return "\n".join(
        [
            f"# Segmentation of {names}\n",
            f"A segmentation network ({of}; {numbers:,} parameters). Output 0 is background.\n",
            "| output | class | value in label maps |",
            "|---|---|---|",
            *table,
        ]
    )


def _inputs(trained: Trained) -> str:
    preparation, training = trained.loaded.preparation, trained.loaded.training
    network = trained.settings
    pixels = "as scanned" if preparation.spacing is None else f"{preparation.spacing:g} mm"
    channels = ", ".join(
        f"{markdown_cell(channel.name)} ({' and '.join(channel.modalities)})"
        for channel in training.channels
    )
    between, in_plane = training.coarsest_mm
    lines = [
        f"- Images are (batch, {network.in_channels}, rows, columns), float32. Rows and columns "
        f"are multiples of {network.stride}. Smaller slices are padded with zeros on both sides, "
        f"to {trained.loaded.size} pixels at least.",
        f"- Channels: {channels}.",
        f"- Plane of the slices: {' or '.join(training.planes)}. Rows and columns run towards "
        "right, anterior or superior.",
        f"- Pixels: {pixels}. Slices of the training data lay {between:.3g} mm apart at most, and "
        f"their pixels were {in_plane:.3g} mm at most.",
        "- Intensities: each volume has mean 0 and standard deviation 1. CT is clipped to its 1st "
        "and 99th percentile before that. Constant margins do not count.",
    ]
    if network.context:
        lines.append(f"- {network.context} neighbouring slices on each side are channels too.")
    return "\n".join(lines)


def _training(trained: Trained) -> str:
    method = _method(trained)
    loaded = trained.config.get("inputs", {}).get("loaded")
    start = f"pre-trained weights ({loaded})" if loaded else "random weights"
    settings = yaml.safe_dump(trained.config["settings"], sort_keys=False)
    return "\n".join(
        [
            f"- Command: `poscon {_command(trained)}`, version "
            f"{trained.config.get('poscon_version', 'unknown')}; exported by version "
            f"{__version__}.",
            f"- Method: `{trained.config['settings']['method']}`: {method.summary}.",
            f"- Start: {start}.",
            "",
            "Every setting:",
            "",
            "```yaml",
            settings.rstrip(),
            "```",
        ]
    )


def _data(trained: Trained) -> str:
    by_role: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for entry in trained.entries:
        by_role[entry["by"], entry["role"]].append(entry)
    if not by_role:
        return "The run does not record its data (it has no cases.json)."
    rows = [
        f"| {by} | {role} | {len(entries)} | `{data_sha256(entries)}` |"
        for (by, role), entries in by_role.items()
    ]
    return "\n".join(
        [
            "`cases.json` has the hash of every scan. The hash of a set is that of the sorted "
            "hashes of its scans, a line each.",
            "",
            "| command | role | scans | SHA-256 |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _measured(trained: Trained, results: str | None) -> str:
    lines = []
    for row in MetricsFile(RunFolder(trained.run).metrics_path).rows()[-1:]:
        if row.get("validation_dice"):
            lines.append(
                f"Mean Dice of the validation cases at the end of the training (step {row['step']}"
                f"): {float(row['validation_dice']):.3f}. Nothing was chosen by it."
            )
    if results is not None:
        lines.append(results)
    return "\n\n".join(lines) or "Nothing was measured."


def results_table(results: Path) -> str:
    """The summary of an evaluation, as Markdown.

    Args:
        results: the JSON file that ``poscon evaluate`` wrote.

    Raises:
        PosconError: it is another file.
    """
    try:
        found = parse_json(results.read_bytes())
        summary = found["summary"]
        names = [name for name in _MEASURES if name in summary["mean"] or name not in _LATER]
        rows = [
            _cells(
                markdown_cell(str(row["name"])),
                int(row["measured"]),
                *(_spread(row[n], _MEASURES[n][1]) for n in names),
            )
            for row in [*summary["classes"], summary["mean"]]
        ]
        seen = {case["case"] for case in found["cases"] if case["seen"]}
        tolerance = float(found["cases"][0]["nsd_tolerance_mm"]) if "nsd" in names else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise PosconError(
            f"--results {results}: not results of poscon evaluate ({error}); give its .json file"
        ) from error
    titles = [_MEASURES[name][0] for name in names]
    if tolerance is not None:
        titles[names.index("nsd")] += f" at {tolerance:g} mm"
    note = f" {len(seen)} of the cases were seen in training." if seen else ""
    lines = [
        f"By `poscon evaluate`, mean and standard deviation over cases.{note}",
        "",
        _cells("class", "cases", *titles),
        f"|{'---|' * (2 + len(names))}",
        *rows,
    ]
    return "\n".join(lines)


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(spread: Mapping[str, float | None], digits: int) -> str:
    mean, std = spread["mean"], spread["std"]
    if mean is None:
        return "not measured"
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _intended(trained: Trained) -> str:
    use = (
        "To segment scans that are like the training data, in research."
        if isinstance(trained.loaded, Model)
        else "As the start of a training with labels, in research."
    )
    return (
        f"{use} It answers for every image, also for one that is unlike the training data. It "
        "works slice by slice. It is not a medical device, and not for diagnosis or treatment."
    )


def _citation(trained: Trained) -> str:
    sources = [
        f"- Method `{trained.config['settings']['method']}`: {_method(trained).citation}",
        f"- Network: {type(trained.encoder).citation}",
        f"- poscon {__version__} is an implementation of {_SOURCE}",
        "- The data sets have their own terms and papers. Cite them too.",
    ]
    return "\n".join(sources)
