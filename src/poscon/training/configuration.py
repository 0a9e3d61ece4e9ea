"""The settings that pre-training and fine-tuning share."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from poscon.errors import PosconError
from poscon.settings import Settings, validate
from poscon.training.optimisation import OptimiserSettings
from poscon.views import ViewSettings


class TrainingSettings(Settings):
    """The settings of any training.

    Attributes:
        method: name of the method.
        loss: settings of the method's loss.
        size: extent in pixels of what the network sees; ``auto``: the extent that covers the
            slices, at most 128.
        optimiser: optimiser and learning rates.
        views: settings of the augmentation.
        seed: seed of every random choice, also of the draw of labelled subjects.
        device: device to train on.
        precision: ``32``, ``bf16`` or ``auto``: bfloat16 on a GPU and on a CPU that multiplies in
            it, else 32.
        compile: whether torch compiles the networks. That takes half a minute to two minutes at
            the start. It is faster on a GPU only, see docs/results.
    """

    method: str
    loss: dict[str, Any] = Field(default_factory=dict)
    size: PositiveInt | Literal["auto"] = "auto"
    optimiser: OptimiserSettings = OptimiserSettings()
    views: ViewSettings = ViewSettings()
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool = False

    @classmethod
    def method_class(cls, name: str) -> Any:
        """The class of a method."""
        raise NotImplementedError

    @field_validator("precision", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value)

    @model_validator(mode="before")
    @classmethod
    def _complete_loss(cls, values: Any) -> Any:
        """Complete the loss with the default settings of the method."""
        name = values.get("method", cls.model_fields["method"].default)
        if not isinstance(name, str):
            return values  # its type is refused later
        method = cls.method_class(name)
        try:
            loss = validate(method.Settings, values.get("loss", {}), prefix="loss")
        except PosconError as error:
            raise PosconError(
                f"method {name}: {error}; if a recipe has it for another method, --set loss={{}}"
                if "unknown setting" in str(error)
                else str(error)
            ) from error
        return {**values, "loss": loss.model_dump()}
