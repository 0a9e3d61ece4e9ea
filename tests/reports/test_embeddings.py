import shutil
from pathlib import Path

import numpy as np
import yaml

from poscon.reports import figures
from poscon.reports.embeddings import embed
from poscon.store.store import Store


def test_slices_are_in_order_of_position_and_like_themselves(store: Path, pretrained: Path) -> None:
    opened = Store(store)
    found = embed(pretrained, opened, opened.cases, 32)
    n = sum(case.shape[0] for case in opened.cases)
    assert found.similarity.shape == (n, n)
    assert found.plane.shape == (n, 2)
    assert (np.diff(found.positions) >= 0).all()
    assert sorted(found.positions) == sorted(
        np.float32(p) for case in opened.cases for p in case.positions
    )
    np.testing.assert_allclose(np.diag(found.similarity), 1)
    np.testing.assert_allclose(found.similarity, found.similarity.T)
    assert 0 < found.explained <= 1


def test_one_case_a_subject_and_few_subjects(store: Path, pretrained: Path) -> None:
    opened = Store(store)
    twice = [opened.cases[0], *opened.cases[:2]]
    found = embed(pretrained, opened, twice, 32)
    assert len(found.positions) == sum(case.shape[0] for case in opened.cases[:2])


def test_positions_are_of_the_kind_that_the_run_went_by(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    run, opened = tmp_path / "run", Store(store)
    shutil.copytree(pretrained, run, ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
    relative = embed(run, opened, opened.cases, 32)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["settings"].pop("position") == "relative"
    for settings in (config["settings"], config["settings"] | {"position": "physical"}):
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"settings": settings}))
        found = embed(run, opened, opened.cases, 32)
        if "position" not in settings:  # a run of an earlier version
            np.testing.assert_array_equal(found.positions, relative.positions)
    assert (relative.in_unit, relative.limits) == ("", (0, 1))
    assert found.in_unit == " in mm"
    assert found.limits == (found.positions[0], found.positions[-1])
    assert found.positions[-1] > 10
    assert (np.diff(found.positions) >= 0).all()
    labels = [figures.similarity(of, "").axes[0].get_xlabel() for of in (relative, found)]
    assert labels == ["position of one slice", "position of one slice in mm"]
    assert figures.embedding_map(found, "").axes[1].get_ylabel() == "position in mm"


def test_learned_positions_of_volumes_that_were_not_in_the_training(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    run, opened = tmp_path / "run", Store(store)
    shutil.copytree(pretrained, run, ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["settings"]["position"] = "learned"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert all(case.axis is None for case in opened.cases)
    placed = embed(run, opened, opened.cases, 32)
    assert placed.in_unit == " in mm"
    assert placed.limits[1] - placed.limits[0] > 10
    too_few = embed(run, opened, opened.cases[:2], 32)
    assert (too_few.in_unit, too_few.limits) == ("", (0, 1))
