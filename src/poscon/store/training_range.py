"""What a network was trained on, so that a scan which is unlike it can be told.

A network answers for every scan, whatever it shows. The file of its weights therefore holds the
range of its training data: planes, spacings, intensities. Every scan that it is given is compared
with that range, and what differs is said in words. The thresholds are the constants below.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from msgspec.structs import asdict
from pydantic import BaseModel, ConfigDict, ValidationError

from poscon.errors import PosconError
from poscon.store.manifest import CaseRecord, IntensityRecord, Preparation
from poscon.store.store import Store
from poscon.volumes.geometry import SliceGeometry

COARSER = 2.0
"""A spacing more than this many times that of the coarsest training case is unlike the training."""
FINER = 2.0
"""Pixels that are finer than the finest of the training by this factor are unlike the training. It
counts only where slices are not resampled."""
PERCENTILE_MARGIN = 1.5
"""Standard deviations of the scan by which its 1st or 99th percentile may lie outside the range."""
CT_MEAN_MARGIN = 1.0
"""The mean of a CT may lie this far outside the means of the training cases. The unit is the
largest standard deviation of a training case. Hounsfield units are absolute, so the mean says
something."""

SpacingFrom = Literal["header", "layout", "user"]
Plane = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Difference:
    """How a scan differs from what a network was trained on.

    Attributes:
        kind: ``plane``, ``spacing``, ``modality``, ``intensity`` or ``channel``.
        text: what differs, in words.
    """

    kind: str
    text: str


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChannelRange(_Range):
    """One image channel of the training cases.

    Attributes:
        name: name of the channel.
        modalities: ``"CT"``, ``"MR"`` or both: what its scans were normalised as.
        looks_like: what their values look like.
        low: smallest and largest 1st percentile of the normalised values.
        high: smallest and largest 99th percentile.
        mean: smallest and largest mean of the intensities.
        std: largest standard deviation of the intensities.
    """

    name: str
    modalities: tuple[str, ...]
    looks_like: tuple[str, ...]
    low: tuple[float, float]
    high: tuple[float, float]
    mean: tuple[float, float]
    std: float

    @classmethod
    def of(cls, name: str, records: Sequence[IntensityRecord]) -> Self:
        """The range of the channel's records, one for each training case."""
        low, high = zip(*(record.percentiles for record in records), strict=True)
        means = [record.mean for record in records]
        return cls(
            name=name,
            modalities=tuple(sorted({record.modality for record in records})),
            looks_like=tuple(sorted({record.looks_like for record in records})),
            low=(min(low), max(low)),
            high=(min(high), max(high)),
            mean=(min(means), max(means)),
            std=max(record.std for record in records),
        )

    @property
    def modality(self) -> str | None:
        """``"CT"`` or ``"MR"``; None where the training data had both."""
        return self.modalities[0] if len(self.modalities) == 1 else None

    def differences(self, record: IntensityRecord) -> list[Difference]:
        """How the intensities of a scan differ from those of the training cases."""
        found = []
        if record.looks_like not in self.looks_like:
            found.append(
                Difference(
                    "modality",
                    f"its values look like {record.looks_like}, those of the training data like "
                    f"{' and '.join(self.looks_like)}",
                )
            )
        first, last = self.mean
        margin = CT_MEAN_MARGIN * self.std
        if self.modality == "CT" and not first - margin <= record.mean <= last + margin:
            found.append(
                Difference(
                    "intensity",
                    f"its mean is {record.mean:.0f}, that of the training data {first:.0f} to "
                    f"{last:.0f} (Hounsfield units)",
                )
            )
        for percentile, value, (least, most) in zip(
            ("1st", "99th"), record.percentiles, (self.low, self.high), strict=True
        ):
            if not least - PERCENTILE_MARGIN <= value <= most + PERCENTILE_MARGIN:
                found.append(
                    Difference(
                        "intensity",
                        f"the {percentile} percentile of its normalised values is {value:.2f}, "
                        f"that of the training data {least:.2f} to {most:.2f}",
                    )
                )
        return found


class TrainingRange(_Range):
    """What the cases of a training have in common, and how far they reach.

    Attributes:
        planes: in how many cases the slices lie in each plane.
        acquired: the planes in which the scans were acquired, as far as their spacing tells.
        spacing_from: where the spacing of the cases comes from.
        coarsest_mm: largest spacing between slices, and in plane, of the scans.
        finest_mm: smallest spacing in plane of the scans.
        channels: the image channels.
    """

    planes: dict[Plane, int]
    acquired: tuple[Plane, ...]
    spacing_from: tuple[SpacingFrom, ...]
    coarsest_mm: tuple[float, float]
    finest_mm: float
    channels: tuple[ChannelRange, ...]

    @classmethod
    def of(cls, store: Store, cases: Sequence[CaseRecord]) -> Self:
        """The range of cases of a store."""
        geometries = [SliceGeometry(**asdict(case.geometry)) for case in cases]
        between, *in_plane = zip(*(geometry.spacing for geometry in geometries), strict=True)
        records = zip(*(case.channels for case in cases), strict=True)
        acquired = {geometry.acquired for geometry in geometries} - {None}
        return cls(
            planes=cast("dict[Plane, int]", dict(Counter(g.plane for g in geometries))),
            acquired=tuple(sorted(cast("set[Plane]", acquired))),
            spacing_from=tuple(sorted({case.spacing_from for case in cases})),
            coarsest_mm=(max(between), max(map(max, in_plane))),
            finest_mm=min(map(min, in_plane)),
            channels=tuple(
                ChannelRange.of(name, [channel.intensity for channel in of_channel])
                for name, of_channel in zip(store.manifest.channels, records, strict=True)
            ),
        )

    @classmethod
    def read(cls, about: Mapping[str, Any], path: Path) -> Self:
        """What the file of a network says of its training.

        Raises:
            PosconError: nothing that can be used.
        """
        try:
            return cls.model_validate(about.get("training"))
        except ValidationError as error:
            raise PosconError(
                f"{path}: does not say what its training data were like; train it again with this "
                "version of poscon"
            ) from error

    @property
    def words(self) -> dict[str, str]:
        """Plane and modality in words, for comparison with another training."""
        modalities = {m for channel in self.channels for m in channel.modalities}
        return {
            "plane": "+".join(sorted(self.planes)),
            "modality": "+".join(sorted(modalities)),
        }

    def mixtures(self) -> list[str]:
        """In words: what the training cases do not share, but the cases of most data sets do."""
        found = []
        if len(self.planes) > 1:
            counts = ", ".join(f"{plane} in {n}" for plane, n in self.planes.items())
            found.append(
                f"the training cases are sliced in several planes ({counts}); choose one with "
                "prepare --plane if they should not be"
            )
        found += [
            f"the training cases are of several modalities ({' and '.join(channel.modalities)}, "
            f"channel {channel.name}); state the right one with prepare --modality if they are not"
            for channel in self.channels
            if len(channel.modalities) > 1
        ]
        return found

    def plane_for(self, acquired: str | None) -> Plane:
        """The plane in which a scan is sliced: that of the training cases.

        Args:
            acquired: the plane in which it was acquired; None: it is near isotropic.

        Returns:
            Where the training cases have several planes: that in which the scan was acquired,
            axial for one that is near isotropic, as for the training cases; if no training case has
            it, the plane that most of them have.
        """
        wanted = acquired or "axial"
        usual = max(self.planes, key=lambda plane: self.planes[plane])
        return next((plane for plane in self.planes if plane == wanted), usual)

    def differences(
        self,
        geometry: SliceGeometry,
        spacing_from: SpacingFrom,
        preparation: Preparation,
        intensities: Sequence[IntensityRecord],
    ) -> list[Difference]:
        """How a scan differs from the training cases.

        Args:
            geometry: how the scan is sliced.
            spacing_from: where its spacing comes from.
            preparation: what is done to it.
            intensities: how each of its channels was normalised.
        """
        acquired = geometry.acquired
        found = []
        if acquired is not None and acquired not in (geometry.plane, *self.acquired):
            found.append(
                Difference(
                    "plane",
                    f"acquired in {acquired} slices; the training data have the plane "
                    f"{' and '.join(self.planes)}, and so it is sliced in {geometry.plane} slices",
                )
            )
        between, *in_plane = geometry.spacing
        for what, mm, usual in zip(
            ("slices", "pixels"), (between, max(in_plane)), self.coarsest_mm, strict=True
        ):
            if mm > COARSER * usual:
                words = "slices {} mm apart" if what == "slices" else "pixels of {} mm"
                found.append(
                    Difference(
                        "spacing",
                        f"{words.format(f'{mm:.3g}')}, in the training data {usual:.3g} mm at most",
                    )
                )
        if preparation.spacing is None and min(in_plane) < self.finest_mm / FINER:
            found.append(
                Difference(
                    "spacing",
                    f"pixels of {min(in_plane):.3g} mm, in the training data {self.finest_mm:.3g} "
                    "mm at least, and slices are not resampled",
                )
            )
        if spacing_from == "header" and "header" not in self.spacing_from:
            found.append(
                Difference(
                    "spacing",
                    "its voxel size is that of its header, while the headers of the training data "
                    "were replaced; state the size with --source-spacing if the header is wrong",
                )
            )
        for channel, record in zip(self.channels, intensities, strict=True):
            where = f"channel {channel.name}: " if len(self.channels) > 1 else ""
            found += [Difference(d.kind, f"{where}{d.text}") for d in channel.differences(record)]
        return found
