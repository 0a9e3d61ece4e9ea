"""``--to nnunet``: the weights for ``nnUNetv2_train ... -pretrained_weights``.

::

    OUT/
        pretrained.pth           {"network_weights": tensors by nnU-Net's names}

nnU-Net asks for every tensor of its network but those of the segmentation layers. So the file has
the decoder too, also where pre-training trained only the encoder. A decoder that was not trained
has the values from which ``poscon finetune`` would start with the seed of the run. nnU-Net has most
layers under two or three names; the file has them all.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from poscon.errors import PosconError
from poscon.exports.trained import Trained, check_agreement, disagreement
from poscon.networks.build import build_network
from poscon.networks.checkpoints import save_pickled
from poscon.networks.nnunet import build_unet
from poscon.networks.nnunet_plans import NnunetPlans
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.weights import load_by_name, read_weights
from poscon.seeds import stream
from poscon.training.run import part_file

WEIGHTS = "pretrained.pth"
KEY = "network_weights"
"""The key under which nnU-Net looks for the weights."""
HEADS = ".seg_layers."
"""Part of the names of the tensors that nnU-Net does not take from a pre-training."""


def write_nnunet(trained: Trained, folder: Path) -> float:
    """Write the file.

    Args:
        trained: what is exported, of architecture ``nnunet``.
        folder: where to write; it is there.

    Returns:
        The largest relative difference of the encoder's features and the decoder's last map.

    Raises:
        PosconError: the network is not nnU-Net's, its library is not installed, or the outputs
            differ.
    """
    whole = whole_network(trained)
    plans = plans_of_run(trained)
    path = folder / WEIGHTS
    save_pickled({KEY: nnunet_tensors(whole.network, plans)}, path)
    theirs = build_unet(plans, plans.channels)
    theirs.load_state_dict(torch.load(path, weights_only=True)[KEY], strict=False)
    theirs.decoder.seg_layers[-1] = nn.Identity()  # it then gives the decoder's last map
    with torch.no_grad():
        features = whole.network.encoder(trained.images)
        expected = [*features, whole.network.decoder(features)[-1]]
        found = [*theirs.encoder(trained.images), theirs(trained.images)]
    difference = disagreement(found, expected)
    check_agreement(difference, path)
    return difference


def plans_of_run(trained: Trained) -> NnunetPlans:
    """The plans of nnU-Net that the network was built from.

    Raises:
        PosconError: it is another network.
    """
    if trained.settings.plans is None:
        raise PosconError(
            f"{trained.run}: its architecture {trained.settings.architecture!r} is not nnU-Net's; "
            "pre-train with --set network.architecture=nnunet --set network.plans=FILE"
        )
    return trained.settings.plans


@dataclass(frozen=True)
class Whole:
    """Encoder and decoder of a run.

    Attributes:
        network: with all weights that the run has.
        untrained: names of the decoder's tensors that are as they were initialised.
    """

    network: SegmentationNetwork
    untrained: tuple[str, ...]


def whole_network(trained: Trained) -> Whole:
    """The network of a run, with a decoder.

    Raises:
        PosconError: the file of the decoder is damaged.
    """
    if isinstance(trained.network, SegmentationNetwork):
        return Whole(trained.network, ())
    torch.manual_seed(stream(trained.config["settings"]["seed"], "initialisation"))
    network = build_network(trained.settings, 2).eval()
    network.encoder.load_state_dict(trained.encoder.state_dict())
    path = part_file(trained.run, "decoder")
    if not path.is_file():
        return Whole(network, tuple(network.decoder.state_dict()))
    tensors, _ = read_weights(path)
    return Whole(network, load_by_name(network.decoder, tensors, where=str(path)).missing)


def nnunet_tensors(network: SegmentationNetwork, plans: NnunetPlans) -> dict[str, Tensor]:
    """The weights by all of nnU-Net's names, without those of the segmentation layers."""
    theirs = build_unet(plans, plans.channels)
    decoder = {
        name.replace("ups.", "transpconvs.", 1).replace("blocks.", "stages.", 1): tensor
        for name, tensor in network.decoder.state_dict().items()
    }
    # layers that have several names are the same layers, so one name is enough
    encoder = network.encoder.get_submodule("layers").state_dict()
    theirs.encoder.load_state_dict(encoder, strict=False)
    theirs.decoder.load_state_dict(decoder, strict=False)
    return {name: tensor for name, tensor in theirs.state_dict().items() if HEADS not in name}


def note(trained: Trained) -> str:
    """For the model card: which network it is, and what of it was not trained."""
    plans = plans_of_run(trained)
    rows, columns = plans.patch_size
    name = plans.network_class.rpartition(".")[2]
    network = (
        f"It fits a `{name}` with the features {', '.join(map(str, plans.features))} and "
        f"{plans.channels} input channel(s). The plans say patches of {rows} x {columns} pixels "
        f"of {plans.spacing[0]:g} x {plans.spacing[1]:g} mm."
    )
    whole = whole_network(trained)
    n, total = len(whole.untrained), len(whole.network.decoder.state_dict())
    if not n:
        return f"{network} Encoder and decoder were trained."
    of = "The decoder was" if n == total else f"{n} of the {total} tensors of the decoder were"
    seed = trained.config["settings"]["seed"]
    return f"{network} {of} not trained, and has the random start of seed {seed}."
