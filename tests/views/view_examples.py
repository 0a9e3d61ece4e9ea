"""Settings, pictures and views that the tests of views share."""

import torch

from poscon.views import View, ViewSettings

OFF = ViewSettings(
    mirror=False,
    warp_probability=1,
    rotation=0,
    scale=(1, 1),
    shift=0,
    elastic=0,
    brightness=0,
    contrast=0,
    gamma=0,
    noise=0,
)
GEOMETRY = ViewSettings(
    mirror=True, rotation=180, brightness=0, contrast=0, gamma=0, noise=0, elastic=0.02
)
EVERYTHING = ViewSettings(
    mirror=True, brightness=0.3, contrast=0.4, gamma=0.5, noise=0.2, blur=1.0, low_resolution=2.0
)


def change(**settings) -> ViewSettings:
    """All is off except for what is given."""
    return OFF.model_copy(update=settings)


def without_noise(settings: ViewSettings) -> ViewSettings:
    return settings.model_copy(update={"noise": 0.0})


def pictures(n=2, size=12, seed=0, channels=1) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def same(a: View, b: View) -> bool:
    return (
        a.seed == b.seed
        and same_parameters(a.geometry, b.geometry)
        and same_parameters(a.intensity, b.intensity)
    )


def same_parameters(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
