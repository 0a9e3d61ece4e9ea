"""What the methods of pre-training and of fine-tuning have in common, and finding one by its name.

A method's module is imported only when it is asked for.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from torch import nn

from poscon import plugins, settings
from poscon.errors import PosconError
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class Method(nn.Module):
    """A loss, and the modules that it trains.

    A method knows nothing of disks, devices or other methods. What it carries from step to step
    (a memory bank, a teacher) is buffers, so that a checkpoint has it; a number that decides what a
    step does is extra state, because a buffer is on the GPU, and to read it waits for all work
    there.
    """

    class Settings(settings.Settings):
        """The settings of the loss; every method has its own."""

    summary: ClassVar[str]
    """What it does, in one line, for ``poscon methods``."""
    citation: ClassVar[str]
    needs: ClassVar[str]
    """What data it needs, for ``poscon methods``."""
    distances: ClassVar[tuple[str, ...]] = ()
    """The settings of the loss that are distances between positions."""
    cyclic: ClassVar[tuple[str, ...]] = ()
    """The settings of the loss that are distances between phases, if they are set."""

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        """The loss of one batch.

        Args:
            batch: slices on their canvas.
            views: makes views of them.
            seed: every random choice of the step follows from it.
            progress: share of the training's steps that are done, from 0 to just below 1.
        """
        raise NotImplementedError

    def check(self, total_steps: int, views: ViewMaker) -> None:
        """Refuse, before any work, a training that the method cannot do.

        Args:
            total_steps: number of steps of the training.
            views: what the steps will be given.

        Raises:
            PosconError: a stage would have no step, or the views are too small or otherwise unfit.
        """

    def after_step(self) -> None:
        """Called after each step of the optimiser."""


def load_method(group: str, base: type, room: str, methods: Mapping[str, str], name: str) -> Any:
    """The class of a method or a strategy, of poscon's own or of a plug-in.

    Args:
        group: group of the plug-ins, see :mod:`poscon.plugins`.
        base: what the class must be derived from.
        room: the package that has a module for each of poscon's own methods.
        methods: class by method name; the module has the method's name, ``_`` for ``-``.
        name: name of the method.

    Raises:
        PosconError: there is none of that name, or the plug-in cannot be used.
    """
    known = plugins.names(group, methods)
    if known.get(name) == plugins.OWN:
        return getattr(import_module(f"{room}.{name.replace('-', '_')}"), methods[name])
    found = plugins.find(group, name, methods, subclass_of=base)
    for attribute in ("summary", "citation", "needs"):
        if not isinstance(getattr(found, attribute, None), str):
            raise PosconError(
                f"{plugins.KINDS[group]} {name!r} of the package {known[name]}: its class "
                f"{found.__name__} has no text {attribute!r}"
            )
    return found
