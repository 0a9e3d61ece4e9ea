"""nnU-Net's own 2-D networks, built by its library from a plans file.

They are the ``PlainConvUNet`` and the ``ResidualEncoderUNet`` of ``dynamic-network-architectures``,
with nnU-Net's initialisation. nnU-Net takes their weights, see :mod:`poscon.exports.nnunet`.

Unlike poscon's networks they have InstanceNorm, as a rule. Width and number of levels are those of
the plans. A level may be halved along one axis only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from poscon.errors import PosconError
from poscon.networks.nnunet_plans import NnunetPlans
from poscon.networks.parts import Decoder, Encoder
from poscon.networks.settings import NetworkSettings

_LAYERS = "all_modules"
"""A block of the library has every layer twice: here, and under a name of its own."""


class NnunetEncoder(Encoder):
    """The encoder of nnU-Net's network."""

    summary = "nnU-Net's own 2-D U-Net, plain or residual, of its plans file"
    citation = "Isensee et al., Nature Methods 2021; MICCAI 2024, arXiv 2404.09556"
    own_settings = frozenset({"plans"})

    def __init__(self, settings: NetworkSettings, dimensions: int = 2) -> None:
        super().__init__(settings, dimensions)
        if dimensions != 2:
            raise PosconError(f"architecture nnunet: has 2 dimensions, not {dimensions}")
        self.plans = plans_of(settings)
        self.channels_of_level = self.plans.features
        strides = self.plans.strides
        halved = [rows == columns == 2**k for k, (rows, columns) in enumerate(strides)]
        self.even_levels = (*halved, False).index(False) - 1
        self.layers = _one_name_each(build_unet(self.plans, self.in_channels).encoder)
        alone = all(step == self.stride for step in strides[-1])
        if alone and any(isinstance(module, _InstanceNorm) for module in self.modules()):
            self.least_size = 2 * self.stride  # one pixel has no variance

    def features(self, images: Tensor) -> list[Tensor]:
        return self.layers(images)

    def new_decoder(self, blocks: int | None = None) -> Decoder:
        return NnunetDecoder(self, blocks)


class NnunetDecoder(Decoder):
    """The decoder of nnU-Net's network, without its segmentation layers."""

    up_first = True

    def __init__(self, encoder: NnunetEncoder, blocks: int | None = None) -> None:
        nn.Module.__init__(self)
        theirs = build_unet(encoder.plans, encoder.in_channels).decoder
        self.channels_of_map = encoder.channels_of_level[-2::-1][:blocks]
        self.ups = theirs.transpconvs[:blocks]
        self.blocks = _one_name_each(theirs.stages[:blocks])


def plans_of(settings: NetworkSettings) -> NnunetPlans:
    """The plans that a network of this architecture is built from."""
    assert settings.plans is not None  # NetworkSettings sees to it
    return settings.plans


def build_unet(plans: NnunetPlans, channels: int) -> Any:
    """nnU-Net's network with random weights, as nnU-Net builds it, with one output channel.

    Args:
        plans: name its class and the arguments.
        channels: of the images.

    Raises:
        PosconError: the library is not installed, or cannot build it.
    """
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise PosconError(
            "architecture nnunet: needs dynamic-network-architectures, not installed; pip install "
            "'poscon[nnunet]'"
        ) from error
    arguments = dict(plans.arch_kwargs)
    for name in plans.imported:
        arguments[name] = _layer(arguments.get(name))
    try:
        network = getattr(unet, plans.network_class.rpartition(".")[2])(
            input_channels=channels,
            num_classes=1,
            **{**arguments, "deep_supervision": False},
        )
    except (TypeError, ValueError, AssertionError, IndexError, AttributeError) as error:
        raise PosconError(
            f"network.plans: nnU-Net's library cannot build the network "
            f"({' '.join(str(error).split())})"
        ) from error
    network.apply(network.initialize)
    return network


def _layer(name: str | None) -> type[nn.Module] | None:
    """A class of layers of torch by its full name. Nothing else is imported.

    Raises:
        PosconError: there is no such layer.
    """
    if name is None:
        return None
    package, _, attribute = str(name).rpartition(".")
    found = getattr(torch.nn, attribute, None)
    if package.split(".")[:2] != ["torch", "nn"] or not isinstance(found, type):
        raise PosconError(f"network.plans: {name!r} is no layer of torch.nn")
    return found


def _one_name_each(network: Any) -> Any:
    """The same network, in which every layer has one name. It computes the same."""
    for module in list(network.modules()):
        names = [name for name, _ in module.named_children()]
        if _LAYERS in names:
            for name in names:
                if name != _LAYERS:
                    delattr(module, name)
    return network
