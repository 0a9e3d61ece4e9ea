"""The one place that builds networks from their settings."""

from poscon.networks.architectures import find_architecture
from poscon.networks.parts import Decoder, Encoder, SegmentationNetwork
from poscon.networks.settings import NetworkSettings


def build_encoder(settings: NetworkSettings, dimensions: int = 2) -> Encoder:
    """The encoder of an architecture, with random weights.

    Args:
        settings: name the architecture and its size.
        dimensions: number of dimensions of the images, 2 or 3.

    Raises:
        PosconError: an unknown architecture.
    """
    return find_architecture(settings.architecture)(settings, dimensions)


def build_decoder(encoder: Encoder, *, blocks: int | None = None) -> Decoder:
    """The decoder that goes with an encoder, with random weights.

    Args:
        encoder: gives the features.
        blocks: how many levels it climbs; None: all, up to full resolution.
    """
    return encoder.new_decoder(blocks)


def build_network(
    settings: NetworkSettings, n_classes: int, dimensions: int = 2
) -> SegmentationNetwork:
    """A segmentation network with random weights.

    Args:
        settings: name the architecture and its size.
        n_classes: with the background.
        dimensions: number of dimensions of the images, 2 or 3.

    Raises:
        PosconError: an unknown architecture.
    """
    encoder = build_encoder(settings, dimensions)
    return SegmentationNetwork(encoder, build_decoder(encoder), n_classes)
