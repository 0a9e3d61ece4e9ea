"""The same work with TorchIO."""

import math
from pathlib import Path

import numpy as np
import SimpleITK
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset

from poscon.models import Model
from poscon.store.intensity import CT_PERCENTILES
from poscon.training.data import SliceReader
from poscon.training.inference import batch_slices
from poscon.views import ViewSettings
from poscon.volumes.case import Case
from versus.slices import read_slice

VIEWS = ("view_0", "view_1")


def init_worker(_: int) -> None:
    """A worker has one core, so ITK has one thread."""
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


class SliceViews(Dataset):
    """Two views of a slice at a time, as volumes of one slice; all are held in memory.

    Without TorchIO's queue: it cuts patches out of volumes, and makes less ahead than a loader.
    TorchIO changes no brightness or contrast at random, so these are left out.
    """

    def __init__(self, reader: SliceReader, size: int, settings: ViewSettings) -> None:
        subjects = []
        for index in range(len(reader)):
            voxels = torch.from_numpy(read_slice(reader, index))[..., None]
            images = {view: tio.ScalarImage(tensor=voxels) for view in VIEWS}
            subjects.append(tio.Subject(position=float(reader.positions[index]), **images))
        view_transforms = [t for view in VIEWS for t in _view(view, size, settings)]
        self.subjects = tio.SubjectsDataset(subjects, transform=tio.Compose(view_transforms))

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        subject = self.subjects[index]
        views = torch.cat([subject[view].data[..., 0] for view in VIEWS])
        return views, subject["position"]


def _view(key: str, size: int, settings: ViewSettings) -> list[tio.Transform]:
    low, high = settings.scale
    shift, points = settings.shift * size, settings.elastic_points
    return [
        tio.RandomAffine(
            scales=(low, high, low, high, 1, 1),
            degrees=(0, 0, 0, 0, -settings.rotation, settings.rotation),
            translation=(-shift, shift, -shift, shift, 0, 0),
            default_pad_value=0,
            include=[key],
        ),
        tio.RandomElasticDeformation(
            num_control_points=(points, points, 4),
            max_displacement=(2 * settings.elastic * size,) * 2 + (0,),
            locked_borders=0,
            include=[key],
        ),
        tio.RandomGamma(log_gamma=math.log1p(settings.gamma), include=[key]),
        tio.RandomNoise(std=(0, settings.noise), include=[key]),
    ]


class Prepare:
    """One case: canonical orientation, normalised, resampled in plane.

    Args:
        spacing: mm per pixel.
        modality: ``"CT"`` or ``"MR"``.
    """

    def __init__(self, spacing: float, modality: str) -> None:
        self.spacing = spacing
        self.canonical = tio.ToCanonical()
        self.normalise = _normalise(modality)

    def __call__(self, case: Case) -> tuple[np.ndarray, np.ndarray | None]:
        subject = tio.Subject(image=tio.ScalarImage(case.image))
        if case.label is not None:
            subject.add_image(tio.LabelMap(case.label), "label")
        subject = self.normalise(self.canonical(subject))
        subject = _resample_in_plane(subject, self.spacing)
        label = subject["label"].data[0].numpy() if case.label is not None else None
        return subject["image"].data[0].numpy(), label


class Segment:
    """One file: prepared, its slices segmented, the classes resampled back, written.

    Args:
        model: the network, and how its scans are prepared.
        target: folder for the label maps, under the names of the scans.
    """

    def __init__(self, model: Model, target: Path) -> None:
        self.model = model
        self.target = target
        self.before = tio.Compose([tio.ToCanonical(), _normalise(model.modalities[0])])

    @torch.no_grad()
    def __call__(self, path: Path) -> None:
        subject = self.before(tio.Subject(image=tio.ScalarImage(path)))
        assert self.model.preparation.spacing is not None
        subject = _resample_in_plane(subject, self.model.preparation.spacing)
        network = self.model.network
        stride = network.encoder.stride
        *in_plane, slices = subject.spatial_shape
        width, height = (max(self.model.size, -(-n // stride) * stride) for n in in_plane)
        subject = tio.CropOrPad((width, height, slices))(subject)
        sampler = tio.GridSampler(subject, patch_size=(width, height, 1), patch_overlap=0)
        aggregator = tio.GridAggregator(sampler)
        device = next(network.parameters()).device
        batch_size = batch_slices(width * height, device)
        for batch in tio.SubjectsLoader(sampler, batch_size=batch_size):
            # the network has learnt rows that run to the front; here they run to the right
            images = batch["image"][tio.DATA][..., 0].to(device).mT
            classes = network(images).argmax(1, keepdim=True).mT
            aggregator.add_batch(classes[..., None].byte().cpu(), batch[tio.LOCATION])
        classes = aggregator.get_output_tensor()
        labels = tio.LabelMap(tensor=classes, affine=subject["image"].affine)
        tio.Resample(path)(labels).save(self.target / path.name)


def _normalise(modality: str | None) -> tio.Transform:
    if modality == "CT":
        clip = tio.RescaleIntensity((0, 1), percentiles=CT_PERCENTILES)
        return tio.Compose([clip, tio.ZNormalization()])
    return tio.ZNormalization()


def _resample_in_plane(subject: tio.Subject, spacing: float) -> tio.Subject:
    return tio.Resample((spacing, spacing, subject["image"].spacing[2]))(subject)
