import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from poscon.commands.prepare import prepare
from poscon.comparison.jobs import Job, Schedule, make_schedule
from poscon.comparison.plan import Plan
from poscon.comparison.plan_files import plan_names, read_plan
from poscon.errors import PosconError
from poscon.settings import validate
from poscon.store.store import Store
from poscon.volumes.phantom import write_phantom

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))


def plan(**changes: Any) -> Plan:
    told = {
        "pretraining": ["random", "pcl"],
        "labelled": [1, 2],
        "folds": 2,
        "size": 32,
        "network": {"width": 4, "levels": 2},
        **changes,
    }
    return validate(Plan, told)


def names(schedule: Schedule) -> set[str]:
    return {job.name for job in schedule.jobs}


def by_command(schedule: Schedule, command: str) -> list[Job]:
    return [job for job in schedule.jobs if job.command == command]


def test_every_combination_once_and_a_pretraining_a_fold_before_what_starts_from_it(
    store: Path,
) -> None:
    schedule = make_schedule(plan(draws=2), Store(store), store)
    assert len(by_command(schedule, "pretrain")) == 2  # pcl in two folds; none needs none
    finetunings = schedule.finetunings
    cells = {(j.pretraining, j.finetuning, j.labelled, j.fold, j.draw) for j in finetunings}
    assert len(cells) == len(finetunings) == 2 * 1 * 2 * 2 * 2
    order = [job.name for job in schedule.jobs]
    for job in finetunings:
        assert (job.init is None) == (job.pretraining == "random")
        if job.init is not None:
            assert order.index(job.init) < order.index(job.name)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Enough subjects for any plan, with the lists that some of them want; others to start from."""
    found = {}
    for name, subjects, seed in (("data", 18, 3), ("pretrain_data", 3, 7)):
        folder = tmp_path_factory.mktemp(name)
        write_phantom(folder / "scans", subjects=subjects, seed=seed)
        found[name] = prepare(folder / "scans", folder / "store", spacing=8.0, processes=1)
    everyone = [case.subject for case in found["data"].cases]
    split = {"train": everyone[:16], "validation": everyone[16:], "test": everyone[16:]}
    folder = Path(found["data"].path)
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "hippocampus-train.txt").write_text("\n".join(split["train"]))
    for name in ("hippocampus-tune", "hippocampus-test", "btcv-test"):
        (folder / f"{name}.txt").write_text("\n".join(split["test"]))
    return found


@pytest.mark.parametrize("name", [*plan_names(), *map(str, EXPERIMENTS)])
def test_every_plan_that_comes_along_can_be_begun(name: str, many: dict[str, Store]) -> None:
    told = read_plan(name, ["network.width=4"])
    source = many["pretrain_data"] if told.setting == "transfer" else None
    schedule = make_schedule(told, many["data"], Path(many["data"].path), source)
    assert {job.row for job in schedule.finetunings} == set(told.rows)


def test_all_methods_have_the_same_subjects_and_none_is_tested_on(store: Path) -> None:
    entries = ["supervised", "mean-teacher"]
    schedule = make_schedule(plan(finetuning=entries, labelled=[1]), Store(store), store)
    subject = {case.id: case.subject for case in Store(store).cases}
    for fold in schedule.folds:
        of_fold = [job for job in schedule.finetunings if job.fold == fold.number]
        assert len({job.cases["labelled"] for job in of_fold}) == 1
        for job in of_fold:
            assert {subject[i] for i in job.cases["test"]} == set(fold.test)
            learnt = set(job.cases["labelled"]) | set(job.cases.get("unlabelled", ()))
            assert not {subject[i] for i in learnt} & set(fold.test)
            assert ("unlabelled" in job.cases) == (job.finetuning == "mean-teacher")
            assert not set(job.cases["labelled"]) & set(job.cases.get("unlabelled", ()))
    for job in by_command(schedule, "pretrain"):
        assert job.fold is not None
        seen = {subject[i] for i in job.cases["pretrain"]}
        assert seen == set(schedule.folds[job.fold].train)


def test_a_run_is_known_by_what_determines_it(store: Path) -> None:
    opened = Store(store)
    base = names(make_schedule(plan(), opened, store))
    assert names(make_schedule(plan(), opened, store)) == base
    # what does not determine a run
    same = plan(description="x", metrics=["assd_mm"], baseline="pcl | supervised")
    assert names(make_schedule(same, opened, store)) == base
    # more draws, numbers or methods: what was there stays
    fewer = names(make_schedule(plan(labelled=[1]), opened, store))
    assert fewer < base
    for more in ({"draws": 2}, {"pretraining": ["random", "pcl", "simclr"]}):
        assert base < names(make_schedule(plan(**more), opened, store))
    # another fine-tuning: pre-training stays
    changed = make_schedule(plan(finetune={"iterations": 9}), opened, store)
    assert names(changed) & base == {j.name for j in by_command(changed, "pretrain")}
    # another pre-training: the random start stays
    changed = make_schedule(plan(pretrain={"epochs": 3}), opened, store)
    assert names(changed) & base == {
        j.name for j in changed.finetunings if j.pretraining == "random"
    }
    # another seed: nothing does
    assert not names(make_schedule(plan(seed=5), opened, store)) & base


def test_other_pixels_are_another_run(store: Path, scans: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    prepare(scans, copy, spacing=6.5, processes=1)
    base, other = (make_schedule(plan(), Store(s), s) for s in (store, copy))
    assert not names(base) & names(other)


def test_transductive_pretraining_sees_everybody_once_and_says_so(store: Path) -> None:
    opened = Store(store)
    inductive = make_schedule(plan(), opened, store)
    assert not inductive.transductive
    assert inductive.protocol.startswith("Inductive")
    schedule = make_schedule(plan(transductive=True), opened, store)
    (pretraining,) = by_command(schedule, "pretrain")  # shared by the folds
    assert set(pretraining.cases["pretrain"]) == {case.id for case in opened.cases}
    assert schedule.transductive
    assert schedule.protocol.startswith("Transductive: pre-training saw 5 test scans")


def test_watching_the_test_subjects_is_part_of_what_determines_a_run(store: Path) -> None:
    opened = Store(store)
    schedule = make_schedule(plan(flaws={"select_on_test": True}), opened, store)
    for job in schedule.finetunings:
        assert job.cases["validation"] == job.cases["test"]
    plain = {j.name for j in make_schedule(plan(), opened, store).finetunings}
    assert not plain & {j.name for j in schedule.finetunings}


def test_the_same_scan_in_both_parts_is_refused_before_any_work(
    scans: Path, tmp_path: Path
) -> None:
    twice = tmp_path / "scans"
    shutil.copytree(scans, twice)
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(twice / folder / "phantom_000.nii.gz", twice / folder / "phantom_900.nii.gz")
    prepare(twice, tmp_path / "store", spacing=6.0, processes=1)
    store = Store(tmp_path / "store")
    messages = []
    for seed in range(8):
        try:
            make_schedule(plan(seed=seed, labelled=[1]), store, twice)
        except PosconError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 8  # in some draws of folds they are together
    both = ("phantom_900 = phantom_000", "phantom_000 = phantom_900")
    assert all(any(pair in message for pair in both) for message in messages)


def test_a_transfer_pretrains_once_on_the_other_set(store: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "other", subjects=4, seed=3)
    prepare(tmp_path / "other", tmp_path / "store", spacing=6.0, processes=1)
    transfer = plan(setting="transfer", pretrain_data={"folder": "x"})
    source = Store(tmp_path / "store")
    schedule = make_schedule(transfer, Store(store), store, source)
    (pretraining,) = by_command(schedule, "pretrain")
    assert set(pretraining.cases["pretrain"]) == {case.id for case in source.cases}
    assert "another data set" in schedule.protocol
    # the other set holds what is tested on: refused, unless it is said
    with pytest.raises(PosconError, match=r"learnt from: .* \(pre-training\)"):
        make_schedule(transfer, Store(store), store, Store(store))
    said = plan(setting="transfer", pretrain_data={"folder": "x"}, transductive=True)
    assert make_schedule(said, Store(store), store, Store(store)).transductive
    with pytest.raises(PosconError, match="transductive: has no effect"):
        make_schedule(said, Store(store), store, source)


def test_too_few_subjects(store: Path) -> None:
    with pytest.raises(PosconError, match="6 folds of 5 labelled subjects"):
        make_schedule(plan(folds=6), Store(store), store)
    with pytest.raises(PosconError, match="labelled = 4: fold 0 has 2 labelled"):
        make_schedule(plan(labelled=[4]), Store(store), store)
    with pytest.raises(PosconError, match="leaves fold 0 no case without labels"):
        make_schedule(plan(labelled=[2], finetuning=["bcp"]), Store(store), store)


def test_a_size_that_the_network_cannot_have_is_found_before_any_run(store: Path) -> None:
    with pytest.raises(PosconError, match="setting size = 30: must be a multiple of 4"):
        make_schedule(plan(size=30), Store(store), store)
    deep = make_schedule(plan(size=None, network={"width": 2, "levels": 5}), Store(store), store)
    assert {job.settings["size"] % 32 for job in deep.jobs} == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pretraining": ["random", "pcl", "pirl"], "network": {"width": 2, "levels": 5}},
            r"pretrain, pirl: setting loss.grid = 3: .* set size to 96",
        ),
        ({"pretraining": ["gcl"], "pretrain": {"batch": 90, "epochs": 1}}, "pretrain, gcl: .*step"),
        (
            {"pretraining": ["pcl", "rotation"], "pretrain": {"views": {"mirror": True}}},
            "pretrain, rotation: views.mirror=true",
        ),
        (
            {"finetuning": ["supervised", "bcp"], "finetune": {"batch": 1}},
            "finetune, bcp: setting batch = 1",
        ),
    ],
)
def test_what_a_method_cannot_do_is_found_before_any_run(
    changes: dict[str, Any], message: str, store: Path
) -> None:
    with pytest.raises(PosconError, match=message):
        make_schedule(plan(**changes), Store(store), store)


def test_watching_is_transductive_only_where_a_scan_was_seen(store: Path) -> None:
    watched = {"flaws": {"select_on_test": True}}
    opened = Store(store)
    for transductive in (False, True):
        schedule = make_schedule(plan(transductive=transductive, **watched), opened, store)
        for job in schedule.finetunings:
            assert job.settings["transductive"] == (transductive and job.init is not None)


def test_a_program_survives_a_file(store: Path) -> None:
    schedule = make_schedule(plan(finetuning=["supervised", "mixup"]), Store(store), store)
    assert Schedule.from_record(json.loads(json.dumps(schedule.as_record()))) == schedule


def test_sizes_are_of_the_whole_set_so_that_folds_agree(store: Path) -> None:
    schedule = make_schedule(plan(size=None, network=None), Store(store), store)
    sizes = {job.settings["size"] for job in schedule.jobs}
    assert len(sizes) == 1
    assert isinstance(sizes.pop(), int)


def test_an_automatic_size_is_the_same_whether_it_is_said_or_not(store: Path) -> None:
    said, unsaid = (plan(size=size) for size in ("auto", None))
    programs = [make_schedule(told, Store(store), store) for told in (said, unsaid)]
    assert names(programs[0]) == names(programs[1])
    assert {type(job.settings["size"]) for job in programs[0].jobs} == {int}


def test_identical_scans_are_counted_once_each(store: Path, tmp_path: Path) -> None:
    opened = Store(store)
    manifest = opened.manifest
    same = {"pixels_sha256": manifest.cases[0].pixels_sha256}
    cases = tuple(replace(c, **same) for c in manifest.cases[:2]) + manifest.cases[2:]
    opened.manifest = manifest.model_copy(update={"cases": cases})
    (tmp_path / "test.txt").write_text("\n".join(case.subject for case in cases[:2]))
    told = plan(transductive=True, labelled=[1], folds=[{"test": "test.txt"}])
    protocol = make_schedule(told, opened, tmp_path).protocol
    assert protocol.startswith("Transductive: pre-training saw 2 test scans")


def test_names_are_fit_for_folders(store: Path) -> None:
    for job in make_schedule(plan(), Store(store), store).jobs:
        assert job.name == Path(job.name).name
        assert len(np.unique(list(job.name.split("-")[-1]))) > 1
