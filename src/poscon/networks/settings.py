"""The settings of a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from poscon.errors import PosconError
from poscon.networks.architectures import find_architecture
from poscon.networks.nnunet_plans import NnunetPlans, read_plans
from poscon.settings import Settings, validate


class NetworkSettings(Settings):
    """The architecture; a checkpoint fits only a network of equal settings.

    Attributes:
        architecture: a name of :data:`poscon.networks.architectures.ARCHITECTURES`.
        width: channels at full resolution; they double at each level.
        levels: how often the resolution is halved.
        bottleneck_norm: for ``unet`` only. Normalise in the bottleneck too. The published network
            does not.
        blocks: for ``residual`` only. Number of residual blocks at each level, full resolution
            first; None: 1, 3, 4, then 6 at every deeper level.
        plans: for ``nnunet`` only. The plans file of nnU-Net, or what a run has kept of it. Width,
            levels and channels are then those of the plans.
        channels: image channels; None: as many as the store has (1 without a store).
        context: how many neighbouring slices on each side are further input channels (2.5-D).
    """

    architecture: str = "unet"
    width: PositiveInt = Field(16, le=4096)
    levels: PositiveInt = Field(4, le=12)
    bottleneck_norm: bool = True
    blocks: tuple[PositiveInt, ...] | None = None
    plans: NnunetPlans | None = None
    channels: PositiveInt | None = Field(None, le=4096)
    context: NonNegativeInt = Field(0, le=64)

    @property
    def stride(self) -> int:
        """Input extents must be a multiple of this: every level halves the resolution."""
        return 2**self.levels

    @property
    def in_channels(self) -> int:
        """Input channels of the encoder: those of the slice and of its neighbours.

        Channel c of the slice at offset o from -k to k is input channel (o + k) * channels + c.
        """
        return (2 * self.context + 1) * (self.channels or 1)

    @property
    def own_slice(self) -> slice:
        """The input channels that belong to the slice itself, not to its neighbours."""
        channels = self.channels or 1
        return slice(self.context * channels, (self.context + 1) * channels)

    @model_validator(mode="before")
    @classmethod
    def _read_plans(cls, values: Any) -> Any:
        """Read the plans file, and take the sizes that it states.

        Raises:
            PosconError: it cannot be used, or a size is given that is another one.
        """
        plans = values.get("plans") if isinstance(values, Mapping) else None
        if isinstance(plans, str | Path):
            plans = read_plans(Path(plans))
        elif isinstance(plans, Mapping):
            plans = validate(NnunetPlans, plans, prefix="network.plans")
        if not isinstance(plans, NnunetPlans):
            return values
        for name, size in plans.sizes.items():
            default = cls.model_fields[name].default
            if values.get(name, default) not in (default, size):
                raise PosconError(
                    f"setting network.{name} = {values[name]}: the plans of nnU-Net say {size}; "
                    "leave it out"
                )
        return {**values, "plans": plans, **plans.sizes}

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        used = find_architecture(self.architecture).own_settings
        if "plans" in used and self.plans is None:
            raise PosconError(
                f"architecture {self.architecture}: needs the plans file of nnU-Net; give it with "
                "--set network.plans=FILE"
            )
        if self.plans is not None and self.context:
            raise PosconError(
                f"setting network.context = {self.context}: nnU-Net's 2-D network sees one slice; "
                "leave it out"
            )
        for name in ("bottleneck_norm", "blocks", "plans"):
            if name not in used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has no effect with architecture {self.architecture}; leave it out"
                )
        if self.blocks is not None and len(self.blocks) != self.levels + 1:
            raise ValueError(
                f"blocks has {len(self.blocks)} number(s), levels = {self.levels} needs "
                f"{self.levels + 1}: one for full resolution and one for each level"
            )
        return self


def fit_channels(network: NetworkSettings, channels: int, where: Any) -> NetworkSettings:
    """The settings with the number of image channels of a store.

    Args:
        network: the settings, with or without a number of channels.
        channels: image channels of the store.
        where: the store, for the message.

    Raises:
        PosconError: the settings state another number.
    """
    if network.channels not in (None, channels):
        raise PosconError(
            f"{where}: has {channels} image channel(s), the network takes {network.channels}; "
            "choose another store, or another network.channels"
        )
    return network.model_copy(update={"channels": channels})
