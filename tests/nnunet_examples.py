"""Plans files of nnU-Net v2, as small as can be, and the network that nnU-Net builds from them."""

import json
from pathlib import Path
from typing import Any

import torch

LIBRARY = "dynamic_network_architectures.architectures.unet"


def plans_of_nnunet(
    network: str = "PlainConvUNet",
    *,
    features: list[int] | None = None,
    strides: list[list[int]] | None = None,
    channels: int = 1,
    **arguments: Any,
) -> dict[str, Any]:
    """The content of a plans file.

    Args:
        network: its class.
        features: channels of each level.
        strides: of each level.
        channels: image channels.
        arguments: what is changed of the arguments of the class.
    """
    features = features or [2, 4, 8]
    n = len(features)
    blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    architecture = {
        "network_class_name": f"{LIBRARY}.{network}",
        "arch_kwargs": {
            "n_stages": n,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * n,
            "strides": strides or [[1, 1], *[[2, 2]] * (n - 1)],
            blocks: [2] * n,
            "n_conv_per_stage_decoder": [2 if network == "PlainConvUNet" else 1] * (n - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **arguments,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    two = {
        "data_identifier": "nnUNetPlans_2d",
        "batch_size": 8,
        "patch_size": [32, 24],
        "spacing": [6.0, 6.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "architecture": architecture,
    }
    return {"dataset_name": "Dataset001_x", "configurations": {"2d": two, "3d_fullres": {}}}


def write_plans(path: Path, network: str = "PlainConvUNet", **how: Any) -> Path:
    path.write_text(json.dumps(plans_of_nnunet(network, **how)))
    return path


def network_of_nnunet(plans: dict[str, Any], n_classes: int, *, deep_supervision: bool) -> Any:
    """The network as nnU-Net v2 builds it for a training (``get_network_from_plans``)."""
    from dynamic_network_architectures.architectures import unet

    configuration = plans["configurations"]["2d"]
    architecture = configuration["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = getattr(torch.nn, arguments[name].rpartition(".")[2])
    made = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    network = made(
        input_channels=len(configuration["normalization_schemes"]),
        num_classes=n_classes,
        **{**arguments, "deep_supervision": deep_supervision},
    )
    network.apply(network.initialize)
    return network
