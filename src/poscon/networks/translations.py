"""The weights of two other U-Nets of the same form, in the names of this package, and back.

The network of Zeng et al. (MICCAI 2021), as its authors published it, and MONAI's ``BasicUNet``
compute what :class:`poscon.networks.unet.UNetEncoder` and its decoder compute. Only names and
layouts differ:

- A convolution before a BatchNorm may have a bias. The running mean takes it in, which changes no
  output.
- A transposed convolution has its weights laid out otherwise, see
  :class:`poscon.networks.layers.UpSample2d`.
- The decoder of Zeng et al. puts the upsampled features before those of the encoder.
- The last upsampling of ``BasicUNet`` has twice the channels. The added ones are zero here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from poscon.errors import PosconError
from poscon.networks.settings import NetworkSettings

LEVELS = 4
"""How often both networks halve the resolution."""
_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Translation:
    """Weights in the names of this package.

    Attributes:
        settings: the network that they belong to.
        parts: ``encoder`` and perhaps ``decoder``: their tensors by name.
        unused: names of tensors that have no place in these parts.
    """

    settings: NetworkSettings
    parts: dict[str, dict[str, Tensor]]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Naming:
    """How another program names the layers of its U-Net.

    Attributes:
        program: what it is called, for messages.
        encoder: level and number of a convolution -> names of the convolution and of its norm.
        bottleneck_norm: whether the bottleneck has norms.
        up: level that is climbed to -> name of the transposed convolution.
        decoder: the same as ``encoder``, for the decoder.
        up_first: whether the upsampled features come before those of the encoder.
    """

    program: str
    encoder: Callable[[int, int], tuple[str, str]]
    bottleneck_norm: bool
    up: Callable[[int], str]
    decoder: Callable[[int, int], tuple[str, str]]
    up_first: bool


def _pcl_encoder(level: int, number: int) -> tuple[str, str]:
    if level == LEVELS:
        return f"encoder.center.{2 * number}", ""
    block = f"encoder.contr_{level + 1}_{number + 1}"
    return f"{block}.0", f"{block}.1"


def _pcl_decoder(level: int, number: int) -> tuple[str, str]:
    block = f"decoder.expand_{level + 1}_{number + 1}"
    return f"{block}.0", f"{block}.1"


def _basic_encoder(level: int, number: int) -> tuple[str, str]:
    block = f"down_{level}.convs.conv_{number}" if level else f"conv_0.conv_{number}"
    return f"{block}.conv", f"{block}.adn.N"


def _basic_decoder(level: int, number: int) -> tuple[str, str]:
    block = f"upcat_{level + 1}.convs.conv_{number}"
    return f"{block}.conv", f"{block}.adn.N"


PCL = Naming(
    "the published network of PCL",
    _pcl_encoder,
    False,
    lambda level: f"decoder.upscale{level + 2}",
    _pcl_decoder,
    True,
)
BASIC_UNET = Naming(
    "MONAI's BasicUNet",
    _basic_encoder,
    True,
    lambda level: f"upcat_{level + 1}.upsample.deconv",
    _basic_decoder,
    False,
)


def naming_of(names: Mapping[str, Tensor]) -> Naming | None:
    """Whose names these are; None: nobody's that is known."""
    for naming in (PCL, BASIC_UNET):
        if f"{naming.encoder(0, 0)[0]}.weight" in names:
            return naming
    return None


def translate(tensors: Mapping[str, Tensor], naming: Naming, *, where: str) -> Translation:
    """Another program's weights, in the names of this package.

    The decoder is left out if the file has none, or if its last upsampling has channels that the
    decoder of this package does not have.

    Args:
        tensors: by name.
        naming: whose names these are.
        where: the file, for messages.

    Raises:
        PosconError: a tensor is missing, or has another shape than in the U-Net of this package.
    """
    first = tensors[f"{naming.encoder(0, 0)[0]}.weight"]
    if first.ndim != 4:
        raise PosconError(
            f"{where}: a network of {first.ndim - 2} dimensions; poscon's works on slices, with 2"
        )
    width, channels = first.shape[:2]
    reader = _Reader(_own_layout(tensors, naming, width), naming, where)
    widths = [width * 2**level for level in range(LEVELS + 1)]
    encoder: dict[str, Tensor] = {}
    for level, (inputs, outputs) in enumerate(zip([channels, *widths], widths, strict=False)):
        normed = level < LEVELS or naming.bottleneck_norm
        for number, before in enumerate((inputs, outputs)):
            conv, norm = naming.encoder(level, number)
            layer = reader.layer(conv, norm if normed else None, (outputs, before, 3, 3))
            encoder |= _placed(layer, f"blocks.{level}", number, normed)
    parts = {"encoder": encoder}
    if f"{naming.up(0)}.weight" in tensors and not _has_more_channels(tensors, naming, width):
        parts["decoder"] = _decoder(reader, naming, widths)
    settings = NetworkSettings(
        width=width, levels=LEVELS, bottleneck_norm=naming.bottleneck_norm, channels=channels
    )
    return Translation(settings, parts, tuple(name for name in tensors if name not in reader.taken))


def basic_unet(tensors: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """A segmentation network's weights for ``BasicUNet``, whose outputs are then the same.

    Args:
        tensors: state of a :class:`poscon.networks.parts.SegmentationNetwork` with the ``unet``
            encoder, 4 levels and a normalised bottleneck.
        width: channels at full resolution.

    Returns:
        The state of ``BasicUNet`` with features (w, 2w, 4w, 8w, 16w, w), BatchNorm, and no bias in
        its blocks.
    """
    found: dict[str, Tensor] = {}
    for level in range(LEVELS + 1):
        for number in (0, 1):
            found |= _renamed(
                tensors, f"encoder.blocks.{level}", number, _basic_encoder(level, number)
            )
    for block in range(LEVELS):
        level = LEVELS - 1 - block
        deconv = BASIC_UNET.up(level)
        found[f"{deconv}.weight"] = to_transposed(tensors[f"decoder.ups.{block}.weight"])
        found[f"{deconv}.bias"] = tensors[f"decoder.ups.{block}.bias"]
        for number in (0, 1):
            found |= _renamed(
                tensors, f"decoder.blocks.{block}", number, _basic_decoder(level, number)
            )
    # the added channels: nothing is written to them, and nothing is read from them
    weight, bias = f"{BASIC_UNET.up(0)}.weight", f"{BASIC_UNET.up(0)}.bias"
    reading = f"{_basic_decoder(0, 0)[0]}.weight"
    for name, axis in ((weight, 1), (bias, 0), (reading, 1)):
        shape = list(found[name].shape)
        shape[axis] = width
        found[name] = torch.cat([found[name], found[name].new_zeros(shape)], axis)
    for name in ("weight", "bias"):
        found[f"final_conv.{name}"] = tensors[f"classifier.{name}"]
    return found


def to_transposed(weight: Tensor) -> Tensor:
    """Weights of ``UpSample2d``, (4 O, I, 1, 1), for ``nn.ConvTranspose2d``: (I, O, 2, 2)."""
    return weight.reshape(-1, 2, 2, weight.shape[1]).permute(3, 0, 1, 2).contiguous()


def from_transposed(weight: Tensor) -> Tensor:
    """What :func:`to_transposed` undoes."""
    return weight.permute(1, 2, 3, 0).reshape(-1, len(weight), 1, 1).contiguous()


class _Reader:
    """Takes tensors by name, and knows which it has taken."""

    def __init__(self, tensors: Mapping[str, Tensor], naming: Naming, where: str) -> None:
        self.tensors, self.naming, self.where = tensors, naming, where
        self.taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        if name not in self.tensors:
            reason = (
                "poscon's network has BatchNorm, with running statistics"
                if name.endswith("running_mean")
                else "it is another network"
            )
            raise PosconError(
                f"{self.where}: has the names of {self.naming.program}, but {name} is missing; "
                f"{reason}"
            )
        found = self.tensors[name]
        if shape is not None and found.shape != shape:
            raise PosconError(
                f"{self.where}: {name} has shape {tuple(found.shape)}, poscon's network needs "
                f"{shape}: 3x3 convolutions whose width doubles at each level"
            )
        self.taken.add(name)
        return found

    def layer(self, conv: str, norm: str | None, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """A convolution and what normalises it: its weight, then its bias or those of the norm."""
        found = {"conv": self.take(f"{conv}.weight", shape)}
        outputs = (shape[0],)
        if norm is None:
            return {**found, "bias": self.take(f"{conv}.bias", outputs)}
        for name in _NORM:
            found[f"norm.{name}"] = self.take(f"{norm}.{name}", outputs)
        if f"{conv}.bias" in self.tensors:
            found["norm.running_mean"] = found["norm.running_mean"] - self.take(
                f"{conv}.bias", outputs
            )
        found[f"norm.{_COUNT}"] = self.take(f"{norm}.{_COUNT}", ())
        return found


def _placed(layer: dict[str, Tensor], block: str, number: int, normed: bool) -> dict[str, Tensor]:
    """A layer of :meth:`_Reader.layer` in the names of a ``ConvBlock``."""
    place = (3 if normed else 2) * number
    return {
        (
            f"{block}.{place + 1}.{name.removeprefix('norm.')}"
            if name.startswith("norm.")
            else f"{block}.{place}.{'weight' if name == 'conv' else name}"
        ): tensor
        for name, tensor in layer.items()
    }


def _renamed(
    tensors: Mapping[str, Tensor], block: str, number: int, names: tuple[str, str]
) -> dict[str, Tensor]:
    """A layer of a ``ConvBlock`` with norm, in the names (convolution, norm) of another program."""
    conv, norm = names
    return {
        f"{conv}.weight": tensors[f"{block}.{3 * number}.weight"],
        **{
            f"{norm}.{name}": tensors[f"{block}.{3 * number + 1}.{name}"]
            for name in (*_NORM, _COUNT)
        },
    }


def _has_more_channels(tensors: Mapping[str, Tensor], naming: Naming, width: int) -> bool:
    """Whether the last upsampling has channels beyond ``width`` that are read somewhere."""
    reading = tensors.get(f"{naming.decoder(0, 0)[0]}.weight")
    return reading is not None and bool(reading[:, 2 * width :].any())


def _own_layout(tensors: Mapping[str, Tensor], naming: Naming, width: int) -> dict[str, Tensor]:
    """The same tensors. The decoder has no added channels, and reads the upsampled ones last."""
    found = dict(tensors)
    for level in range(LEVELS):
        wide = width * 2**level
        up, bias = f"{naming.up(level)}.weight", f"{naming.up(level)}.bias"
        reading = f"{naming.decoder(level, 0)[0]}.weight"
        whole = {up, bias, reading} <= found.keys()  # what is missing is named later
        if whole and found[up].ndim == found[reading].ndim == 4 and found[bias].ndim == 1:
            found[up], found[bias] = found[up][:, :wide], found[bias][:wide]
            halves = found[reading][:, : 2 * wide].chunk(2, 1)
            found[reading] = torch.cat(halves[::-1] if naming.up_first else halves, 1)
    return found


def _decoder(reader: _Reader, naming: Naming, widths: list[int]) -> dict[str, Tensor]:
    """The decoder's tensors, the coarsest block first."""
    found: dict[str, Tensor] = {}
    for block in range(LEVELS):
        level = LEVELS - 1 - block
        wide, deep, up = widths[level], widths[level + 1], naming.up(level)
        weight = reader.take(f"{up}.weight", (deep, wide, 2, 2))
        found[f"ups.{block}.weight"] = from_transposed(weight)
        found[f"ups.{block}.bias"] = reader.take(f"{up}.bias", (wide,))
        for number, before in enumerate((2 * wide, wide)):
            layer = reader.layer(*naming.decoder(level, number), (wide, before, 3, 3))
            found |= _placed(layer, f"blocks.{block}", number, True)
    return found
