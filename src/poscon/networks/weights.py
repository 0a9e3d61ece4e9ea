"""Weights on disk, with what is needed to rebuild the network around them; loading by name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from poscon.errors import PosconError
from poscon.files import complete, parse_json
from poscon.networks.settings import NetworkSettings

Module = TypeVar("Module", bound=nn.Module)


def save_weights(path: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a module's parameters and buffers as safetensors; the file is complete or absent.

    The same weights and values make the same bytes: safetensors has its metadata in an order that
    changes, and here they are sorted.

    Args:
        path: target.
        module: its state is written under its own names.
        about: JSON values kept in the file's metadata.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()
    }
    metadata = {name: json.dumps(value) for name, value in about.items()}
    with complete(path) as part:
        try:
            part.write_bytes(_sorted_header(save(tensors, metadata=metadata)))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _sorted_header(content: bytes) -> bytes:
    """A safetensors file with its metadata in the order of their names."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_weights` wrote.

    Raises:
        PosconError: missing, damaged, or not written by poscon.
    """
    return parse_weights(weights_file(path), path)


def weights_file(path: Path) -> bytes:
    """The bytes that :func:`save_weights` wrote.

    Raises:
        PosconError: missing, or it cannot be read.
    """
    if not path.is_file():
        raise PosconError(f"{path}: no such file; did the run finish? (continue it with --resume)")
    try:
        return path.read_bytes()  # safetensors opens no path that is not UTF-8
    except OSError as error:
        raise PosconError(f"{path}: damaged or not a poscon file ({error})") from error


def parse_weights(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata in the bytes of a file of :func:`save_weights`.

    Args:
        content: the bytes.
        path: the file, for messages.

    Raises:
        PosconError: damaged, or not written by poscon.
    """
    try:
        tensors = load(content)
        if not tensors:
            raise ValueError("it has no tensors")
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__") or {}
        return tensors, {name: parse_json(text) for name, text in metadata.items()}
    except (SafetensorError, ValueError) as error:
        raise PosconError(f"{path}: damaged or not a poscon file ({error})") from error


def network_settings(about: Mapping[str, Any], path: Path) -> NetworkSettings:
    """The architecture that a file's weights belong to.

    Raises:
        PosconError: the file does not state one that can be built.
    """
    try:
        stated = about["network"]
        if isinstance(stated.get("plans"), str):  # the path of another file
            raise TypeError
        return NetworkSettings.model_validate(stated)
    except (ValidationError, AttributeError, KeyError, TypeError) as error:
        raise PosconError(f"{path}: does not say what network it belongs to") from error
    except PosconError as error:
        raise PosconError(f"{path}: {error}") from error


def load_whole(build: Callable[[], Module], tensors: Mapping[str, Tensor], *, where: str) -> Module:
    """A network with the tensors of a file, which must have all of its own.

    The shapes are compared before memory is taken for the network, whatever size it is said to be.

    Args:
        build: makes the network.
        tensors: by name.
        where: the file, for the message.

    Raises:
        PosconError: a tensor is missing or has another shape.
    """
    with torch.device("meta"):
        state = build().state_dict()
    for name, own in state.items():
        if name not in tensors or tensors[name].shape != own.shape:
            raise PosconError(
                f"{where}: damaged ({name} is missing, or has not the shape {tuple(own.shape)} of "
                "the network that it names); fetch it again, or train it again"
            )
    network = build()
    load_by_name(network, tensors, where=where)
    return network


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_by_name` did: names of tensors."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        for names, what in ((self.missing, "kept as initialised"), (self.unused, "not used")):
            if names:
                text += (
                    f", {len(names)} {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
                )
        return text


def load_by_name(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> LoadReport:
    """Copy tensors into the parameters and buffers of the same name.

    Args:
        module: changed in place.
        tensors: by name.
        where: what to name in an error message.

    Raises:
        PosconError: a name fits but its shape does not, or no name fits; nothing is changed.
    """
    state = module.state_dict()
    shared = [name for name in state if name in tensors]
    if not shared:
        raise PosconError(f"{where}: none of its {len(tensors)} tensors has a place in the network")
    for name in shared:
        if state[name].shape != tensors[name].shape:
            raise PosconError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the network's is "
                f"{tuple(state[name].shape)}; it is a checkpoint of another architecture"
            )
    with torch.no_grad():
        for name in shared:
            state[name].copy_(tensors[name])
    return LoadReport(
        loaded=tuple(shared),
        missing=tuple(name for name in state if name not in tensors),
        unused=tuple(name for name in tensors if name not in state),
    )
