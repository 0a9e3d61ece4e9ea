"""The same work with MONAI."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset
from monai.data.utils import worker_init_fn as init_worker
from monai.inferers import SliceInferer
from torch import Tensor
from torch.utils.data import Dataset

from poscon.models import Model
from poscon.store.intensity import CT_PERCENTILES
from poscon.training.data import SliceReader
from poscon.training.inference import batch_slices
from poscon.views import ViewSettings
from poscon.volumes.case import Case
from versus.slices import read_slice

__all__ = ["Prepare", "Segment", "SliceViews", "init_worker"]

VIEWS = ("view_0", "view_1")


class SliceViews(Dataset):
    """Two views of a slice at a time; all slices are cached in memory.

    Turn, zoom, shift and elastic deformation are one warp, linear, as in poscon: a chain of
    RandRotated, RandZoomd and Rand2DElasticd interpolates three times.
    """

    def __init__(self, reader: SliceReader, size: int, settings: ViewSettings) -> None:
        slices = [
            {"image": torch.from_numpy(read_slice(reader, i)), "position": reader.positions[i]}
            for i in range(len(reader))
        ]
        view_transforms = [t for view in VIEWS for t in _view(view, size, settings)]
        self.items = CacheDataset(
            slices,
            mt.Compose(
                [
                    mt.CopyItemsd("image", times=len(VIEWS), names=VIEWS),
                    *view_transforms,
                    mt.ConcatItemsd(VIEWS, "views"),
                    mt.EnsureTyped("views", track_meta=False),
                ]
            ),
            progress=False,
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        item = self.items[index]
        return item["views"], float(item["position"])


def _view(key: str, size: int, settings: ViewSettings) -> list[Any]:
    low, high = settings.scale
    return [
        mt.Rand2DElasticd(
            key,
            spacing=(size / (settings.elastic_points - 1),) * 2,
            magnitude_range=(0, 2 * settings.elastic * size),
            prob=1,
            rotate_range=math.radians(settings.rotation),
            scale_range=((low - 1, high - 1),) * 2,
            translate_range=(settings.shift * size,) * 2,
            mode="bilinear",
            padding_mode="zeros",
        ),
        mt.RandAdjustContrastd(key, prob=1, gamma=(1 / (1 + settings.gamma), 1 + settings.gamma)),
        mt.RandScaleIntensityd(key, factors=settings.contrast, prob=1),
        mt.RandShiftIntensityd(key, offsets=settings.brightness, prob=1),
        mt.RandGaussianNoised(key, prob=1, std=settings.noise),
    ]


class Prepare:
    """One case: canonical orientation, normalised, resampled in plane.

    Args:
        spacing: mm per pixel.
        modality: ``"CT"`` or ``"MR"``.
    """

    def __init__(self, spacing: float, modality: str) -> None:
        keys = ("image", "label")
        self.transform = mt.Compose(
            [
                mt.LoadImaged(keys, ensure_channel_first=True, allow_missing_keys=True),
                mt.Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
                *_normalise(modality),
                mt.Spacingd(
                    keys,
                    pixdim=(spacing, spacing, -1),
                    mode=("bilinear", "nearest"),
                    dtype=np.float32,
                    allow_missing_keys=True,
                ),
            ]
        )

    def __call__(self, case: Case) -> tuple[np.ndarray, np.ndarray | None]:
        files = {"image": case.image, "label": case.label}
        item = self.transform({key: file for key, file in files.items() if file is not None})
        label = item["label"][0].numpy() if case.label is not None else None
        return item["image"][0].numpy(), label


class Segment:
    """One file: prepared, its slices segmented, the scores resampled back, written.

    Args:
        model: the network, and how its scans are prepared.
        target: folder for the label maps, under the names of the scans.
    """

    def __init__(self, model: Model, target: Path) -> None:
        self.network = model.network
        spacing, size, stride = model.preparation.spacing, model.size, self.network.encoder.stride
        self.before = mt.Compose(
            [
                mt.LoadImaged("image", ensure_channel_first=True),
                mt.Orientationd("image", axcodes="RAS", labels=None),
                *_normalise(model.modalities[0]),
                mt.Spacingd("image", pixdim=(spacing, spacing, -1), dtype=np.float32),
                mt.SpatialPadd("image", spatial_size=(size, size, -1)),
                mt.DivisiblePadd("image", k=(stride, stride, 1)),
            ]
        )
        self.after = mt.Compose(
            [
                mt.Invertd("scores", self.before, "image", nearest_interp=False, to_tensor=True),
                mt.AsDiscreted("scores", argmax=True),
                mt.SaveImaged(
                    "scores",
                    output_dir=target,
                    output_postfix="",
                    output_dtype=np.uint8,
                    separate_folder=False,
                    print_log=False,
                ),
            ]
        )

    @torch.no_grad()
    def __call__(self, path: Path) -> None:
        item = self.before({"image": path})
        device = next(self.network.parameters()).device
        image = item["image"][None].to(device)
        in_plane = image.shape[2:4]
        inferer = SliceInferer(
            roi_size=in_plane,
            sw_batch_size=batch_slices(in_plane.numel(), device),
            spatial_dim=2,
        )
        item["scores"] = inferer(image, self._network)[0].cpu()
        self.after(item)

    def _network(self, slices: Tensor) -> Tensor:
        """The network has learnt rows that run to the front; here they run to the right."""
        return self.network(slices.mT).mT


def _normalise(modality: str | None) -> list[Any]:
    low, high = CT_PERCENTILES
    clip = mt.ScaleIntensityRangePercentilesd("image", low, high, b_min=0, b_max=1, clip=True)
    return [*([clip] if modality == "CT" else []), mt.NormalizeIntensityd("image")]
