import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from poscon import executors
from poscon.comparison import work
from poscon.comparison.compare import compare, comparison_tables, open_comparison
from poscon.comparison.data import prepare_once
from poscon.comparison.dry_run import planned_runs
from poscon.comparison.plan_files import read_plan
from poscon.comparison.plan_parts import DataSettings
from poscon.errors import PosconError

TINY: dict[str, Any] = {
    "description": "a test",
    "data": {"phantom": {"subjects": 6, "seed": 3}, "prepare": {"spacing": 6.0}},
    "pretraining": ["random", "pcl"],
    "labelled": [1, 2],
    "folds": 2,
    "size": 32,
    "precision": 32,  # also where the processes of the comparison run on a CPU that has bfloat16
    "network": {"width": 2, "levels": 2},
    "pretrain": {"epochs": 1, "batch": 16},
    "finetune": {"iterations": 12, "batch": 4, "checkpoint_every": 3},
    "flaws": {"select_on_test": True, "pooled_dice": True},
}


def plan_file(folder: Path, **changes: Any) -> str:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return str(path)


def test_learned_positions_are_those_of_the_training_scans_alone(
    no_workers: None, tmp_path: Path
) -> None:
    learned = {"method": "pcl", "settings": {"position": "learned", "loss": {"threshold": 12}}}
    plan = plan_file(tmp_path, pretraining=[{"name": "learned", **learned}], labelled=[1])
    compare(plan, tmp_path / "out")
    runs = sorted((tmp_path / "out/runs").glob("pretrain-*"))
    placed = [{e["id"] for e in json.loads((run / "cases.json").read_text())} for run in runs]
    assert [len(cases) for cases in placed] == [3, 3]
    assert not placed[0] & placed[1]
    manifest = json.loads((tmp_path / "out/store/manifest.json").read_text())
    assert all(case.get("axis") is None for case in manifest["cases"])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def touched(out: Path) -> dict[str, int]:
    """When each run came to its end."""
    runs = out / "runs"
    found = [*runs.glob("pretrain-*/job.json"), *runs.glob("finetune-*/results.csv")]
    return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def done(no_workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("compare")
    compare(plan_file(folder), folder / "out")
    return folder / "out"


def cli(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "poscon", "compare", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )


def test_one_row_a_patient_class_and_run(done: Path) -> None:
    comparison = open_comparison(done)
    found = rows(done)
    assert len(found) == 2 * 2 * 6 * 4  # starts, numbers, subjects, classes
    for fold in comparison.schedule.folds:
        of_fold = [row for row in found if row["fold"] == str(fold.number)]
        assert {row["subject"] for row in of_fold} == set(fold.test)
    assert all(0 <= float(row["dice"]) <= 1 for row in found if row["dice"])
    summary = (done / "summary.md").read_text()
    for words in (
        "Inductive",
        "| 1 | random | supervised |",
        "| 2 | pcl | supervised |",
        "baseline",
    ):
        assert words in summary
    assert r"\begin{tabular}" in (done / "table.tex").read_text()


@pytest.mark.parametrize("metrics", [("dice",), ("dice", "hd95_mm", "assd_mm", "nsd", "rvd")])
def test_the_tables_of_a_terminal_are_whole_at_80_columns(
    done: Path, metrics: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """What all rows share stands in the title."""
    comparison = open_comparison(done)
    plan = comparison.plan.model_copy(update={"metrics": metrics})
    console = Console(width=80)
    console.print(*comparison_tables(replace(comparison, plan=plan)), sep="\n")
    shown = capsys.readouterr().out
    assert "1 labelled subjects, supervised" in [line.rstrip() for line in shown.splitlines()]
    assert "…" not in shown
    assert shown.count("baseline") == 2 + 1  # a row of each table, and the last line
    for name in ("random", "pcl", "change"):
        assert shown.count(name) >= 2
    assert "fine-tuning" not in shown
    assert "ASSD" not in shown  # there is room for two metrics


def test_what_flaws_would_have_gained_is_told_beside_the_honest_figure(done: Path) -> None:
    for cell in open_comparison(done).cells():
        assert cell.optimistic is not None
        assert cell.optimistic.last is not None
        assert cell.optimistic.best is not None
        assert cell.optimistic.best >= cell.optimistic.last
        assert cell.optimistic.pooled is not None
    assert "What flawed reporting would have said" in (done / "summary.md").read_text()


def test_done_again_nothing_is_done(done: Path, tmp_path: Path) -> None:
    before = touched(done)
    results = (done / "results.csv").read_text()
    compare(plan_file(tmp_path), done)
    assert touched(done) == before
    assert (done / "results.csv").read_text() == results


def test_a_changed_plan_does_what_is_new_and_keeps_the_rest(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = touched(out)
    changes = {"labelled": [1], "finetuning": ["supervised", "mixup"], "finetune": TINY["finetune"]}
    compare(plan_file(tmp_path, **changes), out)
    after = touched(out)
    assert before.items() <= after.items()
    new = {Path(path).parent.name.rsplit("-", 1)[0] for path in after.keys() - before.keys()}
    assert new == {
        f"finetune-fold{f}-draw0-m1-{s}-mixup" for f in (0, 1) for s in ("random", "pcl")
    }
    assert {row["finetuning"] for row in rows(out)} == {"supervised", "mixup"}
    assert {row["labelled"] for row in rows(out)} == {"1"}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_finds_the_same(done: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "out", plan_file(tmp_path)
    kept: dict[str, int] = {}
    for wait_for in (1, 4):
        process = cli(plan, out, "--processes", 2)
        deadline = time.monotonic() + 240
        while len(touched(out)) < wait_for and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = touched(out)
        assert kept.items() <= now.items()
        kept = now
    final = cli(plan, out, "--processes", 2)
    _, errors = final.communicate(timeout=300)
    assert final.returncode == 0, errors
    assert kept.items() <= touched(out).items()
    # the same to the last digit as without interruption
    assert (out / "results.csv").read_text() == (done / "results.csv").read_text()
    assert not (out / ".work").exists()


def end(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line_and_nothing_is_lost(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    first, *_, last = open_comparison(out).schedule.finetunings
    (out / "runs" / last.name / "results.csv").unlink()
    kept = touched(out)
    monkeypatch.setattr(executors, "ProcessPoolExecutor", ProcessPoolExecutor)
    monkeypatch.setattr("poscon.comparison.compare.guarded", end)
    message = f"run {last.name}: its process was killed"
    with pytest.raises(PosconError, match=message) as error:
        compare(plan_file(tmp_path), out, processes=1)
    assert "\n" not in str(error.value)
    assert touched(out) == kept
    found = {(row["pretraining"], row["labelled"], row["fold"]) for row in rows(out)}
    assert (first.pretraining, str(first.labelled), str(first.fold)) in found
    assert (last.pretraining, str(last.labelled), str(last.fold)) not in found


def test_a_run_that_fails_is_named_and_the_others_are_done(
    no_workers: None, tmp_path: Path
) -> None:
    bad = {"name": "wild", "method": "supervised", "settings": {"optimiser": {"lr": 1e30}}}
    data = {**TINY["data"], "phantom": {"subjects": 4, "seed": 3}}
    plan = plan_file(tmp_path, data=data, labelled=[1], finetuning=["supervised", bad], flaws={})
    with pytest.raises(PosconError, match=r"run finetune-\S+-wild-\S+: .*loss is .* 3 more run"):
        compare(plan, tmp_path / "out")
    assert {row["finetuning"] for row in rows(tmp_path / "out")} == {"supervised"}
    assert "4 of" not in (tmp_path / "out" / "summary.md").read_text()
    assert "0 of 2 runs" in (tmp_path / "out" / "summary.md").read_text()


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "checkpoints/last.ckpt")

    monkeypatch.setattr(work, "do", full)
    place: Any = None
    job: Any = None
    assert work.guarded(job, place) == (
        "checkpoints/last.ckpt: cannot be used (No space left on device)"
    )


def test_a_store_that_changed_is_found_before_any_work(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    manifest = json.loads((out / "store" / "manifest.json").read_text())
    manifest["cases"][1]["stored_sha256"] = "0" * 64
    (out / "store" / "manifest.json").write_text(json.dumps(manifest))
    before = touched(out)
    with pytest.raises(PosconError, match=r"store: has changed since .* \(1 cases: phantom_001\)"):
        compare(plan_file(tmp_path), out)
    assert touched(out) == before


def test_scans_that_changed_are_found_before_any_work(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "store-scans" / "labelsTr" / "phantom_003.nii.gz").unlink()
    with pytest.raises(PosconError, match=r"1 scans: labelsTr/phantom_003\.nii\.gz"):
        compare(plan_file(tmp_path), out)


def test_scans_of_another_content_and_the_same_size_are_found(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    path = out / "store-scans" / "imagesTr" / "phantom_002.nii.gz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PosconError, match=r"1 scans: imagesTr/phantom_002\.nii\.gz"):
        compare(plan_file(tmp_path), out)


def test_label_values_that_mean_something_else_are_found(done: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    path = out / "store-scans" / "dataset.json"
    path.write_text(path.read_text().replace('"1": "lower"', '"1": "tube"'))
    with pytest.raises(PosconError, match=r"dataset\.json: has changed since .* was begun; put it"):
        compare(plan_file(tmp_path), out)
    path.unlink()
    with pytest.raises(PosconError, match=r"dataset\.json: has changed since"):
        prepare_once(out / "store", plan_data(tmp_path), "data", out)


def test_a_list_of_turned_cases_that_changed_is_found(done: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    shutil.rmtree(out / "store")
    (out / "data.json").write_text("{}")
    turned = tmp_path / "turned.txt"
    turned.write_text("phantom_001\n")
    told = plan_data(tmp_path, reverse=str(turned))
    for _ in range(2):  # begun, and continued
        prepare_once(out / "store", told, "data", out)
    turned.write_text("phantom_002\n")
    with pytest.raises(PosconError, match=r"turned\.txt: has changed since .* was begun"):
        prepare_once(out / "store", told, "data", out)


def test_runs_that_were_measured_otherwise_are_refused(done: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    with pytest.raises(PosconError, match=r"results\.csv: is not what .* \(NSD at 2 mm\); remove"):
        compare(plan_file(tmp_path, metrics=["dice", "nsd"], nsd_tolerance_mm=1.0), out)
    before = touched(out)
    compare(plan_file(tmp_path, metrics=["dice", "nsd", "rvd"]), out)
    assert touched(out) == before
    assert "| NSD | RVD |" in (out / "summary.md").read_text()
    old = next((out / "runs").glob("finetune-*/results.csv"))
    table = [row.split(",") for row in old.read_text().splitlines()]
    lost = [table[0].index(name) for name in ("nsd", "rvd", "nsd_tolerance_mm")]
    kept = [",".join(cell for i, cell in enumerate(row) if i not in lost) for row in table]
    old.write_text("\n".join(kept) + "\n")
    with pytest.raises(PosconError, match=r"\(no nsd\); remove this file in every run"):
        compare(plan_file(tmp_path, metrics=["dice", "nsd"]), out)
    compare(plan_file(tmp_path), out)  # what the plan shows is there


def plan_data(folder: Path, **changes: Any) -> DataSettings:
    """The data of the plan."""
    return read_plan(plan_file(folder, data={**TINY["data"], **changes})).data


def test_moved_it_goes_on(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(done, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    results = (tmp_path / "moved" / "results.csv").read_text()
    before = touched(tmp_path / "moved")
    for path in (tmp_path / "moved" / "store-scans").rglob("*.gz"):
        os.utime(path)  # the time of change is not what counts
    compare(plan_file(tmp_path), "moved")
    assert touched(tmp_path / "moved") == before
    assert (tmp_path / "moved" / "results.csv").read_text() == results


def test_a_recipe_is_part_of_the_plan_that_is_kept(tmp_path: Path) -> None:
    """On the command line, with processes, which the other tests of this file do without."""
    (tmp_path / "recipe.yaml").write_text(
        "prepare: {spacing: 7.0}\nfinetune: {iterations: 2, batch: 4}\n"
    )
    changes = {
        "recipe": str(tmp_path / "recipe.yaml"),
        "data": {"phantom": {"subjects": 4, "seed": 3}},
        "pretraining": ["random"],
        "pretrain": {},
        "finetune": {},
        "labelled": [1],
        "flaws": {},
    }
    out = tmp_path / "out"
    process = cli(plan_file(tmp_path, **changes), out, "--processes", 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (tmp_path / "recipe.yaml").unlink()
    comparison = open_comparison(out)
    assert comparison.plan.data.prepare == {"spacing": 7.0}
    assert len(comparison.cells()) == 1
    assert comparison.cells()[0].complete
    assert {job.settings["iterations"] for job in comparison.schedule.jobs} == {2}


def test_a_prepare_that_failed_may_be_corrected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PosconError, match="zzz"):
        compare(plan_file(tmp_path), out, settings=["data.labels=zzz"])
    with pytest.raises(PosconError, match="9 folds"):  # so it has come further
        compare(plan_file(tmp_path), out, settings=["folds=9"])


def test_scans_beside_their_label_maps_in_one_folder(
    no_workers: None, scans: Path, tmp_path: Path
) -> None:
    """Predictions are compared with label maps, not with the scans of the same name."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for stem in (f"phantom_{i:03d}" for i in range(4)):
        shutil.copy(scans / "imagesTr" / f"{stem}.nii.gz", plain / f"{stem}.nii.gz")
        shutil.copy(scans / "labelsTr" / f"{stem}.nii.gz", plain / f"{stem}_seg.nii.gz")
    changes = {"pretraining": ["random"], "pretrain": {}, "labelled": [1], "flaws": {}}
    settings = ["data.phantom=null", "finetune.iterations=2"]
    compare(plan_file(tmp_path, **changes), tmp_path / "out", data=plain, settings=settings)
    assert {row["subject"] for row in rows(tmp_path / "out")} == {
        f"phantom_{i:03d}" for i in range(4)
    }


def test_a_test_scan_that_was_swapped_for_a_labelled_one_is_refused(
    done: Path, tmp_path: Path
) -> None:
    """The guard before the runs knows the store; this one looks at what is segmented."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    comparison = open_comparison(out)
    job = comparison.schedule.finetunings[0]
    run = comparison.place.run(job.name)
    (run / "results.csv").unlink()
    shutil.rmtree(run / "predictions")
    scans = out / "store-scans" / "imagesTr"
    labelled, test = (f"{job.cases[role][0]}.nii.gz" for role in ("labelled", "test"))
    shutil.copy(scans / labelled, scans / test)
    message = work.guarded(job, comparison.place)
    assert message is not None
    assert f"{job.cases['test'][0]} (labelled" in message
    assert not comparison.place.is_done(job)


def test_a_defect_in_one_run_is_told_and_kept_in_its_log(
    monkeypatch: pytest.MonkeyPatch, done: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA out of\nmemory")

    comparison = open_comparison(done)
    job = comparison.schedule.jobs[0]
    monkeypatch.setattr(work, "do", broken)
    message = work.guarded(job, comparison.place)
    assert message is not None
    assert message.startswith("RuntimeError: CUDA out of memory (see ")
    assert "Traceback" in (done / "logs" / f"{job.name}.log").read_text()


def test_killed_before_the_first_checkpoint_it_begins_anew(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    comparison = open_comparison(out)
    job = next(j for j in comparison.schedule.finetunings if j.init is not None)
    run = comparison.place.run(job.name)
    for part in ("checkpoints", "predictions"):
        shutil.rmtree(run / part)
    for part in ("model.safetensors", "results.csv", "metrics.csv"):
        (run / part).unlink()
    assert work.guarded(job, comparison.place) is None
    assert comparison.place.is_done(job)
    theirs = (done / "runs" / job.name / "results.csv").read_text()
    assert (run / "results.csv").read_text() == theirs


def test_finished_runs_without_checkpoints_are_measured_anew_and_not_trained(
    done: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    comparison = open_comparison(out)
    job = next(j for j in comparison.schedule.finetunings if j.init is not None)
    for name, result in ((job.init, "job.json"), (job.name, "results.csv")):
        run = comparison.place.run(name)
        shutil.rmtree(run / "checkpoints")
        (run / result).unlink()
        weights = next(run.glob("*.safetensors"))
        before = weights.stat().st_mtime_ns
        again = next(j for j in comparison.schedule.jobs if j.name == name)
        assert work.guarded(again, comparison.place) is None
        assert comparison.place.is_done(again)
        assert weights.stat().st_mtime_ns == before
    theirs = (done / "runs" / job.name / "results.csv").read_text()
    assert (run / "results.csv").read_text() == theirs


def test_a_damaged_file_is_one_line(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "schedule.json").write_text("{")
    with pytest.raises(PosconError, match=r"schedule\.json: damaged"):
        open_comparison(out)
    (out / "data.json").write_text("{")
    with pytest.raises(PosconError, match=r"data\.json: damaged"):
        compare(plan_file(tmp_path), out)


def test_damaged_results_are_not_taken_for_none(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    next((out / "runs").glob("*/results.csv")).write_text("")
    with pytest.raises(PosconError, match=r"results\.csv: damaged"):
        open_comparison(out).cells()


def test_other_data_need_another_folder(done: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PosconError, match=r"was begun with other data \(phantom .* then, None now\)"
    ):
        compare(plan_file(tmp_path), done, data=scans)


def test_other_data_need_another_folder_also_if_the_first_start_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", {"phantom": {"subjects": 4}, "prepare": {"spacing": 6.0}}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("poscon.comparison.data._stamp", killed)  # the store is prepared by then
        with pytest.raises(KeyboardInterrupt):
            compare(plan_file(tmp_path, data=told), out)
    told["prepare"] = {"spacing": 8.0}
    with pytest.raises(PosconError, match=r"was begun with other data \(prepare .*6.* then, .*8"):
        compare(plan_file(tmp_path, data=told), out)


def test_scans_that_were_added_after_a_refusal_are_read(
    no_workers: None, scans: Path, tmp_path: Path
) -> None:
    """Until a plan fits the data there is no run, and so nothing that has to stay as it was."""
    few = tmp_path / "few"

    def add(*numbers: int) -> None:
        for part in ("images", "labels"):
            (few / part).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                name = f"phantom_{number:03d}.nii.gz"
                shutil.copy(scans / f"{part}Tr" / name, few / part / name)

    changes = {"pretraining": ["random"], "pretrain": {}, "flaws": {}}
    plan = plan_file(tmp_path, **changes)
    how: dict[str, Any] = {"data": few, "settings": ["data.phantom=null", "finetune.iterations=1"]}
    add(0, 1)
    made = []
    for _ in range(2):
        with pytest.raises(PosconError, match=r"labelled = 2: fold 0 has 1 .* of 2 that there"):
            compare(plan, tmp_path / "out", **how)
        made.append((tmp_path / "out/store/manifest.json").stat().st_mtime_ns)
    assert made[0] == made[1]  # what was prepared is kept as long as the scans are the same
    label = few / "labels" / "phantom_001.nii.gz"
    image = nib.load(label)
    corrected = np.where(np.asanyarray(image.dataobj) == 1, 2, image.dataobj).astype(np.uint8)
    nib.save(nib.Nifti1Image(corrected, image.affine), label)
    with pytest.raises(PosconError, match=r"labelled = 2: fold 0 has 1"):
        compare(plan, tmp_path / "out", **how)
    assert (tmp_path / "out/store/manifest.json").stat().st_mtime_ns != made[0]
    (few / "participants.tsv").write_text("participant_id\n")  # may say whose a scan is
    made.append((tmp_path / "out/store/manifest.json").stat().st_mtime_ns)
    with pytest.raises(PosconError, match=r"labelled = 2: fold 0 has 1"):
        compare(plan, tmp_path / "out", **how)
    assert (tmp_path / "out/store/manifest.json").stat().st_mtime_ns != made[-1]
    add(2, 3)
    compare(plan, tmp_path / "out", **how)
    assert {row["subject"] for row in rows(tmp_path / "out")} == {
        f"phantom_{number:03d}" for number in range(4)
    }
    made = touched(tmp_path / "out")
    add(4)  # a comparison keeps the data that its runs began with
    compare(plan, tmp_path / "out", **how)
    assert touched(tmp_path / "out") == made


def test_synthetic_scans_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poscon.comparison.compare._do_all", lambda *_: None)
    compare(plan_file(tmp_path), tmp_path / "out")
    assert "note: data: 6 synthetic scans; --data names a folder of real ones" in " ".join(
        capsys.readouterr().err.split()
    )


def test_two_at_once_in_one_folder(done: Path, tmp_path: Path) -> None:
    with (done / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PosconError, match="another poscon compare is at work there"):
            compare(plan_file(tmp_path), done)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"engine": "dask"}, "--engine dask: must be local or ray"),
        ({"address": "127.0.0.1:1"}, "--address: no effect"),
        ({"processes": 0}, "--processes 0"),
        ({"engine": "ray", "processes": 2}, "--processes: no effect with --engine ray"),
        ({"pretrain_data": "."}, "--pretrain-data: no effect"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"settings": ["data.phantom=null"]}, "say with --data where it is"),
        ({"settings": ["folds=9"]}, "9 folds of 6 labelled subjects"),
        ({"settings": ["labelled=[4]"]}, "labelled = 4: fold 0 has 3"),
        ({"settings": ["data.prepare={spacing: -1}"]}, "must be positive mm"),
    ],
)
def test_what_cannot_be_meant_is_found_before_any_run(
    told: dict[str, Any], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(PosconError, match=words.replace("(", r"\(")):
        compare(plan_file(tmp_path), out, **told)
    assert not (out / "runs").exists()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("data.prepare={spacing: big}", "data: setting prepare.spacing = 'big': must be a number"),
        ("data.prepare={sapcing: 2}", "data: unknown setting 'prepare.sapcing' (did you mean"),
        ("data.layout=foo", "data: layout 'foo' is unknown"),
        ("data.labels=RV", "data: --labels: cannot read 'RV'"),
        ("folds=[{test: none.txt}]", "none.txt: cannot read the list of names"),
        ("folds=[{test: empty.txt}]", "empty.txt: names no case"),
        ("folds=[{test: some.txt, train: none.txt}]", "none.txt: cannot read the list of names"),
    ],
)
def test_what_a_plan_says_of_its_data_is_checked_by_a_dry_run_too(
    told: str, words: str, scans: Path, tmp_path: Path
) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    (tmp_path / "scans" / "some.txt").write_text("phantom_000\n")
    (tmp_path / "scans" / "empty.txt").write_text("\n")
    plan = plan_file(tmp_path, data={"folder": str(tmp_path / "scans")})
    for check in (
        lambda: planned_runs(plan, settings=[told]),
        lambda: compare(plan, tmp_path / "out", settings=[told]),
    ):
        with pytest.raises(PosconError, match=re.escape(words)):
            check()
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(PosconError, match="exists and is no comparison"):
        compare(plan_file(tmp_path), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    with pytest.raises(PosconError, match="no comparison"):
        open_comparison(tmp_path / "out")


def test_a_folder_among_the_scans_is_refused_before_any_work(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    plan = plan_file(tmp_path, data={"folder": str(tmp_path / "scans")})
    with pytest.raises(PosconError, match="out: is in the folder of the scans"):
        compare(plan, tmp_path / "scans" / "out")
    assert not (tmp_path / "scans" / "out").exists()


def test_an_unknown_device_is_refused_before_any_work(tmp_path: Path) -> None:
    for check in (
        lambda: compare(plan_file(tmp_path), tmp_path / "out", device="gpu"),
        lambda: planned_runs(plan_file(tmp_path), device="gpu"),
    ):
        with pytest.raises(PosconError, match="--device gpu: is unknown; use auto, cpu or cuda"):
            check()
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_before_the_first_run(
    done: Path, tmp_path: Path
) -> None:
    assert planned_runs(plan_file(tmp_path), device="cuda")  # of another machine
    with pytest.raises(PosconError, match=r"^device cuda: no CUDA GPU"):
        compare(plan_file(tmp_path), tmp_path / "out", device="cuda")
    assert not list((tmp_path / "out").glob("runs/*"))
    copied = shutil.copytree(done, tmp_path / "done")
    assert compare(plan_file(tmp_path), copied, device="cuda").cells()  # nothing is left to do


@pytest.mark.slow
def test_real_scans_through_the_command_line(shared_data: Path, tmp_path: Path) -> None:
    """Cardiac MRI to be tested on as its split says; two patients, one labelled."""
    source = shared_data / "acdc"
    names = json.loads((source / "split.json").read_text())
    for part, chosen in (("train", names["train"][:2]), ("test", names["validation"][:2])):
        (tmp_path / f"{part}.json").write_text(json.dumps(chosen))
        for name in chosen:
            shutil.copytree(source / "training" / name, tmp_path / "acdc" / "training" / name)
    fold = {"train": str(tmp_path / "train.json"), "test": str(tmp_path / "test.json")}
    changes = {
        "data": {"prepare": {"spacing": 4.0}},
        "labelled": [1],
        "folds": [fold],
        "order": "listed",
        "flaws": {},
    }
    process = cli(
        plan_file(tmp_path, **changes),
        tmp_path / "out",
        "--data",
        tmp_path / "acdc",
        "-s",
        "draws=2",
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = rows(tmp_path / "out")
    assert {row["subject"] for row in found} == set(names["validation"][:2])
    assert len(found) == 2 * 2 * 2 * 2 * 3  # starts, draws, patients, frames, classes
    assert np.isfinite([float(row["hd95_mm"]) for row in found if row["hd95_mm"]]).all()
    assert not any(row["seen"] for row in found)
    assert "report:" in output
    chosen = list((tmp_path / "out" / "runs").glob("finetune-*/cases.json"))
    assert len(chosen) == 4
    for path in chosen:
        labelled = {e["subject"] for e in json.loads(path.read_text()) if e["role"] == "labelled"}
        assert labelled == {names["train"][0]}
