"""Files of weights that a training may start from: those of this package, and of two others."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poscon.errors import PosconError
from poscon.networks.settings import NetworkSettings
from poscon.networks.translations import naming_of, translate
from poscon.networks.weights import network_settings, read_weights

PARTS = ("encoder", "decoder")
"""The parts of a network whose weights do not depend on the classes."""
SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt")
_WRAPPERS = ("net", "state_dict", "model", "network_weights")
"""Keys under which programs put the weights in a file, the first that fits."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, in the names of this package.

    Attributes:
        path: the file.
        settings: the network that they belong to.
        parts: ``encoder`` and perhaps ``decoder``: their tensors by name.
        unused: names of tensors that have no place in these parts.
        about: what the file says of itself; nothing if it is of another program.
    """

    path: Path
    settings: NetworkSettings
    parts: dict[str, dict[str, Tensor]]
    unused: tuple[str, ...]
    about: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of this package, of the published PCL, or of MONAI's ``BasicUNet``.

    A pickled file is read without running what is in it.

    Args:
        path: ``.safetensors``, ``.pth``, ``.pt`` or ``.ckpt``.

    Raises:
        PosconError: damaged, another format, or weights of a network that is not known.
    """
    if path.suffix == SAFETENSORS:
        tensors, about = read_weights(path)
        if "network" in about:
            return _own(tensors, about, path)
    elif path.suffix in PICKLED:
        tensors, about = _unpickled(path), {}
    else:
        raise PosconError(
            f"{path}: not a file of weights that poscon reads "
            f"({', '.join((SAFETENSORS, *PICKLED))})"
        )
    naming = naming_of(tensors)
    if naming is None:
        raise PosconError(
            f"{path}: its {len(tensors)} tensors, such as {next(iter(tensors))!r}, are those of no "
            "network that poscon knows: its own, the published one of PCL, MONAI's BasicUNet"
        )
    found = translate(tensors, naming, where=str(path))
    return Checkpoint(path, found.settings, found.parts, found.unused, {})


def _own(tensors: Mapping[str, Tensor], about: dict[str, Any], path: Path) -> Checkpoint:
    """The weights of an encoder, or of the parts of a network, as this package writes them."""
    settings = network_settings(about, path)
    parts = {
        part: {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{part}.")
        }
        for part in PARTS
    }
    if not parts["encoder"]:
        return Checkpoint(path, settings, {"encoder": dict(tensors)}, (), about)
    unused = tuple(name for name in tensors if name.partition(".")[0] not in PARTS)
    kept = {part: found for part, found in parts.items() if found}
    return Checkpoint(path, settings, kept, unused, about)


def save_pickled(content: Mapping[str, Any], path: Path) -> None:
    """Write with ``torch.save``. Where the disk is full this is an OSError, unlike torch's own.

    Args:
        content: tensors, and what holds them, by name.
        path: file to write.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def load_pickled(path: Path) -> Any:
    """What a file of ``torch.save`` holds. Nothing that is in it is run.

    Raises:
        ValueError: it is packed, which ``torch.save`` never does, so that no file is small and
            takes much memory. Errors of other files are of many kinds.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("a packed archive, which torch.save does not write")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forms that it refuses next
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_whole(tensor: Any) -> bool:
    """Whether a value is a tensor with all of its numbers in the file, not one that repeats few."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of ``torch.save``, by name.

    Raises:
        PosconError: the file cannot be read, or holds anything but named tensors.
    """
    try:
        content = load_pickled(path)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise PosconError(f"{path}: cannot be read as weights ({reason})") from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = isinstance(content, Mapping) and all(
        isinstance(name, str) and _is_whole(tensor) for name, tensor in content.items()
    )
    if not named or not content:
        raise PosconError(f"{path}: does not hold weights: named tensors, or a dictionary of them")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}
