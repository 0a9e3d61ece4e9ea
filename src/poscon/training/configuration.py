"""The settings that pre-training and fine-tuning share."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from poscon.errors import PosconError
from poscon.networks.parts import Encoder
from poscon.positions import POSITIONS, PositionName
from poscon.settings import Settings, validate
from poscon.training.data import SliceReader
from poscon.training.loggers import LoggerName
from poscon.training.optimisation import OptimiserSettings
from poscon.views import ViewSettings


class TrainingSettings(Settings):
    """The settings of any training.

    Attributes:
        method: name of the method.
        loss: settings of the method's loss.
        position: kind of position that the method goes by, see :data:`poscon.positions.POSITIONS`.
        size: extent in pixels of what the network sees; ``auto``: the extent that covers the
            slices, at most 128.
        optimiser: optimiser and learning rates.
        views: settings of the augmentation.
        seed: seed of every random choice, also of the draw of labelled subjects.
        device: device to train on.
        precision: ``32``, ``bf16`` or ``auto``: bfloat16 on a GPU and on a CPU that multiplies in
            it, else 32.
        compile: whether torch compiles the networks. That takes half a minute to two minutes at
            the start. It is faster on a GPU only, see docs/results.
        logger: what shows the metrics while the training goes on, besides ``metrics.csv``:
            ``tensorboard``, ``mlflow`` or ``wandb``.
    """

    method: str
    loss: dict[str, Any] = Field(default_factory=dict)
    position: PositionName = "relative"
    size: PositiveInt | Literal["auto"] = "auto"
    optimiser: OptimiserSettings = OptimiserSettings()
    views: ViewSettings = ViewSettings()
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool = False
    logger: LoggerName = "tensorboard"

    @classmethod
    def method_class(cls, name: str) -> Any:
        """The class of a method."""
        raise NotImplementedError

    @field_validator("precision", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value)

    @model_validator(mode="before")
    @classmethod
    def _complete_loss(cls, values: Any) -> Any:
        """Complete the loss with the default settings of the method."""
        name = values.get("method", cls.model_fields["method"].default)
        if not isinstance(name, str):
            return values  # its type is refused later
        method = cls.method_class(name)
        try:
            loss = validate(method.Settings, values.get("loss", {}), prefix="loss")
        except PosconError as error:
            raise PosconError(
                f"method {name}: {error}; if a recipe has it for another method, --set loss={{}}"
                if "unknown setting" in str(error)
                else str(error)
            ) from error
        return {**values, "loss": loss.model_dump()}

    @property
    def distances(self) -> dict[str, float]:
        """The settings of the loss that are distances between positions, if they are set."""
        names = self.method_class(self.method).distances
        return {name: self.loss[name] for name in names if self.loss[name] is not None}

    @model_validator(mode="after")
    def _distances_fit(self) -> Self:
        if limits := POSITIONS[self.position].limits:
            low, high = limits
            for name, distance in self.distances.items():
                if distance >= high - low:
                    raise PosconError(
                        f"setting loss.{name} = {distance:g}: must be less than {high - low:g}, as "
                        f"positions run from {low:g} to {high:g}; with position=physical they are "
                        "in mm"
                    )
        return self


def check_size(size: int, encoder: Encoder) -> None:
    """Refuse an extent that is too small for the network.

    Raises:
        PosconError: it is.
    """
    if size < encoder.least_size:
        raise PosconError(
            f"setting size = {size}: leaves the bottleneck of this network too few pixels to "
            f"normalise; use {encoder.least_size} or more"
        )


def check_distances(chosen: TrainingSettings, readers: Sequence[SliceReader]) -> None:
    """Refuse distances that cannot be meant for these slices.

    Below the spacing of the slices, no neighbour is within the distance. That is often a share of
    the volume that was meant for relative positions. At the range of all positions or above it,
    everything is within the distance. Distances between relative positions need no slices, and are
    checked with the settings. Distances between phases need a phase of every volume.

    Args:
        chosen: the settings.
        readers: what the training reads.

    Raises:
        PosconError: a distance is too small or too large, or a volume has no phase.
    """
    for name in chosen.method_class(chosen.method).cyclic:
        without = (case for reader in readers for case in reader.cases if case.phase is None)
        if chosen.loss[name] is not None and (case := next(without, None)) is not None:
            raise PosconError(
                f"setting loss.{name} = {chosen.loss[name]:g}: case {case.id} has no phase, as it "
                "is no frame of a 4-D series of known length; the case or the setting must be left "
                "out"
            )
    kind = POSITIONS[chosen.position]
    if kind.limits is not None:
        return
    spacing = min(case.spacing[0] for reader in readers for case in reader.cases)
    reach = float(np.ptp([reader.limits for reader in readers]))
    for name, distance in chosen.distances.items():
        if not spacing <= distance < reach:
            raise PosconError(
                f"setting loss.{name} = {distance:g}: with position={chosen.position} it must be "
                f"at least {spacing:g} {kind.unit}, the distance of two neighbours, and less than "
                f"{reach:g} {kind.unit}, that of the first and the last"
            )
