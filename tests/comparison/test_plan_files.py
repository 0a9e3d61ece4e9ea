from pathlib import Path

import pytest

from poscon.comparison.plan_files import plan_names, read_plan
from poscon.errors import PosconError

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("name", [*plan_names(), *map(str, EXPERIMENTS)])
def test_every_plan_that_comes_along_is_valid_and_explained(name: str) -> None:
    plan = read_plan(name)
    assert len(plan.description) > 40
    assert plan.baseline_row.startswith("random | ")
    assert plan.finetuning[0].method == "supervised"


def test_files_that_are_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"a known plan \(did you mean 'small'"):
        read_plan("smal")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(PosconError, match="expected settings"):
        read_plan(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(PosconError, match="not valid YAML"):
        read_plan(str(tmp_path / "broken.yaml"))


def test_a_folder_in_place_of_the_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="a folder; name the plan first, then the folder"):
        read_plan(str(tmp_path))
