"""The arguments and options that several commands share, with their help."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from poscon.errors import PosconError

Store = Annotated[
    str, typer.Argument(help="Prepared store that poscon prepare wrote: a folder, or its URL.")
]
Run = Annotated[Path, typer.Argument(help="Folder of the run. It is written, so it must be new.")]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Takes settings from a recipe: a name (see poscon recipes) or a YAML file. "
        "Default: none."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Changes any setting, such as -s optimiser.lr=1e-3. It may be repeated.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Decides every random choice. Default: that of the recipe, else 0."),
]
Logger = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Shows the metrics in tensorboard, mlflow or wandb while the training goes on. "
        "Default: that of the recipe, else tensorboard.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: auto (a GPU if there is one), cpu or cuda. Default: auto."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Goes on with the run that is in the folder, with the same options or none. Where "
        "there is no run, one begins.",
    ),
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Leaves out the subjects that this file names, such as the test subjects. A case in "
        "it stands for its subject. Default: none is left out.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        help="Reads the folder in this layout (see poscon layouts). Default: it is detected."
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(
        metavar="N|NAME",
        help="Takes this image channel of a data set that has several: its number, counted from 0, "
        "or its name; several with commas, such as T2,ADC. Default: all.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="V=NAME,...",
        help="Says what label values mean, such as 1=RV,2=MYO,3=LV. Default: as the layout says.",
    ),
]
IgnoreLabel = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="V",
        help="Label value of voxels that are not labelled. Default: as the layout says, else "
        "every voxel is labelled.",
    ),
]
LabelledSlices = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|nonempty",
        help="Which slices of the label maps are labelled: those in a CSV file with the columns "
        "case and slice (from 0, in the order of the file), or nonempty: those with foreground. "
        "Default: all.",
    ),
]
Engine = Annotated[
    str, typer.Option(help="Where to work: local (this machine) or ray (a Ray cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster. Default: a cluster is started on this machine."),
]
SourceSpacing = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="Voxel size in mm along the axes of the files. It replaces that of the headers. "
        "Default: the headers are believed.",
    ),
]
Modality = Annotated[
    str | None,
    typer.Option(
        help="Kind of all scans: CT, MR or auto. Default: auto (by the layout, else by the "
        "intensities)."
    ),
]
Ranges = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Weak labels: a CSV file with the columns case, class, first and last (slices from "
        "0, in the order of the file). Default: no ranges are added.",
    ),
]
OnGap = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Where slices of a DICOM series are missing or lie at uneven distances: refuse it, "
        "interpolate them, or split the series. Default: refuse.",
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="KEYWORD=PATTERN",
        help="Reads only the DICOM series of which this attribute fits, such as "
        "`SeriesDescription=*t2*`. Default: all series.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Prints JSON on stdout instead of tables; notes go to stderr."),
]


def names_or_file(given: list[str] | None) -> str | list[str] | None:
    """Names as they are given; one that names a file, or ``FILE.json:KEY``, as one text."""
    if given is not None and len(given) == 1:
        (name,) = given
        like_a_file = re.search(r"\.(txt|json|csv)$|\.(json|csv):", name, re.IGNORECASE)
        if like_a_file or Path(name).is_file():
            return name
    return given


def number_or_word(text: str | None) -> Any:
    """``"1.25"`` as a number; a word such as ``auto`` as it is."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def whole_or_word(text: str | None) -> int | str | None:
    """``"20"`` as a whole number; a word such as the name of a file as it is."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    """``"1.25,1.25,10"`` as three numbers.

    Raises:
        PosconError: the text is anything else. The message names the option.
    """
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise PosconError(
            f"{option} {text}: write three sizes in mm, such as 1.25,1.25,10"
        ) from None
    return x, y, z
