"""What the transforms of geometry and of intensity share: parameters from a named stream."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from poscon.seeds import stream
from poscon.views.settings import ViewSettings

Parameters = dict[str, Tensor]
"""Parameters of B views by the name of their transform. A transform without any is off."""


class Transform(ABC):
    """A random change of a view. Drawing its parameters is apart from applying them.

    A transform has the name of its setting in :class:`ViewSettings`, and the seed stream of that
    name.

    Attributes:
        off: the value of the setting that switches it off.
        neutral: the parameter that changes nothing.
    """

    off: ClassVar[object]
    neutral: ClassVar[float]

    @abstractmethod
    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        """Draw the parameters of ``n`` views, (n, ...) float32 on the CPU."""


def generator_of(seed: int, name: str, *further: str | int) -> torch.Generator:
    """A generator on the CPU for a stream of the seed."""
    return torch.Generator().manual_seed(stream(seed, name, *further))


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform between two numbers."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """(n,) bool, each True with a probability."""
    return torch.rand(n, generator=generator) < probability


def add_unless_neutral(drawn: Parameters, name: str, values: Tensor, neutral: float) -> None:
    """Keep parameters only if they change a view, so that a transform that is off costs nothing."""
    if bool((values != neutral).any()):
        drawn[name] = values
