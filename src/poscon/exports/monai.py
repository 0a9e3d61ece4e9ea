"""``--to monai``: a MONAI Bundle that segments scans.

::

    OUT/
        configs/inference.json   preparation, network, inferer, and writing of label maps
        configs/metadata.json    what the bundle is, in MONAI's form
        models/model.pt          the weights
        scripts/slices.py        slices of a volume, prepared as poscon does
        scripts/network.py       the network, where no network of MONAI can take the weights

MONAI's ``BasicUNet`` computes the same as the U-Net of 4 levels with a normalised bottleneck, see
:func:`poscon.networks.translations.basic_unet`.
"""

from pathlib import Path
from typing import Any

import monai.networks.nets
import nibabel
import numpy as np
import scipy
import torch

from poscon import errors
from poscon.errors import PosconError
from poscon.exports import slices
from poscon.exports.source import one_file
from poscon.exports.torch import imported, network_source
from poscon.exports.trained import Trained, check_agreement, disagreement
from poscon.models import Model
from poscon.networks.checkpoints import save_pickled
from poscon.networks.translations import LEVELS, basic_unet
from poscon.store import intensity, resample
from poscon.store.manifest import write_json
from poscon.training import inference
from poscon.version import __version__
from poscon.volumes import slabs

MODEL = Path("models") / "model.pt"
CONFIG = Path("configs") / "inference.json"
METADATA = Path("configs") / "metadata.json"
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
_AXES = {"axial": "SAR", "coronal": "ASR", "sagittal": "RSA"}
"""The directions of (slice, row, column), see :mod:`poscon.volumes.geometry`."""


def write_monai(trained: Trained, folder: Path) -> float:
    """Write the Bundle.

    Args:
        trained: what is exported, a fine-tuned model.
        folder: where to write; it is there.

    Returns:
        The largest relative difference of outputs, see :func:`disagreement`.

    Raises:
        PosconError: a pre-training, the source of the network is not in poscon, or the outputs
            differ.
    """
    model = trained.loaded
    if not isinstance(model, Model):
        raise PosconError(
            f"{trained.run}: a pre-training run, whose encoder segments nothing; use --to torch or "
            "--to onnx, or give a run of poscon finetune"
        )
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir()
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "slices.py").write_text(slices_source(), encoding="utf-8")
    definition, tensors = network_definition(trained)
    if is_basic_unet(trained):
        network = monai.networks.nets.BasicUNet(
            **{name: value for name, value in definition.items() if name != "_target_"}
        )
    else:
        path = folder / "scripts" / "network.py"
        path.write_text(network_source(trained), encoding="utf-8")
        network = imported(path).build()
    network.load_state_dict(tensors)
    save_pickled(tensors, folder / MODEL)
    write_json(folder / CONFIG, inference_config(model, definition))
    write_json(folder / METADATA, metadata(model))
    with torch.no_grad():
        found, expected = network.eval()(trained.images), trained.network(trained.images)
    difference = disagreement(found, expected)
    check_agreement(difference, folder / MODEL)
    return difference


def is_basic_unet(trained: Trained) -> bool:
    """Whether MONAI's ``BasicUNet`` computes what the network does."""
    network = trained.settings
    return network.architecture == "unet" and network.levels == LEVELS and network.bottleneck_norm


def network_definition(trained: Trained) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The network in a Bundle's words, and its weights."""
    tensors = trained.network.state_dict()
    if not is_basic_unet(trained):
        return {"_target_": "scripts.network.build"}, tensors
    width = trained.settings.width
    definition = {
        "_target_": "monai.networks.nets.BasicUNet",
        "spatial_dims": 2,
        "in_channels": trained.settings.in_channels,
        "out_channels": len(tensors["classifier.bias"]),
        "features": [*(width * 2**level for level in range(LEVELS + 1)), width],
        "act": ["leakyrelu", {"negative_slope": 0.01, "inplace": True}],
        "norm": "batch",
        "bias": False,
    }
    return definition, basic_unet(tensors, width)


def slices_source() -> str:
    """The source of :mod:`poscon.exports.slices` with all that it needs of poscon."""
    return one_file(
        "Slices of a volume, prepared as poscon prepares them.",
        [
            (errors, {"PosconError"}),
            (slabs, {"SLAB_VOXELS", "slabs"}),
            (
                intensity,
                {
                    *("CT_PERCENTILES", "OUTER_PERCENTILES", "SAMPLED_VOXELS", "AIR_HU"),
                    *("LOWEST_HU", "PADDING_BELOW_HU", "PADDING_SHARE", "PADDING_VOXELS"),
                    *("HOUNSFIELD_AIR", "Intensity", "guess_modality"),
                    *("normalise", "normalised", "intensity_of", "_padding_values", "_single"),
                    *(
                        "_filled",
                        "_every",
                        "_even_step",
                        "_all_equal",
                        "_percentiles",
                        "_rising",
                        "_value_of",
                    ),
                    "_without_margin",
                },
            ),
            (
                resample,
                {
                    *("LARGEST", "SAME_SPACING", "resampled_size", "resample_images"),
                    *("resample_probabilities", "_weights", "_interpolate"),
                },
            ),
            (inference, {"largest_component"}),
            (slices, None),
        ],
    )


def inference_config(model: Model, definition: dict[str, Any]) -> dict[str, Any]:
    """The content of ``configs/inference.json``."""
    settings = model.network.settings
    plane = max(model.training.planes, key=lambda name: model.training.planes[name])
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "input": "scans/*.nii.gz",
        "output_dir": "$@bundle_root + '/predictions'",
        "scans": "$sorted(glob.glob(@input))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": ["image"]},
                {"_target_": "EnsureChannelFirstd", "keys": ["image"]},
                {
                    "_target_": "Orientationd",
                    "keys": ["image"],
                    "axcodes": _AXES[plane],
                    "labels": None,
                },
                {
                    "_target_": "scripts.slices.Normalised",
                    "keys": ["image"],
                    "modalities": model.modalities,
                },
            ],
        },
        "inferer": {
            "_target_": "scripts.slices.SliceBySlice",
            "spacing": model.preparation.spacing,
            "size": model.size,
            "stride": settings.stride,
            "context": settings.context,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "scripts.slices.Classes",
                    "keys": ["pred"],
                    "values": [0, *model.scheme.values],
                    "keep_largest": model.keep_largest_component,
                },
                {
                    "_target_": "Invertd",
                    "keys": ["pred"],
                    "orig_keys": ["image"],
                    "transform": "@preprocessing",
                    "nearest_interp": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": ["pred"],
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "separate_folder": False,
                    "resample": False,
                    "output_dtype": f"$np.{np.min_scalar_type(max(model.scheme.values)).name}",
                    "print_log": False,
                },
            ],
        },
        "weights": f"$torch.load(@bundle_root + '/{MODEL.as_posix()}', weights_only=True)",
        "run": [
            "$@network.load_state_dict(@weights)",
            {
                "_target_": "scripts.slices.segment",
                "scans": "@scans",
                "preprocessing": "@preprocessing",
                "network": "@network",
                "inferer": "@inferer",
                "postprocessing": "@postprocessing",
            },
        ],
    }


def metadata(model: Model) -> dict[str, Any]:
    """The content of ``configs/metadata.json``."""
    settings = model.network.settings
    names = ["background", *(c.name for c in model.classes)]
    extents = [f"{settings.stride}*n", f"{settings.stride}*n"]
    channels = {str(i): channel for i, channel in enumerate(model.channels)}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by poscon {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": nibabel.__version__, "scipy": scipy.__version__},
        "name": f"Segmentation of {', '.join(names[1:])}",
        "task": f"Segment {', '.join(names[1:])} in slices of {' or '.join(model.training.planes)} "
        "scans",
        "description": f"A 2-D network ({settings.architecture}) trained by poscon finetune. "
        "MODEL_CARD.md says on what.",
        "authors": "not stated",
        "copyright": "not stated",
        "intended_use": "Research only; not for diagnosis or treatment.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "+".join(sorted({m or "CT or MR" for m in model.modalities})),
                    "num_channels": settings.in_channels,
                    "spatial_shape": extents,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "spatial_shape": extents,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(names)},
                }
            },
        },
    }
