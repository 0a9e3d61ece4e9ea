"""The settings that pre-training and fine-tuning share."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from poscon.errors import PosconError
from poscon.settings import Settings, validate
from poscon.training.optimisation import OptimiserSettings
from poscon.views import ViewSettings


class TrainingSettings(Settings):
    """What any training may be told.

    Attributes:
        method: its name.
        loss: settings of the method's loss.
        size: extent of what the network sees in pixels; ``auto``: what covers the slices, at most
            128.
        optimiser: optimiser and learning rates.
        views: augmentation.
        seed: of every random choice, the draw of labelled subjects too.
        device: where to train.
        precision: ``auto``: bfloat16 on a GPU and on a CPU that multiplies in it, else 32.
        compile: let torch compile the networks: half a minute to two at the start; faster on a
            GPU only, see docs/results.
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
        """The loss has the settings of the method, whichever that is."""
        name = values.get("method", cls.model_fields["method"].default)
        if not isinstance(name, str):
            return values  # refused for its type
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
