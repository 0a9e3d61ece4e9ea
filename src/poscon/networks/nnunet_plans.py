"""nnU-Net's plans file: what it says of the 2-D network.

nnU-Net v2 plans a network for a data set and writes it to ``nnUNetPlans.json`` (Isensee et al.,
Nature Methods 2021). A run keeps what is read here, so it does not need the file later.
"""

import os
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from poscon.errors import PosconError
from poscon.files import parse_json
from poscon.settings import Settings, validate

CONFIGURATION = "2d"
"""The configuration that is read."""
LIBRARY = "dynamic_network_architectures.architectures.unet"
"""The module of the networks that are known."""
MOST_LAYERS = 64
"""Of a level, and levels."""
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")


class NnunetPlans(Settings):
    """The 2-D network of a plans file.

    Attributes:
        network_class: name of its class in the library of nnU-Net.
        arch_kwargs: the arguments of the class, as the plans state them.
        imported: those of the arguments that are names of classes of torch.
        channels: image channels.
        patch_size: (rows, columns) that nnU-Net trains at, in pixels.
        spacing: (row, column) that nnU-Net resamples slices to, in mm.
    """

    network_class: str
    arch_kwargs: dict[str, Any]
    imported: tuple[str, ...]
    channels: PositiveInt
    patch_size: tuple[PositiveInt, ...] = Field(min_length=1)
    spacing: tuple[PositiveFloat, ...] = Field(min_length=1)

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of each level, full resolution first."""
        return tuple(self.arch_kwargs["features_per_stage"])

    @property
    def levels(self) -> int:
        """How many levels there are after that of full resolution."""
        return len(self.features) - 1

    @property
    def strides(self) -> list[tuple[int, int]]:
        """By how much each level is smaller than the image, along (rows, columns)."""
        steps = [(rows, columns) for rows, columns in self.arch_kwargs["strides"]]
        return list(accumulate(steps, lambda a, b: (a[0] * b[0], a[1] * b[1])))

    @property
    def sizes(self) -> dict[str, int]:
        """The settings of a network that follow from the plans."""
        return {"width": self.features[0], "levels": self.levels, "channels": self.channels}

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        """Refuse what is no network of slices.

        Raises:
            PosconError: another dimension, an unknown class, or levels that poscon has not.
        """
        conv = str(self.arch_kwargs.get("conv_op")).rpartition(".")[2]
        if conv != "Conv2d" or len(self.patch_size) != 2 or len(self.spacing) != 2:
            raise PosconError(
                f"its configuration {CONFIGURATION} has {conv} and a patch of "
                f"{len(self.patch_size)} dimensions; poscon works on slices, with Conv2d and 2"
            )
        if self.network_class not in [f"{LIBRARY}.{name}" for name in NETWORKS]:
            raise PosconError(
                f"its network {self.network_class!r} is not known; poscon builds "
                f"{' and '.join(NETWORKS)} of {LIBRARY}"
            )
        counts = [value for key, value in self.arch_kwargs.items() if key.startswith("n_")]
        if any(n not in range(MOST_LAYERS + 1) for value in counts for n in _flat(value)):
            raise PosconError(
                f"its numbers of layers {counts!r:.80} are not from 0 to {MOST_LAYERS}, as those of"
                " nnU-Net are"
            )
        features, strides = (
            self.arch_kwargs.get(name) for name in ("features_per_stage", "strides")
        )
        halving = (
            isinstance(features, list)
            and isinstance(strides, list)
            and len(strides) == len(features) > 1
            and all(isinstance(n, int) and n > 0 for n in features)
            and all(isinstance(pair, list) and len(pair) == 2 for pair in strides)
            and all(isinstance(step, int) for pair in strides for step in pair)
            and strides[0] == [1, 1]
            and {step for pair in strides for step in pair} <= {1, 2}
        )
        if not halving:
            raise PosconError(
                f"its strides {strides!r:.80} and features {features!r:.80} are not those of "
                "levels that start at full resolution and halve it"
            )
        return self


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read_plans(path: Path) -> NnunetPlans:
    """Read the 2-D network of a plans file of nnU-Net v2.

    Raises:
        PosconError: it cannot be read, is no plans file, has no 2-D configuration, or a network
            that is not known.
    """
    if not os.path.isfile(path):
        raise PosconError(f"{path}: no such file; give a plans file of nnU-Net (nnUNetPlans.json)")
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PosconError(f"{path}: cannot be read as JSON ({error})") from error
    configurations = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(configurations, dict):
        raise PosconError(f"{path}: not a plans file of nnU-Net v2, it has no configurations")
    found = configurations.get(CONFIGURATION)
    if not isinstance(found, dict):
        raise PosconError(
            f"{path}: has no configuration {CONFIGURATION} (it has "
            f"{', '.join(configurations) or 'none'}); plan the data set with it"
        )
    try:
        architecture = found["architecture"]
        values = {
            "network_class": architecture["network_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "imported": architecture["_kw_requires_import"],
            "channels": len(found["normalization_schemes"]),
            "patch_size": found["patch_size"],
            "spacing": found["spacing"],
        }
    except (KeyError, TypeError) as error:
        raise PosconError(
            f"{path}: its configuration {CONFIGURATION} has no {error}; plan the data set again, "
            "with a newer nnU-Net"
        ) from error
    try:
        return validate(NnunetPlans, values)
    except PosconError as error:
        raise PosconError(f"{path}: {error}") from error
