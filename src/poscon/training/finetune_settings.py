"""The settings of fine-tuning, and the method that is made from them."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from poscon.errors import PosconError
from poscon.finetuning import find_method
from poscon.finetuning.base import FinetuneMethod
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.training.configuration import TrainingSettings, check_size
from poscon.training.optimisation import EncoderRate, OptimiserSettings
from poscon.views import ViewMaker, ViewSettings

_VIEWS = ViewSettings(
    mirror=False,
    rotation=30.0,
    scale=(0.7, 1.4),
    shift=0.05,
    elastic=0.01,
    brightness=0.2,
    contrast=0.35,
    gamma=0.5,
    noise=0.15,
    blur=1.0,
    low_resolution=2.0,
    intensity_probability=0.3,
)


class FinetuneSettings(TrainingSettings):
    """The settings of ``poscon finetune``, on top of those of all training.

    Attributes:
        method: fine-tuning method, see ``poscon methods``.
        network: the architecture; None: that of the pre-trained encoder, else the default.
        iterations: training steps, for any number of labelled cases.
        minutes: how long the training may take, in place of ``iterations``. The number of steps is
            worked out from the speed of the first ones (see :func:`poscon.commands.finetune`).
        batch: labelled slices per step.
        unlabelled_batch: slices without labels per step, for methods that use them; None: as many
            as ``batch``.
        checkpoint_every: steps between two checkpoints, each with a row of ``metrics.csv`` and a
            look at the validation cases.
        oversample_foreground: share of the slices that are cropped around foreground, 0 to 1. It
            matters only for slices larger than ``size``.
        deep_supervision: number of coarser resolutions at which the decoder is supervised too, if
            it has so many.
        ema_decay: decay of an exponential moving average of the weights. The average is then the
            result. 0: no average, the result is the last weights.
        init_parts: parts to take from the pre-training run: all that it trained, or the encoder.
        encoder_rate: settings that hold the encoder back.
        keep_largest_component: whether all classes together are one connected structure. Then
            all but the largest component is removed from what the model predicts.
        transductive: whether pre-training may have seen the excluded and the validation cases.
    """

    method: str = "supervised"
    network: NetworkSettings | None = None
    iterations: PositiveInt = 2000
    minutes: PositiveFloat | None = None
    batch: PositiveInt = 8
    unlabelled_batch: PositiveInt | None = None
    checkpoint_every: PositiveInt = 100
    oversample_foreground: float = Field(0.5, ge=0, le=1)
    deep_supervision: NonNegativeInt = 2
    ema_decay: float = Field(0.99, ge=0, lt=1)
    init_parts: Literal["all", "encoder"] = "all"
    encoder_rate: EncoderRate = EncoderRate()
    keep_largest_component: bool = False
    transductive: bool = False
    optimiser: OptimiserSettings = OptimiserSettings(lr=3e-3, min_lr=None)
    views: ViewSettings = _VIEWS

    @classmethod
    def method_class(cls, name: str) -> type[FinetuneMethod]:
        return find_method(name)

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.minutes is not None and "iterations" in self.model_fields_set:
            raise ValueError("minutes and iterations both say how long; give one of the two")
        for name, reason in without_effect(self.method).items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                default = "null" if default is None else default
                raise ValueError(
                    f"{name} has no effect with method {self.method}, {reason}; leave it out (if a "
                    f"recipe sets it, --set {name}={default})"
                )
        return self


def without_effect(method: str) -> dict[str, str]:
    """The settings that a fine-tuning method does not use, and why."""
    found = find_method(method)
    unused = {}
    if found.has_own_ema:
        unused["ema_decay"] = "whose teacher is the result (see loss.decay)"
    if not found.uses_unlabelled:
        unused["unlabelled_batch"] = "which uses labelled slices only"
    if not found.uses_positions:
        unused["position"] = "which uses no positions"
    return unused


def make_learner(
    chosen: FinetuneSettings, network: SegmentationNetwork, views: ViewMaker
) -> FinetuneMethod:
    """Make the method around the network that it trains.

    Args:
        chosen: the settings.
        network: the network to train.
        views: views of the training.

    Raises:
        PosconError: the method cannot train with these settings.
    """
    check_size(views.size, network.encoder)
    method = find_method(chosen.method)
    settings = method.Settings(**chosen.loss)
    learner = method(network, settings, chosen.deep_supervision, chosen.ema_decay)
    learner.check(chosen.iterations, views)
    learner.check_batches(chosen.batch, chosen.unlabelled_batch or chosen.batch)
    if chosen.batch < learner.smallest_batch:
        raise PosconError(
            f"setting batch = {chosen.batch}: method {chosen.method} brings slices of a batch "
            f"together; use {learner.smallest_batch} or more"
        )
    if chosen.batch * (views.size // network.encoder.stride) ** 2 < 2:
        raise PosconError(
            f"setting batch = {chosen.batch}: at size {views.size} the bottleneck has one value "
            "per channel, too few to normalise; use a larger batch or size"
        )
    return learner
