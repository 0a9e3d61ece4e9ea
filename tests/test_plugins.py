"""Methods and layouts of installed packages; the example is that of the page in docs/how-to."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poscon import plugins
from poscon.cli import main
from poscon.comparison.jobs import make_schedule
from poscon.comparison.plan import Plan
from poscon.errors import PosconError
from poscon.listings import list_layouts, list_methods
from poscon.settings import validate
from poscon.store.store import Store

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "add-a-method.md"
TINY = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32"]


def examples() -> dict[str, str]:
    """The files of the page, by the name in their first line."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(blocks)


def install(site: Path, name: str, groups: dict[str, dict[str, str]], code: str) -> Path:
    """What pip leaves of a package of one module: the module and its metadata."""
    site.mkdir(exist_ok=True)
    (site / f"{name.replace('-', '_')}.py").write_text(code)
    about = site / f"{name.replace('-', '_')}-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = []
    for group, members in groups.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in members.items()), ""]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return site


def started(*arguments: object, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which the packages of a folder are there."""
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "poscon", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        },
        check=False,
    )


MODULES = ("extra", "other", "near_is_like")


@contextmanager
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The packages of a folder are there for this process, for a while."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        plugins._points.cache_clear()
        for name in MODULES:
            sys.modules.pop(name, None)
        try:
            yield
        finally:
            plugins._points.cache_clear()
            for name in MODULES:
                sys.modules.pop(name, None)


@pytest.fixture
def page_package(tmp_path: Path) -> Path:
    files = examples()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    return install(
        tmp_path / "site", project["name"], project["entry-points"], files["near_is_like.py"]
    )


def test_the_package_of_the_page_goes_through_the_commands(
    page_package: Path,
    scans: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("phantom_000", "phantom_001", "phantom_002"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        image, label = (scans / folder / f"{name}.nii.gz" for folder in ("imagesTr", "labelsTr"))
        shutil.copy(image, tmp_path / "clinic" / name / "scan.nii.gz")
        if name != "phantom_002":
            shutil.copy(label, tmp_path / "clinic" / name / "organs.nii.gz")
    steps: list[list[object]] = [
        ["prepare", "clinic", "store", "--spacing", 6, "--processes", 1],
        ["pretrain", "store", "near", "--method", "near-is-like", "--epochs", 1, *TINY],
        ["finetune", "store", "seg", "--init", "near", "--method", "cross-entropy"],
        ["suggest", "store", "next", "--budget", 2, "--strategy", "middle-first"],
    ]
    steps[1] += ["-s", "loss.scale=2", "-s", "batch=8", "-s", "network.architecture=strided"]
    steps[2] += ["--iterations", 3, "-s", "size=32", "-s", "batch=4"]
    said = ""
    with installed(page_package, monkeypatch):
        for step in steps:
            code, out, err = poscon(*step)
            assert code == 0, err
            said += out
    assert "layout clinic" in said  # found without being named
    assert (tmp_path / "seg" / "model.safetensors").is_file()
    assert "near the middle" in (tmp_path / "next" / "suggestion.csv").read_text()
    assert "scale: 2" in (tmp_path / "near" / "config.yaml").read_text()
    for run in ("near", "seg"):
        assert "architecture: strided" in (tmp_path / run / "config.yaml").read_text()


def test_lists_say_where_a_member_comes_from(
    page_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = started("methods", "--json", site=page_package, cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows["near-is-like"]["from"] == "near-is-like"
    assert rows["near-is-like"]["kind"] == "pre-training"
    assert rows["cross-entropy"]["kind"] == "fine-tuning"
    assert rows["middle-first"]["kind"] == "suggestion"
    assert rows["pcl"]["from"] == rows["residual"]["from"] == "poscon"
    assert (rows["strided"]["kind"], rows["strided"]["from"]) == ("architecture", "near-is-like")
    with installed(page_package, monkeypatch):
        layouts = {row["layout"]: row["from"] for row in list_layouts().rows}
        summaries = [row["what it does"] for row in list_methods().rows]
    assert layouts["clinic"] == "near-is-like"
    assert list(layouts)[-1] == "plain"  # which takes any folder, so it is tried last
    assert "the distance of features is the distance of positions" in summaries


def test_a_plan_takes_them(
    page_package: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(
        "pretraining: [random, near-is-like]\n"
        "finetuning: [supervised, cross-entropy]\n"
        "labelled: [2]\nfolds: 2\ndata: {phantom: {subjects: 6}}\n"
    )
    arguments = ["compare", "plan.yaml", "out", "--dry-run", "--json"]
    with installed(page_package, monkeypatch):
        code, out, err = poscon(*arguments)
    assert code == 0, err
    methods = {run["settings"]["method"]["value"] for run in json.loads(out)}
    assert methods == {"near-is-like", "supervised", "cross-entropy"}
    code, _, err = poscon(*arguments)
    assert code == 2
    assert "is unknown" in err


GOOD = "class Thing: pass\nvalue = 3\n"
BROKEN = "import nothing_that_exists\n"


@pytest.mark.parametrize(
    ("group", "name", "value", "code", "arguments", "words"),
    [
        (
            "poscon.pretext", "pcl", "extra:Thing", GOOD,
            ["pretrain", "store", "run", "--method", "pcl"],
            "pre-training method 'pcl' of the package extra: the name is taken by poscon",
        ),
        (
            "poscon.layouts", "acdc", "extra:value", GOOD, ["prepare", ".", "store"],
            "layout 'acdc' of the package extra: the name is taken by poscon",
        ),
        (
            "poscon.pretext", "mine", "extra:Thing", BROKEN,
            ["pretrain", "store", "run", "--method", "mine"],
            "extra:Thing cannot be imported (ModuleNotFoundError",
        ),
        (
            "poscon.pretext", "mine", "extra:Absent", GOOD,
            ["pretrain", "store", "run", "--method", "mine"],
            "extra:Absent cannot be imported (AttributeError",
        ),
        (
            "poscon.pretext", "mine", "extra:Thing", GOOD,
            ["pretrain", "store", "run", "--method", "mine"],
            "extra:Thing is not a subclass of poscon.pretext.base.PretextMethod",
        ),
        (
            "poscon.networks", "mine", "extra:Thing", GOOD,
            ["pretrain", "store", "run", "-s", "network.architecture=mine"],
            "extra:Thing is not a subclass of poscon.networks.parts.Encoder",
        ),
        (
            "poscon.networks", "unet", "extra:Thing", GOOD, ["pretrain", "store", "run"],
            "architecture 'unet' of the package extra: the name is taken by poscon",
        ),
        (
            "poscon.finetuning", "mine", "extra:value", GOOD,
            ["finetune", "store", "run", "--method", "mine"],
            "extra:value is not a subclass of poscon.finetuning.base.FinetuneMethod",
        ),
        (
            "poscon.finetuning", "mine", "extra:Method",
            "from poscon.finetuning.base import FinetuneMethod as Method\n",
            ["finetune", "store", "run", "--method", "mine"],
            "has no text 'summary'",
        ),
        (
            "poscon.layouts", "mine", "extra:Thing", GOOD,
            ["prepare", ".", "new", "--layout", "mine"],
            "extra:Thing is not an object of poscon.volumes.layouts.base.Layout",
        ),
        (
            "poscon.layouts", "mine", "extra:layout",
            "from poscon.volumes.layouts.plain import LAYOUT as layout\n",
            ["prepare", ".", "new", "--layout", "mine"],
            "calls itself 'plain'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(
    group: str,
    name: str,
    value: str,
    code: str,
    arguments: list[str],
    words: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(tmp_path / "site", "extra", {group: {name: value}}, code)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = {"store": str(store)} if "prepare" not in arguments else {}
    with installed(tmp_path / "site", monkeypatch):
        monkeypatch.setattr(sys, "argv", ["poscon", *(places.get(a, a) for a in arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert words in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not list((tmp_path / "here").iterdir())


def test_two_packages_with_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"poscon.finetuning": {"mine": "extra:Thing"}}
    install(tmp_path / "site", "extra", groups, GOOD)
    install(tmp_path / "site", "other", groups, GOOD)
    with (
        installed(tmp_path / "site", monkeypatch),
        pytest.raises(PosconError, match="'mine' of the package other: the name is taken by extra"),
    ):
        list_methods()


def test_a_broken_package_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {
        "poscon.pretext": {"mine": "extra:Thing"},
        "poscon.layouts": {"mine": "extra:Thing"},
    }
    site = install(tmp_path / "site", "extra", groups, BROKEN)
    with installed(site, monkeypatch):
        for listing, column, known in (
            (list_methods(), "name", "pcl"),
            (list_layouts(), "layout", "acdc"),
        ):
            names = {row[column] for row in listing.rows}
            assert known in names
            assert "mine" not in names
            (problem,) = listing.problems
            assert "cannot be imported" in problem
    result = started("layouts", "--json", site=site, cwd=tmp_path)
    assert result.returncode == 0
    assert json.loads(result.stdout)
    assert result.stderr.startswith("note: ")
    assert result.stderr.count("\n") == 1


def test_the_release_of_a_member_is_that_of_its_package(
    page_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(page_package, monkeypatch):
        assert plugins.release(plugins.PRETEXT, "near-is-like") == "near-is-like 0.1"
        assert plugins.release(plugins.PRETEXT, "pcl") is None
        assert plugins.release(plugins.FINETUNING, "near-is-like") is None


def test_another_release_of_a_method_is_another_run(
    page_package: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a comparison only the runs of the package are done again: its training and its choice."""
    told = {
        "pretraining": ["random", "near-is-like"],
        "finetuning": [{"method": "supervised", "inits": ["near-is-like", "random"]}],
        "labelled_slices": [2],
        "strategies": ["spread", "middle-first"],
        "folds": 2,
        "size": 32,
        "network": {"width": 4, "levels": 2},
    }

    def runs() -> set[str]:
        with installed(page_package, monkeypatch):
            schedule = make_schedule(validate(Plan, told), Store(store), store)
            return {job.name for job in schedule.jobs}

    before = runs()
    assert runs() == before
    about = page_package / "near_is_like-0.1.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("Version: 0.1", "Version: 0.2"))
    kept = before & runs()
    assert kept
    assert all("-random-" in name and "-spread-" in name for name in kept)
    assert len(kept) == sum("-random-" in n and "-spread-" in n for n in before)
