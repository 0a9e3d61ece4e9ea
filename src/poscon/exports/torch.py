"""``--to torch``: the weights, a Python file with the network, and a graph of ``torch.export``.

::

    OUT/
        weights.safetensors      as poscon names them; finetune --init takes the file
        network.py               needs torch and safetensors: network.load()
        network.pt2              needs torch: torch.export.load("network.pt2").module()
"""

import io
from pathlib import Path
from types import ModuleType

import torch

from poscon.errors import PosconError
from poscon.exports.source import one_file
from poscon.exports.trained import Trained, check_agreement, disagreement
from poscon.networks import layers, parts, residual, unet
from poscon.networks.weights import save_weights

WEIGHTS = "weights.safetensors"
_SOURCES = (unet, residual)
"""Modules that have an architecture each."""


def write_torch(trained: Trained, folder: Path) -> float:
    """Write the files.

    Args:
        trained: what is exported.
        folder: where to write; it is there.

    Returns:
        The largest relative difference of outputs, see :func:`disagreement`.

    Raises:
        PosconError: the network's source is not in poscon, or the outputs differ.
    """
    save_weights(folder / WEIGHTS, trained.network, trained.about)
    module = folder / "network.py"
    module.write_text(network_source(trained, _LOADER), encoding="utf-8")
    with torch.no_grad():
        expected = trained.network(trained.images)
        by_source = disagreement(imported(module).load()(trained.images), expected)
        check_agreement(by_source, module)
        graph = folder / "network.pt2"
        content = io.BytesIO()  # torch ends the process where it writes to a full disk itself
        torch.export.save(exported_graph(trained), content)
        graph.write_bytes(content.getbuffer())
        by_graph = disagreement(torch.export.load(graph).module()(trained.images), expected)
        check_agreement(by_graph, graph)
    return max(by_source, by_graph)


def exported_graph(trained: Trained) -> torch.export.ExportedProgram:
    """The graph of the network for batches and images of any size that its stride allows."""
    return torch.export.export(
        trained.network,
        (trained.images,),
        dynamic_shapes=(dynamic_sizes(trained.encoder.stride),),
    )


def dynamic_sizes(stride: int) -> dict[int, object]:
    """What may vary of images (B, C, H, W): the batch, and the extents in steps of the stride."""
    rows, columns = torch.export.Dim("rows", max=1024), torch.export.Dim("columns", max=1024)
    return {0: torch.export.Dim("batch"), 2: stride * rows, 3: stride * columns}


def network_source(trained: Trained, end: str = "") -> str:
    """A Python file whose ``build`` makes the network, with nothing but torch.

    Args:
        trained: what is exported.
        end: source of further functions.

    Raises:
        PosconError: the architecture is that of a plug-in.
    """
    architecture = type(trained.encoder)
    home = next((m for m in _SOURCES if m.__name__ == architecture.__module__), None)
    if home is None:
        raise PosconError(
            f"{trained.run}: its architecture {trained.settings.architecture!r} is that of another "
            "package, whose source cannot be put into one file; use --to onnx"
        )
    settings = {
        **trained.settings.model_dump(),
        "in_channels": trained.settings.in_channels,
        "stride": trained.settings.stride,
    }
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    lines = [f"encoder = {architecture.__name__}(SimpleNamespace({given}))"]
    if isinstance(trained.network, parts.SegmentationNetwork):
        lines += [
            "convolutions = encoder.decoder_convolutions",
            "decoder = Decoder(encoder.channels_of_level, convolutions=convolutions)",
            f"return SegmentationNetwork(encoder, decoder, {trained.network.n_classes})",
        ]
    else:
        lines += ["return encoder"]
    return one_file(
        "A network of poscon; build() makes it, with random weights.",
        [(layers, None), (parts, None), (home, None)],
        _BUILDER.format(lines="\n    ".join(lines)) + end,
    )


_BUILDER = """
from types import SimpleNamespace


def build() -> nn.Module:
    {lines}
"""
_LOADER = f"""
from pathlib import Path

from safetensors.torch import load_file


def load() -> nn.Module:
    network = build()
    network.load_state_dict(load_file(Path(__file__).with_name("{WEIGHTS}")))
    return network.eval()
"""


def imported(path: Path) -> ModuleType:
    """A Python file as a module. Nothing is written beside it, as an import would."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    return module
