"""Runs to export, made without a training: the files that a run of a small network has."""

from pathlib import Path
from typing import Any

import torch
import yaml

from poscon.exports.trained import Trained, read_trained
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import read_weights, save_weights

SMALL: dict[str, Any] = {"width": 2, "levels": 2, "channels": 1}


def fake_run(
    like: Path,
    folder: Path,
    *,
    preparation: dict[str, Any] | None = None,
    first_value: int | None = None,
    **network: Any,
) -> Path:
    """A run folder with another network than the run that it is like; random weights.

    Args:
        like: a fine-tuning run, whose records are taken.
        folder: to write.
        preparation: what is changed of the preparation.
        first_value: the label value of the first class; None: as it is.
        network: what is changed of the network's settings.
    """
    settings = NetworkSettings(**{**SMALL, **network})
    _, about = read_weights(like / "model.safetensors")
    config = yaml.safe_load((like / "config.yaml").read_text())
    config["settings"]["network"] = settings.model_dump()
    torch.manual_seed(3)
    model = build_network(settings, len(about["classes"]) + 1)
    with torch.no_grad():
        side = 2 * settings.stride
        model(torch.randn(4, settings.in_channels, side, side))  # running statistics
    folder.mkdir(parents=True)
    about |= {
        "network": settings.model_dump(),
        "preparation": {**about["preparation"], **(preparation or {})},
    }
    if first_value is not None:
        first, *others = about["classes"]
        about["classes"] = [{**first, "values": [first_value]}, *others]
    save_weights(folder / "model.safetensors", model, about)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "cases.json").write_bytes((like / "cases.json").read_bytes())
    return folder


def fake_trained(like: Path, folder: Path, **network: Any) -> Trained:
    return read_trained(fake_run(like, folder, **network))
