"""What there is to export of a run: its network and everything that is recorded of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poscon.errors import PosconError
from poscon.leakage import read_entries
from poscon.models import FeatureExtractor, Model
from poscon.networks.parts import Encoder, SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import read_weights
from poscon.training.run import MODEL, RunFolder, part_file

AGREEMENT = 1e-4
"""Outputs of an exported network may differ from those of poscon's by so much, relative to the
largest of them."""


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        run: its folder.
        loaded: the model of a fine-tuning, or the encoder of a pre-training, on the CPU.
        about: what the file of the weights says of itself.
        config: the ``config.yaml`` of the run.
        entries: the scans that were trained on, see :func:`poscon.leakage.read_entries`.
    """

    run: Path
    loaded: Model | FeatureExtractor
    about: dict[str, Any]
    config: dict[str, Any]
    entries: list[dict[str, Any]]

    @property
    def network(self) -> SegmentationNetwork | Encoder:
        """The whole network of a fine-tuning, the encoder of a pre-training; evaluation mode."""
        return self.loaded.network if isinstance(self.loaded, Model) else self.loaded.encoder

    @property
    def encoder(self) -> Encoder:
        network = self.network
        return network if isinstance(network, Encoder) else network.encoder

    @property
    def settings(self) -> NetworkSettings:
        return self.encoder.settings

    @cached_property
    def images(self) -> Tensor:
        """Two random images, on which an exported network is compared with poscon's."""
        side = self.encoder.stride * max(2, -(-32 // self.encoder.stride))
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, self.encoder.in_channels, side, 2 * side, generator=generator)


def read_trained(run: Path) -> Trained:
    """Read a run of ``poscon finetune`` or ``poscon pretrain``.

    Raises:
        PosconError: no such run, or it has not ended.
    """
    if not run.is_dir():
        raise PosconError(f"{run}: no such folder; give that of a run")
    if not (run / MODEL).is_file() and not part_file(run, "encoder").is_file():
        raise PosconError(
            f"{run}: no model to export; give the folder of a run that has ended (continue one "
            "with --resume)"
        )
    loaded: Model | FeatureExtractor
    if (run / MODEL).is_file():
        loaded, path = Model(run, "cpu"), run / MODEL
    else:
        loaded, path = FeatureExtractor(run, "cpu"), part_file(run, "encoder")
    network = loaded.network if isinstance(loaded, Model) else loaded.encoder
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    _, about = read_weights(path)
    return Trained(run, loaded, about, RunFolder(run).read_config(), read_entries(run))


@torch.no_grad()
def disagreement(found: Tensor | list[Tensor], expected: Tensor | list[Tensor]) -> float:
    """The largest difference of two networks' outputs, relative to the largest output.

    Args:
        found: a tensor or, of an encoder, one for each level.
        expected: the same of poscon's network.
    """
    pairs = zip(
        [found] if isinstance(found, Tensor) else found,
        [expected] if isinstance(expected, Tensor) else expected,
        strict=True,
    )
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


def check_agreement(difference: float, path: Path) -> None:
    """Refuse an export whose network computes something else.

    Raises:
        PosconError: the difference is larger than :data:`AGREEMENT`, or NaN.
    """
    if not difference <= AGREEMENT:
        raise PosconError(
            f"{path.name}: its outputs differ from those of poscon's network by {difference:.1e} "
            f"(at most {AGREEMENT:.0e}); nothing was written, choose another format"
        )
