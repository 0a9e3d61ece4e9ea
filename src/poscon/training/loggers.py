"""What shows a training while it goes on: TensorBoard, MLflow, or Weights & Biases.

A logger gets the rows of ``metrics.csv`` and, if it keeps more than numbers, the settings, the
command and the name of the run folder. It gets no name of a case, no path of data and no output of
the terminal.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from poscon.errors import PosconError
from poscon.files import printable, read_json
from poscon.store.manifest import write_json
from poscon.training.run import RunFolder

LoggerName = Literal["tensorboard", "mlflow", "wandb"]

PROJECT = "poscon"
"""MLflow's experiment and Weights & Biases' project, where their variables name no other."""
_MOST_PARAMS = 100  # MLflow takes so many at a time


class Logger(ABC):
    """Writes the metrics of one training.

    Args:
        run: the folder of the training, which has begun.

    Raises:
        PosconError: it cannot be written to.
    """

    @abstractmethod
    def __init__(self, run: RunFolder) -> None: ...

    @abstractmethod
    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Write the metrics after so many steps."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End. ``finished``: whether the training came to its end."""


class TensorBoard(Logger):
    """Writes ``RUN/tensorboard``."""

    def __init__(self, run: RunFolder) -> None:
        from lightning_fabric.loggers import TensorBoardLogger

        self.logger = TensorBoardLogger(run.path, name="", version="tensorboard")

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        self.logger.finalize("success" if finished else "failed")


class MLflow(Logger):
    """Writes to the store that ``MLFLOW_TRACKING_URI`` names, else to ``RUN/mlruns``.

    The experiment is that of ``MLFLOW_EXPERIMENT_NAME``, else ``poscon``.
    """

    def __init__(self, run: RunFolder) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            place = (run.path.absolute() / "mlruns").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self.client = MlflowClient(tracking_uri=place)
            self.id = self._begin(run)
        except MlflowException as error:
            raise _unusable("mlflow", error, "look at MLFLOW_TRACKING_URI") from error

    def _begin(self, run: RunFolder) -> str:
        if known := _known(run, "mlflow"):
            self.client.update_run(known, status="RUNNING")
            return known
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        begun = self.client.create_run(experiment, run_name=run.path.absolute().name).info.run_id
        from mlflow.entities import Param

        told = [Param(name, str(value)) for name, value in described(run).items()]
        for first in range(0, len(told), _MOST_PARAMS):
            self.client.log_batch(begun, params=told[first : first + _MOST_PARAMS])
        _remember(run, "mlflow", begun)
        return str(begun)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if self.client.get_experiment_by_name(name) is None:
            with suppress(MlflowException):  # another training may have been faster
                return str(self.client.create_experiment(name))
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name))  # it says why it cannot
        return str(found.experiment_id)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in numbers.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "FAILED")


class WeightsAndBiases(Logger):
    """Writes to Weights & Biases, through ``RUN/wandb``. With ``WANDB_MODE=offline`` only there.

    The project is that of ``WANDB_PROJECT``, else ``poscon``.
    """

    def __init__(self, run: RunFolder) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        known = _known(run, "wandb")
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=run.path.absolute().name,
                id=known,
                resume=None if known is None else "allow",
                dir=run.path,
                config=described(run),
                # the terminal and the command line may name cases
                settings=wandb.Settings(
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    silent=True,
                    x_disable_machine_info=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_save_requirements=False,
                ),
            )
        except wandb.Error as error:
            raise _unusable("wandb", error, "log in, or set WANDB_MODE=offline") from error
        _remember(run, "wandb", self.run.id)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


LOGGERS: dict[str, type[Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def check_logger(name: LoggerName, run: Path) -> None:
    """Refuse a logger that is not installed, or that cannot write to a run's folder.

    Raises:
        PosconError: it is.
    """
    if find_spec(name) is None:
        raise PosconError(f"--logger {name}: not installed; pip install 'poscon[{name}]'")
    if name != "tensorboard" and not _writable(run):
        raise PosconError(f"--logger {name}: cannot write to {run}; choose a name in UTF-8")


def open_logger(name: LoggerName, run: RunFolder) -> Logger | None:
    """The logger of a training; None where TensorBoard cannot write to the path.

    Raises:
        PosconError: it cannot be written to.
    """
    return LOGGERS[name](run) if _writable(run.path) else None


def described(run: RunFolder) -> dict[str, Any]:
    """The command, poscon's version, and each setting, named like ``optimiser.lr``."""
    config = run.read_config()
    about = {name: config[name] for name in ("command", "poscon_version")}
    return about | dict(_flat(config["settings"]))


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", value))
    return found


def _writable(path: Path) -> bool:
    return printable(str(path)) == str(path)


def _known(run: RunFolder, logger: str) -> str | None:
    """The id that a logger gave to the run before it was interrupted."""
    return read_json(run.logger_path).get(logger) if run.logger_path.is_file() else None


def _remember(run: RunFolder, logger: str, name: str) -> None:
    write_json(run.logger_path, {logger: name})


def _unusable(logger: str, error: Exception, remedy: str) -> PosconError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return PosconError(f"--logger {logger}: cannot begin ({reason}); {remedy}")
