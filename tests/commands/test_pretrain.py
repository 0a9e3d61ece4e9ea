import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from poscon.commands.pretrain import Request, pretrain
from poscon.errors import PosconError
from poscon.networks.parts import Encoder
from poscon.networks.weights import read_weights
from poscon.pretext.pcl import PositionalContrast
from poscon.store.store import Store
from poscon.training import loop
from poscon.training.data import UnlabelledBatches
from poscon.training.diagnostics import Diagnostics
from poscon.training.run import MetricsFile

DIAGNOSTICS = [
    "alignment",
    "uniformity",
    "effective_rank",
    "retrieval_error",
    "retrieval_chance",
]
TINY = ["network.width=4", "network.levels=2", "size=32", "batch=16"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(run / "encoder.safetensors")[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def metrics(run: Path) -> list[dict[str, str]]:
    """All rows without what depends on the machine."""
    with (run / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "slices_per_second"}
            for row in csv.DictReader(file)
        ]


def losses(run: Path) -> list[tuple[str, str]]:
    return [(row["step"], row["loss"]) for row in metrics(run) if row["loss"]]


def test_leaves_a_complete_run_folder(pretrained: Path, store: Path) -> None:
    config = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert config["command"] == "pretrain"
    assert config["settings"]["loss"] == {
        "threshold": 0.1,
        "kernel": "box",
        "grey": None,
        "phase": None,
        "temperature": 0.1,
    }
    assert config["settings"]["position"] == "relative"
    assert config["settings"]["size"] == 32
    cases = json.loads((pretrained / "cases.json").read_text())
    assert len(cases) == 5
    assert {case["role"] for case in cases} == {"pretrain"}
    assert all(len(case["pixels_sha256"]) == 64 for case in cases)
    assert len(losses(pretrained)) == 2
    assert [row["step"] for row in metrics(pretrained)] == ["0", "7", "14"]
    for row in metrics(pretrained):
        for name in DIAGNOSTICS:
            assert row[name], name
    assert (pretrained / "diagnostics.png").is_file()
    assert (pretrained / "checkpoints" / "last.ckpt").is_file()
    tensors, about = read_weights(pretrained / "encoder.safetensors")
    assert about["network"]["width"] == 4
    assert not any(name.startswith("head") for name in tensors)


@pytest.mark.usefixtures("no_picture")
def test_learns(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", epochs=12, settings=[*TINY, "optimiser.lr=0.01"])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.95 * float(rows[-1]["chance"])


@pytest.mark.usefixtures("no_picture")
def test_same_seed_same_weights_other_seed_others(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    pretrain(store, tmp_path / "same", epochs=2, settings=TINY)
    assert_same(weights(pretrained), weights(tmp_path / "same"))
    pretrain(store, tmp_path / "other", epochs=2, seed=1, settings=TINY)
    name = next(name for name in weights(pretrained) if name.endswith("weight"))
    assert not torch.equal(weights(pretrained)[name], weights(tmp_path / "other")[name])


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("method", ["pcl", "simclr"])
def test_micro_batches_go_through_the_network_one_after_the_other(
    method: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps of 32 views; diagnostics, which look at the encoder too, are not in training."""
    forward, sizes = Encoder.forward, set()

    def watched(encoder: Encoder, images: torch.Tensor) -> list[torch.Tensor]:
        if encoder.training:
            sizes.add(len(images))
        return forward(encoder, images)

    monkeypatch.setattr(Encoder, "forward", watched)
    run = tmp_path / "run"
    pretrain(store, run, method=method, epochs=1, settings=[*TINY, "grad_cache_chunk=12"])
    assert sizes == {10, 11}
    trained = weights(run)
    assert all(value.isfinite().all() for value in trained.values())
    counts = {int(value) for name, value in trained.items() if "num_batches" in name}
    assert counts == {3 * int(metrics(run)[-1]["step"])}


@pytest.mark.usefixtures("no_picture")
def test_cases_and_exclude_choose_what_is_seen(store: Path, tmp_path: Path) -> None:
    (tmp_path / "use.txt").write_text("phantom_000\nphantom_001 # a comment\nphantom_002\n")
    (tmp_path / "not.json").write_text('{"test": ["phantom_001"]}')
    pretrain(
        store,
        tmp_path / "run",
        cases=tmp_path / "use.txt",
        exclude=f"{tmp_path}/not.json:test",
        epochs=1,
        settings=TINY,
    )
    seen = [case["id"] for case in json.loads((tmp_path / "run" / "cases.json").read_text())]
    assert seen == ["phantom_000", "phantom_002"]


@pytest.mark.parametrize("steps", [1, 9, 17])
def test_resumed_equals_uninterrupted(
    steps: int, store: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(store, whole, epochs=3, settings=TINY)
    with power_cut(PositionalContrast, steps):
        pretrain(store, broken, epochs=3, settings=TINY)
    assert not (broken / "encoder.safetensors").exists()
    (broken / "checkpoints" / ".writing-last.ckpt-x").mkdir()  # a process was killed then
    pretrain(store, broken, resume=True)
    assert [path.name for path in (broken / "checkpoints").iterdir()] == ["last.ckpt"]
    assert_same(weights(whole), weights(broken))
    assert metrics(whole) == metrics(broken)
    picture = (whole / "diagnostics.png").read_bytes()
    assert (broken / "diagnostics.png").read_bytes() == picture


def renamed(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["method"] = {f"old.{k}": value for k, value in content["method"].items()}
    torch.save(content, checkpoint)


def of_another_shape(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["method"] = {k: torch.zeros(3, 3, 3, 3, 3) for k in content["method"]}
    torch.save(content, checkpoint)


DAMAGED = r"last\.ckpt: damaged, or written by another version of poscon; start"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), DAMAGED),
        (lambda path: torch.save({}, path), DAMAGED),
        (lambda path: torch.save([1], path), DAMAGED),
        (lambda path: torch.save({"method": None}, path), DAMAGED),
        (of_another_shape, DAMAGED),
        (renamed, r"last\.ckpt: holds other weights than this version of poscon trains"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(
    change: Callable[[Path], None],
    message: str,
    store: Path,
    tmp_path: Path,
    power_cut: Callable[..., AbstractContextManager[None]],
) -> None:
    run = tmp_path / "run"
    with power_cut(PositionalContrast, 9):
        pretrain(store, run, epochs=2, settings=TINY)
    change(run / "checkpoints" / "last.ckpt")
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(PosconError, match=message):
        pretrain(store, run, resume=True)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == content


def test_a_run_goes_on_where_there_is_no_gpu(
    store: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    run = tmp_path / "run"
    with power_cut(PositionalContrast, 9):
        pretrain(store, run, epochs=2, settings=TINY, device="cpu")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("device: cpu", "device: cuda"))
    with pytest.raises(PosconError, match="device cuda: no CUDA GPU"):
        pretrain(store, run, resume=True)
    pretrain(store, run, device="cpu", resume=True)
    assert (run / "encoder.safetensors").is_file()


def test_killed_process_is_resumed(store: Path, tmp_path: Path, no_workers: None) -> None:
    """By another process, with as many threads: their number rounds."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*TINY, "precision=32"]
    pretrain(store, whole, epochs=20, settings=settings)
    command = [sys.executable, "-m", "poscon", "pretrain", str(store), str(killed)]
    process = subprocess.Popen(
        [*command, "--epochs", "20", *(part for text in settings for part in ("--set", text))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (killed / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "encoder.safetensors").exists()
    pretrain(store, killed, resume=True)
    assert_same(weights(whole), weights(killed))
    assert metrics(whole) == metrics(killed)


@pytest.mark.usefixtures("no_picture")
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(store, whole, epochs=3, settings=TINY)
    write, written = Path.write_bytes, []

    def fill_up(path: Path, content: bytes) -> int:
        if path.name == "last.ckpt":
            written.append(path)
            if len(written) == 2:
                write(path, bytes(content)[:1000])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(PosconError, match=r"last\.ckpt: cannot be written \(No space left"):
        pretrain(store, broken, epochs=3, settings=TINY)
    (checkpoint,) = (broken / "checkpoints").iterdir()  # and nothing half-written
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    monkeypatch.setattr(Path, "write_bytes", write)
    pretrain(store, broken, resume=True)
    assert_same(weights(whole), weights(broken))


@pytest.mark.usefixtures("no_picture")
def test_checkpoints_need_no_other_disk(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    run = tmp_path / "run"
    pretrain(store, run, epochs=1, settings=TINY)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_diagnostics_do_not_touch_the_training(
    precision: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*TINY, f"precision={precision}"]
    pretrain(store, tmp_path / "with", epochs=3, settings=settings)
    monkeypatch.setattr(Diagnostics, "__call__", lambda self: {})
    pretrain(store, tmp_path / "without", epochs=3, settings=settings)
    assert_same(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_a_random_start_has_a_row_of_diagnostics(
    store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    pretrain(
        store, run, method="random", settings=["network.width=4", "network.levels=2", "size=32"]
    )
    (row,) = metrics(run)
    assert list(row) == ["step", *DIAGNOSTICS]
    assert row == {name: metrics(pretrained)[0][name] for name in row}  # all methods start there
    assert (run / "diagnostics.png").is_file()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pre-training (random): effective rank ")
    pretrain(store, run, resume=True)
    assert metrics(run) == [row]


def test_the_end_is_summed_up(
    store: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(store, pretrained, resume=True)
    before, *_, last = metrics(pretrained)
    lines = capsys.readouterr().err.splitlines()
    (line,) = (text for text in lines if text.startswith("pre-training (pcl): loss"))
    loss, chance = float(last["loss"]), float(last["chance"])
    assert f"loss {loss:.3f} (chance {chance:.3f}" in line
    rank, first = float(last["effective_rank"]), float(before["effective_rank"])
    assert f"effective rank {rank:.1f} (before {first:.1f})" in line
    assert f"position retrieval error {float(last['retrieval_error']):.3f}" in line


def test_positions_in_millimetres(
    store: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run"
    changes = ["position=physical", "loss.threshold=15", "loss.kernel=gaussian", *TINY]
    given = [part for change in changes for part in ("--set", change)]
    code, _, err = poscon("pretrain", store, run, "--epochs", 1, *given)
    assert code == 0, err
    before, last = metrics(run)
    chance = float(last["retrieval_chance"])
    assert f"position retrieval error in mm {float(last['retrieval_error']):.3f} (before" in err
    extent = max(case.shape[0] * case.spacing[0] for case in Store(store).cases)
    assert extent / 6 < chance < extent / 2  # of two random places it is a third
    assert float(before["retrieval_error"]) < extent
    assert float(last["floor"]) < float(last["chance"])
    settings = yaml.safe_load((run / "config.yaml").read_text())["settings"]
    assert (settings["position"], settings["loss"]["kernel"]) == ("physical", "gaussian")


def test_a_method_without_positions_is_measured_in_millimetres_too(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Before the first step all methods have the same encoder."""
    settings = ["network.width=4", "network.levels=2", "size=32", "position=physical"]
    pretrain(store, tmp_path / "run", method="random", settings=settings)
    row, relative = metrics(tmp_path / "run")[0], metrics(pretrained)[0]
    assert row["effective_rank"] == relative["effective_rank"]
    assert float(row["retrieval_error"]) > 10 * float(relative["retrieval_error"])


def test_a_kind_of_position_that_does_not_exist(
    store: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = poscon("pretrain", store, tmp_path / "run", "--set", "position=physica")
    assert code == 2
    assert "setting position = 'physica'" in err
    assert not (tmp_path / "run").exists()


def test_a_damaged_store_leaves_no_run(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    for image in copy.glob("cases/*/image.npy"):
        image.write_bytes(b"")
    with pytest.raises(PosconError, match="the store is damaged"):
        pretrain(copy, tmp_path / "run", epochs=1, settings=TINY)
    assert not (tmp_path / "run").exists()


def test_rows_of_repeated_steps_are_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        file.append({"step": step, "loss": step / 10})
    file.forget_after(20)
    file.append({"step": 30, "loss": 7.0, "validation_dice": 0.5})
    assert [(row["step"], row["loss"]) for row in file.rows()] == [
        ("10", "1.0"),
        ("20", "2.0"),
        ("30", "7.0"),
    ]


def test_a_run_without_a_checkpoint_begins_its_rows_anew(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append({"step": 10, "loss": 1.0})
    file.forget_after(0)
    assert file.rows() == []
    file.append({"step": 10, "loss": 2.0})
    assert file.rows() == [{"step": "10", "loss": "2.0"}]


def test_a_row_costs_the_same_after_thousands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows before it are not understood anew, and stand as they did."""
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append({"step": 1, "loss": 0.5, "validation_dice": 0.25})
    before = file.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "rows", None)
        file.append({"step": 2, "validation_dice": 0.75})
    assert file.path.read_bytes() == before + b"2,,0.75\r\n"
    file.path.write_bytes(file.path.read_bytes().strip())  # as an editor may leave it
    file.append({"step": 3, "loss": 0.125})
    assert [tuple(row.values()) for row in file.rows()] == [
        ("1", "0.5", "0.25"),
        ("2", "", "0.75"),
        ("3", "0.125", ""),
    ]


def test_stuck_at_chance_is_said(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(
        store,
        tmp_path / "run",
        epochs=1,
        settings=[*TINY, "optimiser={name: sgd, lr: 1.0e-9}", "head.norm=false"],
    )
    assert "has not learnt its task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "plc"}, r"method 'plc' is unknown \(did you mean 'pcl'\?\)"),
        ({"recipe": "paper-acd"}, "did you mean 'paper-acdc'"),
        ({"settings": ["optimiser.rl=1"]}, "unknown setting 'optimiser.rl'"),
        ({"settings": ["loss.treshold=1"]}, r"'loss.treshold' \(did you mean 'threshold'\?\)"),
        ({"settings": ["loss.threshold=0"]}, "loss.threshold = 0"),
        ({"settings": ["loss.threshold=15"]}, "loss.threshold = 15: must be less than 1"),
        ({"settings": ["loss.grey=0.05"]}, r"grey = 0.05 has no effect, .* threshold = 0.1"),
        (
            {"settings": ["position=physical"]},
            "loss.threshold = 0.1: with position=physical .* at least 5",
        ),
        ({"settings": ["size=50"]}, "multiple of 16"),
        ({"settings": ["grad_cache_chunk=1"]}, "grad_cache_chunk = 1: must be greater"),
        (
            {"settings": ["batch=8", "grad_cache_chunk=16"]},
            "has no effect with batch = 8, .* 16 views",
        ),
        ({"settings": ["optimiser.momentum=0.9"]}, "no effect on adamw"),
        ({"cases": "nowhere.txt"}, "nowhere.txt: cannot read"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: dict[str, Any], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosconError, match=message) as error:
        pretrain(store, tmp_path / "run", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_existing_run_is_not_touched(store: Path, pretrained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")}
    with pytest.raises(PosconError, match="exists already"):
        pretrain(store, pretrained)
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")} == before


def test_resume_refuses_options_and_other_commands(
    store: Path, pretrained: Path, finetuned: Path
) -> None:
    with pytest.raises(PosconError, match=r"setting epochs = 5: the run of .* begun with 2"):
        pretrain(store, pretrained, epochs=5, resume=True)
    with pytest.raises(PosconError, match="a run of poscon finetune"):
        pretrain(store, finetuned, resume=True)


def test_one_command_begins_a_run_and_goes_on_with_it(store: Path, tmp_path: Path) -> None:
    """As a scheduler calls it that starts a job again."""
    run, changes = tmp_path / "run", ["network.width=4", "network.levels=2", "size=auto"]
    how: dict[str, Any] = {"settings": changes, "exclude": ["phantom_000"], "resume": True}
    (run / ".writing-config.yaml-0").mkdir(parents=True)  # it was killed when it began
    pretrain(store, run, method="random", **how)
    assert sorted(path.name for path in run.iterdir()) == [
        *("cases.json", "checkpoints", "config.yaml", "diagnostics.png"),
        *("encoder.safetensors", "metrics.csv"),
    ]
    before = weights(run)
    pretrain(store, run, method="random", **how)
    assert_same(weights(run), before)
    (run / "config.yaml").unlink()
    for name in ("diagnostics.png", "encoder.safetensors", "metrics.csv"):
        (run / name).unlink()
    (run / "checkpoints").rmdir()
    pretrain(store, run, method="random", **how)  # killed between its two first files
    assert_same(weights(run), before)
    with pytest.raises(PosconError, match="begun with other pretrain cases than these options"):
        pretrain(store, run, method="random", exclude=["phantom_001"], resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cases.json").write_text('["phantom_000"]')  # somebody's list of cases
    with pytest.raises(PosconError, match="no run to resume"):
        pretrain(store, tmp_path / "other", resume=True)


def test_resuming_a_finished_run_changes_nothing(store: Path, pretrained: Path) -> None:
    before = weights(pretrained)
    pretrain(store, pretrained, resume=True)
    assert_same(before, weights(pretrained))


def test_a_finished_run_without_its_checkpoint_is_left_as_it_is(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(pretrained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert pretrain(store, run, resume=True) == run / "encoder.safetensors"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_training_needs_no_scan_library(store: Path, tmp_path: Path) -> None:
    code = (
        "import sys; import poscon.commands.pretrain as p; "
        f"p.pretrain({str(store)!r}, {str(tmp_path / 'run')!r}, epochs=1, settings={TINY!r}); "
        "assert not {'nibabel', 'SimpleITK'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.usefixtures("no_picture")
def test_mixed_precision_learns_like_single_precision(store: Path, tmp_path: Path) -> None:
    for precision in ("32", "bf16"):
        settings = [*TINY, "optimiser.lr=0.01", f"precision={precision}"]
        pretrain(store, tmp_path / precision, epochs=6, settings=settings)
    single, mixed = (float(losses(tmp_path / p)[-1][1]) for p in ("32", "bf16"))
    assert mixed == pytest.approx(single, rel=0.05)


@pytest.mark.usefixtures("no_picture")
def test_every_step_is_trained_on_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also across checkpoints: a resumed run could equal a whole one that repeats its first."""
    seen: list[int] = []
    original = UnlabelledBatches.batch

    def recording(self: UnlabelledBatches, step: int) -> Any:
        seen.append(step)
        return original(self, step)

    monkeypatch.setattr(UnlabelledBatches, "batch", recording)
    pretrain(store, tmp_path / "run", epochs=3, settings=TINY)
    assert len(losses(tmp_path / "run")) == 3
    assert seen == list(range(int(losses(tmp_path / "run")[-1][0])))


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("sampler", ["stratified", "balanced"])
def test_the_sampler_chooses_the_slices(store: Path, tmp_path: Path, sampler: str) -> None:
    for name in ("uniform", sampler):
        pretrain(store, tmp_path / name, epochs=1, settings=[*TINY, f"sampler={name}"])
    config = yaml.safe_load((tmp_path / sampler / "config.yaml").read_text())
    assert config["settings"]["sampler"] == sampler
    steps, found = zip(*losses(tmp_path / sampler), strict=True)
    expected_steps, expected = zip(*losses(tmp_path / "uniform"), strict=True)
    assert steps == expected_steps
    assert found != expected


def test_a_sampler_that_is_not_known(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"sampler.*uniform.*stratified.*balanced"):
        pretrain(store, tmp_path / "run", settings=[*TINY, "sampler=even"])


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(
    ("capability", "precision", "told"),
    [("AVX2", "bf16", True), ("AVX2", "32", False), ("AVX512", "bf16", False)],
)
def test_a_cpu_that_does_not_multiply_in_bfloat16(
    capability: str,
    precision: str,
    told: bool,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    settings = [*TINY, f"precision={precision}"]
    pretrain(store, tmp_path / "run", epochs=1, settings=settings)
    assert ("does not multiply in bfloat16" in capsys.readouterr().err) == told


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("precision", ["auto", "32", "bf16"])
def test_auto_is_bfloat16_where_the_cpu_multiplies_in_it(
    precision: str,
    able: bool,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And one line says so, unless the precision was set."""
    monkeypatch.setattr("poscon.training.inference.multiplies_in_bfloat16", lambda: able)
    seen = set()
    forward = Encoder.forward

    def watched(encoder: Encoder, images: torch.Tensor) -> list[torch.Tensor]:
        features = forward(encoder, images)
        if encoder.training:
            seen.add(features[-1].dtype)
        return features

    monkeypatch.setattr(Encoder, "forward", watched)
    pretrain(store, tmp_path / "run", epochs=1, settings=[*TINY, f"precision={precision}"])
    mixed = precision == "bf16" or (precision == "auto" and able)
    assert seen == {torch.bfloat16 if mixed else torch.float32}
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("precision: ")]
    assert len(lines) == (precision == "auto" and able)
    assert all("--set precision=32" in line for line in lines)


@pytest.mark.slow
def test_compiled_equals_eager(store: Path, tmp_path: Path) -> None:
    for compiled in ("true", "false"):
        settings = [*TINY, "network.levels=1", f"compile={compiled}"]
        pretrain(store, tmp_path / compiled, epochs=1, settings=settings)
    compiled_weights, eager = (weights(tmp_path / name) for name in ("true", "false"))
    assert compiled_weights.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-3, atol=1e-4)


def test_what_a_gpu_still_works_on_counts(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The speed of a chunk is told once its last loss is known, not once it has been asked for."""
    clock = [0.0]
    read = loop.ChunkMeans.mean

    def waited_for(self: loop.ChunkMeans, name: str) -> float:
        clock[0] += 4.0 if name == "loss" else 0.0
        return read(self, name)

    monkeypatch.setattr(loop.ChunkMeans, "mean", waited_for)
    monkeypatch.setattr("poscon.training.loop.time.perf_counter", lambda: clock[0])
    pretrain(store, tmp_path / "run", epochs=1, settings=TINY)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["slices_per_second"]) == 16 * int(row["step"]) / 4


def test_where_torch_cannot_compile(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> Any:
        raise FileNotFoundError("no compiler")

    usual = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda part, **how: usual(part, backend=backend, **how)
    )
    with pytest.raises(PosconError, match="setting compile: torch cannot compile here"):
        pretrain(store, tmp_path / "run", epochs=1, settings=[*TINY, "compile=true"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_compiler_torch_cannot_compile(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poscon", "pretrain", store, tmp_path / "run"]
    for setting in [*TINY, "compile=true"]:
        command += ["-s", setting]
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "setting compile: torch cannot compile here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def in_two_processes(store: Path, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "poscon", "pretrain", str(store), str(run), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_two_processes_train_one_encoder(store: Path, tmp_path: Path) -> None:
    settings = [option for setting in [*TINY, "precision=32"] for option in ("-s", setting)]
    done = in_two_processes(store, tmp_path / "two", "--epochs", "3", *settings)
    assert done.returncode == 0, done.stderr
    pretrain(store, tmp_path / "one", epochs=3, settings=TINY)
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for row, expected in zip(two, one, strict=True):
        assert row["lr"] == expected["lr"]
        if row["loss"]:  # of the slices of both processes: one process of half would have less
            assert float(row["chance"]) == pytest.approx(float(expected["chance"]), rel=1e-6)
            assert float(row["floor"]) == pytest.approx(float(expected["floor"]), rel=1e-6)
            assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=0.1)
    assert two[0]["uniformity"] == one[0]["uniformity"]  # one and the same start
    assert weights(tmp_path / "two").keys() == weights(tmp_path / "one").keys()


@pytest.mark.slow
def test_two_processes_repeat_themselves_and_resume(store: Path, tmp_path: Path) -> None:
    settings = [option for setting in TINY for option in ("-s", setting)]
    for name in ("whole", "again"):
        done = in_two_processes(store, tmp_path / name, "--epochs", "3", *settings)
        assert done.returncode == 0, done.stderr
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "again"))
    (tmp_path / "again" / "encoder.safetensors").unlink()
    done = in_two_processes(store, tmp_path / "again", "--resume")  # from its last checkpoint
    assert done.returncode == 0, done.stderr
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "again"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-s", "batch=15"], "setting batch = 15: cannot be shared evenly by 2 processes"),
        (["--method", "gcl"], "--method gcl: trains in one process only"),
    ],
)
@pytest.mark.slow
def test_what_two_processes_cannot_do(
    store: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = in_two_processes(store, tmp_path / "run", *options)
    assert done.returncode != 0
    assert f"error: {message}" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_has_just_ended_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fresh = tmp_path / "run", Request.from_arguments

    def overtaken(*arguments: Any) -> Request:
        request = fresh(*arguments)
        monkeypatch.undo()
        pretrain(store, run, epochs=1, settings=TINY)
        return request

    monkeypatch.setattr(Request, "from_arguments", overtaken)
    with pytest.raises(PosconError, match="exists already"):
        pretrain(store, run, epochs=2, settings=TINY)
    assert yaml.safe_load((run / "config.yaml").read_text())["settings"]["epochs"] == 1
