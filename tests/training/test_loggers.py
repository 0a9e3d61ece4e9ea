"""Loggers: what they are given, that a training does not depend on them, and what they keep."""

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from poscon.commands.finetune import finetune
from poscon.finetuning.supervised import Supervised
from poscon.store.store import Store
from poscon.training.loggers import LOGGERS, Logger, described
from poscon.training.run import RunFolder

SMALL = ["size=16", "batch=2", "network.width=2", "network.levels=2", "deep_supervision=0"]
Poscon = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server of the user's, and what poscon sets is not left behind."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return


def train(store: Path, run: Path, logger: str, **more: Any) -> Path:
    settings = [*SMALL, "checkpoint_every=2"]
    finetune(store, run, labelled=1, iterations=6, logger=logger, settings=settings, **more)
    return run


def rows_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def refuse_names(folder: Path, store: Path) -> None:
    """No file names a case, a subject, or a place of the data."""
    opened = Store(store)
    names = {name for case in opened.cases for name in (case.id, case.subject)}
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for name in (*names, str(store)):
            assert name.encode() not in content, (file, name)


class Recorder(Logger):
    """Keeps what it is given. It fails when it is told to."""

    given: list[tuple[int, dict[str, float]]]
    fails_at: int | None = None

    def __init__(self, run: RunFolder) -> None:
        type(self).given = []
        type(self).ended = None

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server is away\nand more")
        self.given.append((step, dict(numbers)))

    def close(self, finished: bool) -> None:
        type(self).ended = finished


def test_a_logger_gets_the_rows_of_metrics_csv(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "tensorboard", Recorder)
    rows = rows_of(train(store, tmp_path / "run", "tensorboard"))
    assert (
        [int(row.pop("step")) for row in rows] == [step for step, _ in Recorder.given] == [2, 4, 6]
    )
    for (_, given), row in zip(Recorder.given, rows, strict=True):
        assert given == pytest.approx(row)
    assert Recorder.ended is True


def test_a_logger_that_fails_does_not_end_the_training(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(LOGGERS, "tensorboard", Recorder)
    monkeypatch.setattr(Recorder, "fails_at", 4)
    run = train(store, tmp_path / "run", "tensorboard")
    assert len(rows_of(run)) == 3
    assert (run / "model.safetensors").is_file()
    assert [step for step, _ in Recorder.given] == [2]
    err = capsys.readouterr().err
    assert err.count("note: the logger stops here (the server is away); metrics.csv goes on\n") == 1


def test_what_a_logger_is_told_of_the_run(finetuned: Path, store: Path) -> None:
    told = described(RunFolder(finetuned))
    assert (told["command"], told["seed"], told["optimiser.lr"]) == (
        "finetune",
        0,
        told["optimiser.lr"],
    )
    settings = yaml.safe_load((finetuned / "config.yaml").read_text())["settings"]
    assert told["optimiser.lr"] == settings["optimiser"]["lr"]
    assert str(store) not in str(told)


def test_bad_loggers_are_refused_in_one_line(
    store: Path, tmp_path: Path, poscon: Poscon, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("poscon.training.loggers.find_spec", lambda _: None)
    for command, arguments, message in (
        ("finetune", ["--logger", "comet"], "setting logger"),
        ("pretrain", ["--logger", "mlflow"], "not installed; pip install 'poscon[mlflow]'"),
        ("finetune", ["-s", "logger=wandb"], "not installed; pip install 'poscon[wandb]'"),
        ("pretrain", ["--method", "random", "--logger", "wandb"], "logger"),
    ):
        code, _, err = poscon(command, store, run, *arguments)
        assert (code, err.strip().count("\n")) == (2, 0), err
        assert message in err
    assert not run.exists()
    monkeypatch.undo()


def test_mlflow_with_a_store_of_files(store: Path, tmp_path: Path, poscon: Poscon) -> None:
    """A fine-tuning is read back by MLflow's own client, without a server."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    run = tmp_path / "seg"
    settings = [part for setting in (*SMALL, "checkpoint_every=2") for part in ("-s", setting)]
    code, _, err = poscon(
        *("finetune", store, run, "--labelled", 1, "--iterations", 6, "--seed", 3),
        *("--logger", "mlflow", *settings),
    )
    assert code == 0, err
    client = MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("poscon")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("seg", "FINISHED")
    assert found.data.params["command"] == "finetune"
    assert (found.data.params["seed"], found.data.params["network.width"]) == ("3", "2")
    for row in rows_of(run):
        step = int(row.pop("step"))
        for name, value in row.items():
            history = client.get_metric_history(found.info.run_id, name)
            assert [m.value for m in history if m.step == step] == pytest.approx([value])
    refuse_names(run / "mlruns", store)
    assert not (run / "tensorboard").exists()


def test_mlflow_of_a_resumed_run_is_one_run(
    store: Path,
    tmp_path: Path,
    power_cut: Callable[..., AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    common = (tmp_path / "common").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", common)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "prostate")
    client, run = MlflowClient(tracking_uri=common), tmp_path / "run"
    with power_cut(Supervised, 3):
        train(store, run, "mlflow")
    experiment = client.get_experiment_by_name("prostate")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    finetune(store, run, resume=True)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [metric.step for metric in history] == [2, 4, 6]
    assert not (run / "mlruns").exists()


def test_mlflow_without_its_server(
    store: Path, tmp_path: Path, poscon: Poscon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")
    settings = [part for setting in SMALL for part in ("-s", setting)]
    run = tmp_path / "run"
    code, _, err = poscon(
        "finetune", store, run, "--iterations", 2, "--logger", "mlflow", *settings
    )
    assert code == 2
    assert "--logger mlflow: cannot begin (" in err.splitlines()[-1]
    assert not run.exists()


def test_weights_and_biases_offline(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    run = train(store, tmp_path / "seg", "wandb")
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    kept, written = DataStore(), []
    kept.open_for_scan(str(file))
    while (data := kept.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        written.append(record)
    (about,) = (record.run for record in written if record.WhichOneof("record_type") == "run")
    assert (about.display_name, about.project) == ("seg", "poscon")
    config = {item.key: item.value_json for item in about.config.update}
    assert (config["command"], config["network.width"]) == ('"finetune"', "2")
    losses = [
        float(item.value_json)
        for record in written
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
        if "loss" in (item.key, *item.nested_key)
    ]
    assert losses == pytest.approx([row["loss"] for row in rows_of(run)])
    refuse_names(run / "wandb", store)
