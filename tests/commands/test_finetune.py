import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from poscon.commands.finetune import Request, finetune
from poscon.commands.inspect import inspect
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.files import alone
from poscon.finetuning import guard
from poscon.finetuning.fixmatch import FixMatch
from poscon.finetuning.supervised import Supervised
from poscon.networks.weights import read_weights
from poscon.step import Step
from poscon.store.selection import draw_subjects
from poscon.store.store import Store
from poscon.store.training_range import TrainingRange
from poscon.training.curve import rise_at_end
from poscon.training.run import MetricsFile
from poscon.training.timing import Training, time_loop

SMALL = ["network.width=4", "network.levels=2", "size=32", "batch=8"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(run / "model.safetensors")[0]


def roles(run: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in json.loads((run / "cases.json").read_text()):
        found.setdefault(case["role"], []).append(case["subject"])
    return found


@pytest.mark.parametrize(
    ("few", "chosen", "method"),
    [
        (2, {"labelled": 2}, "fixmatch"),
        (1, {"labelled": 2}, "supervised"),
        (1, {"cases": ["phantom_000", "phantom_001"], "unlabelled": ["phantom_002"]}, "fixmatch"),
        (9, {}, "supervised"),  # all are labelled
        (3, {"labelled": 2, "settings": [*SMALL, "ema_decay=0"]}, "supervised"),
        (3, {"labelled": 2, "method": "supervised"}, "supervised"),
        (3, {"labelled": 2, "recipe": {"finetune": {"method": "mixup"}}}, "mixup"),
        (3, {"labelled": 2, "settings": [*SMALL, "loss.terms=ce"]}, "supervised"),
    ],
)
def test_few_labelled_subjects_and_others_without_labels(
    few: int,
    chosen: dict[str, Any],
    method: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a stated method `finetune` learns from the others too, and says so."""
    monkeypatch.setattr("poscon.training.roles.FEW", few)
    run = tmp_path / "run"
    finetune(store, run, iterations=1, **{"settings": SMALL, **chosen})
    assert yaml.safe_load((run / "config.yaml").read_text())["settings"]["method"] == method
    assert ("unlabelled" in roles(run)) == (method == "fixmatch")
    said = capsys.readouterr().err
    assert ("--method supervised leaves them out" in said) == (method == "fixmatch")
    finetune(store, run, resume=True)  # keeps the method


def test_starts_from_the_encoder_it_is_given(store: Path, pretrained: Path, tmp_path: Path) -> None:
    finetune(
        store,
        tmp_path / "run",
        init=pretrained,
        iterations=1,
        settings=["size=32", "batch=4", "optimiser.lr=1.0e-12", "optimiser.weight_decay=0"],
    )
    model, encoder = weights(tmp_path / "run"), read_weights(pretrained / "encoder.safetensors")[0]
    for name, value in encoder.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(model[f"encoder.{name}"], value)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["inputs"]["init"] == str(pretrained)
    assert config["inputs"]["loaded"] == f"encoder: {len(encoder)} tensors loaded"
    assert config["settings"]["network"]["width"] == 4


def test_learns(store: Path, tmp_path: Path) -> None:
    (tmp_path / "watch.txt").write_text("phantom_004\n")
    finetune(
        store,
        tmp_path / "run",
        validation=tmp_path / "watch.txt",
        iterations=300,
        settings=["network.width=8", "network.levels=3", "size=48", "batch=8", "optimiser.lr=0.01"],
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert float(rows[-1]["validation_dice"]) > 0.25
    assert roles(tmp_path / "run")["validation"] == ["phantom_004"]
    assert "phantom_004" not in roles(tmp_path / "run")["labelled"]


def with_labels(folder: Path, values: list[list[int]]) -> Path:
    """A store of cases whose label maps have these values."""
    rng = np.random.default_rng(0)
    for number, present in enumerate(values):
        label = np.zeros((16, 16, 6), np.uint8)
        for value in present:
            label[value * 3 : value * 3 + 3, 4:12, 1:5] = value
        image = (100 * label + rng.normal(50, 5, label.shape)).astype(np.float32)
        for kind, data in (("images", image), ("labels", label)):
            (folder / "scans" / kind).mkdir(parents=True, exist_ok=True)
            file = folder / "scans" / kind / f"c{number}.nii.gz"
            nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), file)
    prepare(folder / "scans", folder / "store", labels="1=one,2=two,3=three", processes=1)
    return folder / "store"


@pytest.mark.parametrize("values", [[[]], [[], []], [[], [], [1, 2]]])
def test_label_maps_without_a_class_are_refused(values: list[list[int]], tmp_path: Path) -> None:
    store = with_labels(tmp_path, values)
    with pytest.raises(PosconError, match=r"label maps of all \d labelled case\(s\) are empty"):
        finetune(store, tmp_path / "run", cases=["c0", "c1"][: len(values)], settings=SMALL)
    assert not (tmp_path / "run").exists()


def test_validation_without_a_class_is_refused(tmp_path: Path) -> None:
    store = with_labels(tmp_path, [[1, 2, 3], []])
    with pytest.raises(PosconError, match=r"all 1 validation case\(s\) are empty .*c1"):
        finetune(store, tmp_path / "run", validation=["c1"], settings=SMALL)


@pytest.mark.parametrize(
    ("values", "absent"),
    [([[1], [2]], "three"), ([[1], []], "two, three"), ([[1, 2, 3], [3]], None)],
)
def test_a_class_that_no_case_has_is_said(
    values: list[list[int]],
    absent: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = with_labels(tmp_path, values)
    finetune(store, tmp_path / "run", iterations=1, settings=SMALL)
    said = f"no labelled case has a voxel of {absent};" in capsys.readouterr().err
    assert said == (absent is not None)
    found = [o.text for o in inspect(store, tmp_path / "x.png").findings]
    for name in ("one", "two", "three"):
        expected = name in (absent or "").split(", ")
        assert any(text.startswith(f"{name} is in none of the 2") for text in found) == expected


def test_inspect_says_that_there_is_no_class(tmp_path: Path) -> None:
    found = inspect(with_labels(tmp_path, [[], []]), tmp_path / "x.png").findings
    assert ("no class", None) in [(o.kind, o.case) for o in found]


def test_one_training_at_a_time_in_a_folder(store: Path, pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with alone(run, "finetune"):
        with pytest.raises(PosconError, match="another poscon finetune is at work there"):
            finetune(store, run, iterations=1, settings=SMALL)
        with pytest.raises(PosconError, match="another poscon pretrain is at work there"):
            pretrain(store, run, epochs=1, settings=["size=32"])
    assert not run.exists()
    finetune(store, run, iterations=1, settings=SMALL)
    assert not (run / ".lock").exists()
    with alone(run, "finetune"), pytest.raises(PosconError, match="another poscon finetune"):
        finetune(store, run, resume=True)


def test_draws_subjects_and_draws_are_nested(store: Path) -> None:
    cases = Store(store).cases
    for seed in range(4):
        drawn = [{c.subject for c in draw_subjects(cases, n, seed)} for n in range(1, 6)]
        assert [len(d) for d in drawn] == [1, 2, 3, 4, 5]
        assert all(small < large for small, large in pairwise(drawn))
    assert len({frozenset(c.subject for c in draw_subjects(cases, 2, s)) for s in range(20)}) > 3


def test_excluded_cases_that_are_not_chosen_still_guard_the_pretraining(
    store: Path, pretrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "use.txt").write_text("phantom_000\nphantom_001\n")
    (tmp_path / "test.txt").write_text("phantom_004\n")
    apart = {"cases": tmp_path / "use.txt", "exclude": tmp_path / "test.txt"}
    with pytest.raises(PosconError, match=r"--init .*phantom_004 \(pretrain\).* keeps apart"):
        finetune(store, tmp_path / "run", init=pretrained, **apart)
    with pytest.raises(PosconError, match=r"test\.txt: has no effect"):  # there is nothing to guard
        finetune(store, tmp_path / "run", **apart)


def test_of_a_subject_to_validate_on_only_what_is_labelled_is_meant(
    store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "store")
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["cases"][4] |= {"subject": "phantom_003", "source_label": None, "class_voxels": None}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    watch = tmp_path / "watch.txt"
    watch.write_text("phantom_004\n")
    with pytest.raises(PosconError, match=r"watch\.txt: case phantom_004 has no label map"):
        finetune(tmp_path / "store", tmp_path / "run", validation=watch)
    watch.write_text("phantom_003\n")
    finetune(tmp_path / "store", tmp_path / "run", validation=watch, iterations=1, settings=SMALL)
    cases = json.loads((tmp_path / "run" / "cases.json").read_text())
    found = {
        role: [c["id"] for c in cases if c["role"] == role] for role in roles(tmp_path / "run")
    }
    assert found["validation"] == ["phantom_003"]
    assert found["labelled"] == ["phantom_000", "phantom_001", "phantom_002"]


def test_the_model_is_the_last_state_whatever_validation_says(store: Path, tmp_path: Path) -> None:
    (tmp_path / "watch.txt").write_text("phantom_004\n")
    (tmp_path / "use.txt").write_text("phantom_000\nphantom_001\n")
    common: dict[str, Any] = {
        "cases": tmp_path / "use.txt",
        "iterations": 12,
        "settings": SMALL,
    }
    finetune(store, tmp_path / "blind", **common)
    finetune(store, tmp_path / "watched", validation=tmp_path / "watch.txt", **common)
    blind, watched = weights(tmp_path / "blind"), weights(tmp_path / "watched")
    assert all(torch.equal(blind[name], watched[name]) for name in blind)


@pytest.mark.parametrize("steps", [3, 10, 27])
def test_resumed_equals_uninterrupted(
    steps: int,
    store: Path,
    pretrained: Path,
    tmp_path: Path,
    power_cut: Callable[..., AbstractContextManager[None]],
) -> None:
    common: dict[str, Any] = {
        "init": pretrained,
        "labelled": 2,
        "method": "supervised",
        "iterations": 30,
        "settings": ["size=32", "batch=4", "checkpoint_every=10"],
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune(store, whole, **common)
    with power_cut(Supervised, steps):
        finetune(store, broken, **common)
    finetune(store, broken, resume=True)
    a, b = weights(whole), weights(broken)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert roles(whole) == roles(broken)


def test_a_run_says_in_which_precision_it_began_and_that_another_goes_on(
    store: Path,
    tmp_path: Path,
    power_cut: Callable[..., AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with power_cut(Supervised, 1):
        finetune(store, run, iterations=2, settings=[*SMALL, "precision=32"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["began_on"] == {
        "device": "cpu",
        "precision": "32",
        "torch": str(torch.__version__),
    }
    config["began_on"]["precision"] = "bf16"  # as if `auto` had meant that
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    finetune(store, run, resume=True)
    assert " began in bfloat16 and goes on in float32;" in " ".join(capsys.readouterr().err.split())
    for older in ({}, {"began_on": "here"}):  # of an older version; damaged
        config.pop("began_on", None)
        (run / "config.yaml").write_text(yaml.safe_dump(config | older))
        finetune(store, run, resume=True)
        assert "began in" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_saves_the_step_and_goes_on(
    number: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a chunk, whose means are those of all its steps."""
    whole, ended, step, calls = tmp_path / "whole", tmp_path / "ended", Supervised.step, []
    how: dict[str, Any] = {"method": "supervised", "labelled": 2, "iterations": 6, "resume": True}
    how["settings"] = [*SMALL, "checkpoint_every=3"]
    finetune(store, whole, **how)

    def signalled(self: Supervised, *arguments: Any) -> Step:
        calls.append(number)
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return step(self, *arguments)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "step", signalled)
        with pytest.raises(KeyboardInterrupt):
            finetune(store, ended, **how)
    signal.signal(signal.SIGINT, handler)
    saved = torch.load(ended / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["step"], saved["means"]["counts"]["loss"]) == (5, 2)
    finetune(store, ended, **how)
    assert (ended / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for ours, theirs in zip(
        *(MetricsFile(run / "metrics.csv").rows() for run in (ended, whole)), strict=True
    ):
        assert {**ours, "slices_per_second": 0} == {**theirs, "slices_per_second": 0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labelled": 2}, "was begun with other labelled cases than these options select"),
        ({"init": "elsewhere"}, "--init elsewhere: the run of .* was begun with .*pretrain; leave"),
        ({"settings": ["batch=4"]}, "setting batch = 4: the run of .* was begun with 8; leave"),
    ],
)
def test_a_run_goes_on_with_no_other_arguments_than_it_began_with(
    arguments: dict[str, Any], words: str, store: Path, finetuned: Path
) -> None:
    with pytest.raises(PosconError, match=words):
        finetune(store, finetuned, resume=True, **arguments)


def test_a_run_from_random_weights_says_so_where_it_is_to_go_on_from_others(
    store: Path, tmp_path: Path
) -> None:
    finetune(store, tmp_path / "run", iterations=1, settings=SMALL)
    with pytest.raises(PosconError, match=r"--init elsewhere: .* was begun with random weights;"):
        finetune(store, tmp_path / "run", init="elsewhere", resume=True)


def test_a_changed_setting_of_a_run_is_refused_with_the_name_of_its_file(
    store: Path, finetuned: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finetuned, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    settings = config["settings"] | {"method": "supervise"}
    for changed, words in (
        ({"settings": settings}, "'supervise' is unknown"),
        ({"command": "fine-tune"}, "damaged"),
    ):
        (run / "config.yaml").write_text(yaml.safe_dump(config | changed))
        with pytest.raises(PosconError, match=rf"config\.yaml: .*{words}"):
            finetune(store, run, resume=True)


def test_a_class_that_dies_out_is_named_and_a_resumed_run_knows_of_it(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    power_cut: Callable[..., AbstractContextManager[None]],
) -> None:
    """The teacher is one that finds all classes, but not the first one for some steps."""
    plain = FixMatch.step

    def step(learner: FixMatch, batch: Any, views: Any, seed: int, progress: float) -> Step:
        def teach(images: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.arange(images[:, 0].numel()).reshape(images[:, 0].shape)
            labels = labels % learner.network.n_classes
            if 0.3 <= progress < 0.6:
                labels[labels == 1] = 0
            return labels, torch.ones_like(labels, dtype=torch.bool)

        monkeypatch.setattr(learner, "teach", teach)
        return plain(learner, batch, views, seed, progress)

    monkeypatch.setattr(FixMatch, "step", step)
    monkeypatch.setattr(guard, "SLICES", 1)
    monkeypatch.setattr(guard, "RISE", 3)
    how: dict[str, Any] = {"method": "fixmatch", "labelled": 2, "iterations": 16}
    how["settings"] = [*SMALL, "checkpoint_every=3", "loss.ramp_up=[0, 0]"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune(store, whole, **how)
    name = Store(store).class_names[0]
    notes = [line for line in capsys.readouterr().err.splitlines() if "pseudo-labels" in line]
    assert [note.partition("the pseudo-labels ")[2] for note in notes] == [
        f"have lost {name}; they do not count until it is back",
        f"have {name} again, so they count again",
    ]
    with (whole / "metrics.csv").open() as file:
        lost = [float(row["lost_classes"]) for row in csv.DictReader(file)]
    assert lost[0] == 0
    assert max(lost) == 1
    assert lost[-1] == 0
    with power_cut(FixMatch, 10):
        finetune(store, broken, **how)
    finetune(store, broken, resume=True)
    a, b = weights(whole), weights(broken)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_trained_is_compiled_and_what_is_looked_at_is_not(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of validation cases have other shapes; so has the second run, in the same process."""
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    usual = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda part, **how: usual(part, backend=backend, **how)
    )
    with torch._dynamo.config.patch(recompile_limit=1):  # of shapes, by itself 8
        (tmp_path / "watch.txt").write_text("phantom_004\n")
        for name, batch in (("first", 8), ("second", 6)):
            settings = [*SMALL[:-1], "compile=true", "checkpoint_every=2", f"batch={batch}"]
            run = tmp_path / name
            finetune(store, run, iterations=4, validation=tmp_path / "watch.txt", settings=settings)
    assert len(compiled) == 4, "an encoder and a decoder in each run"


def test_a_row_and_a_look_at_the_validation_cases_every_so_many_steps(
    store: Path, tmp_path: Path
) -> None:
    """The rest at the end has a row too; how often is looked changes nothing of the training."""
    (tmp_path / "watch.txt").write_text("phantom_004\n")
    result = {}
    for every, expected in ((3, ["3", "6", "7"]), (50, ["7"])):
        run = tmp_path / str(every)
        settings = [*SMALL, f"checkpoint_every={every}"]
        how: dict[str, Any] = {"labelled": 2, "iterations": 7, "settings": settings}
        finetune(store, run, validation=tmp_path / "watch.txt", **how)
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == expected
        assert all(row["validation_dice"] for row in rows)
        result[every] = weights(run)
    assert all(torch.equal(result[3][name], result[50][name]) for name in result[3])


def test_budget_does_not_depend_on_the_number_of_subjects(store: Path, tmp_path: Path) -> None:
    for labelled in (1, 3):
        run = tmp_path / str(labelled)
        finetune(store, run, labelled=labelled, iterations=7, settings=SMALL)
        with (run / "metrics.csv").open() as file:
            assert list(csv.DictReader(file))[-1]["step"] == "7"


def test_augmentation_may_be_changed_in_part(store: Path, tmp_path: Path) -> None:
    finetune(
        store, tmp_path / "run", labelled=1, iterations=1, settings=[*SMALL, "views.rotation=5"]
    )
    views = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]["views"]
    assert views["rotation"] == 5
    assert views["gamma"] == 0.5  # the default of fine-tuning, not that of pre-training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labelled": 6}, "6 labelled subjects asked for, 5 to draw from"),
        ({"labelled": 0}, "no labelled subject"),
        ({"method": "superviced"}, "did you mean 'supervised'"),
        ({"init": "nowhere"}, "give the folder of a pre-training run"),
        ({"settings": ["views.rotaton=3"]}, "did you mean 'rotation'"),
        ({"settings": ["loss.terms=dice"]}, "loss.terms = 'dice'"),
        ({"settings": ["iterations"]}, "write key=value"),
        ({"recipe": "demo", "iterations": 0}, "iterations = 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: dict[str, Any], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosconError, match=message) as error:
        finetune(store, tmp_path / "run", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_architecture_is_refused(store: Path, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"another architecture .width 4 there, 8 here"):
        finetune(
            store,
            tmp_path / "run",
            init=pretrained,
            settings=["network.width=8", "network.levels=2"],
        )
    assert not (tmp_path / "run").exists()


def test_labels_asked_for_where_there_are_none(scans: Path, tmp_path: Path) -> None:
    prepare(scans / "imagesTr", tmp_path / "store", spacing=8.0, processes=1)
    with pytest.raises(PosconError, match="has no label maps"):
        finetune(tmp_path / "store", tmp_path / "run", labelled=2)
    pretrain(tmp_path / "store", tmp_path / "pre", epochs=1, settings=SMALL)  # needs none


def test_unfinished_pretraining_is_named(pretrained: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "pre").mkdir()
    (tmp_path / "pre" / "config.yaml").write_text("command: pretrain\n")
    with pytest.raises(PosconError, match="did the run finish"):
        finetune(store, tmp_path / "run", init=tmp_path / "pre")


def test_minutes_become_a_number_of_steps(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run has the number, goes on with it, and is repeated by it."""

    def slow_loop(training: Training, steps: int, *, compiled: bool) -> float:
        """Steps that take as long on every machine."""
        time_loop(training, steps, compiled=compiled)
        return 5.0

    monkeypatch.setattr("poscon.training.finetune_training.time_loop", slow_loop)
    finetune(store, tmp_path / "run", minutes=1, settings=SMALL)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]
    steps = settings["iterations"]
    assert settings["minutes"] is None
    assert 1 <= steps <= 12
    assert f"1 minutes: {steps} iterations of 5 seconds" in capsys.readouterr().err
    finetune(store, tmp_path / "again", iterations=steps, settings=SMALL)
    for name, value in weights(tmp_path / "again").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=0, atol=0)


def test_a_recipe_may_have_settings_of_a_method_that_the_caller_names(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("finetune: {loss: {weight: 0.3}}")
    recipe = str(tmp_path / "r.yaml")
    how: dict[str, Any] = {"recipe": recipe, "iterations": 1, "labelled": 2, "settings": SMALL}
    finetune(store, tmp_path / "run", method="mean-teacher", **how)
    with pytest.raises(PosconError, match=r"method supervised: unknown setting 'loss\.weight'"):
        finetune(store, tmp_path / "other", **how)


def test_minutes_of_a_run_that_goes_on_are_those_it_was_begun_with(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poscon.training.finetune_training.time_loop", lambda *_, **__: 20.0)
    finetune(store, tmp_path / "run", minutes=1, settings=SMALL)
    assert finetune(store, tmp_path / "run", minutes=1, settings=SMALL, resume=True).is_file()
    with pytest.raises(PosconError, match=r"--minutes 9: the run of .*run was begun with 1;"):
        finetune(store, tmp_path / "run", minutes=9, resume=True)
    assert finetune(store, tmp_path / "run", settings=["minutes=null"], resume=True).is_file()
    with pytest.raises(PosconError, match="setting minutes = 'abc': must be a number"):
        finetune(store, tmp_path / "run", settings=["minutes=abc"], resume=True)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    del config["inputs"]["minutes"]  # as an earlier version wrote it
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert finetune(store, tmp_path / "run", minutes=1, settings=SMALL, resume=True).is_file()
    finetune(store, tmp_path / "steps", iterations=1, settings=SMALL)
    with pytest.raises(PosconError, match=r"--minutes 1: .* was begun with a number of steps;"):
        finetune(store, tmp_path / "steps", minutes=1, resume=True)


def test_looks_at_validation_cases_take_of_the_minutes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poscon.training import finetune_training as module

    waits, look = iter([4.0]), module.mean_dice

    def slow_look(*of: Any) -> dict[str, float]:
        """The first look, which is timed, takes long."""
        time.sleep(next(waits, 0.0))
        return look(*of)

    monkeypatch.setattr(module, "time_loop", lambda *_, **__: 5.0)
    monkeypatch.setattr(module, "mean_dice", slow_look)
    few = [*SMALL, "checkpoint_every=1"]
    finetune(store, tmp_path / "run", minutes=1, validation=["phantom_004"], settings=few)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]
    assert 1 <= settings["iterations"] <= 6  # of 11 without looks


def test_minutes_that_are_too_few_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"--minutes 0\.0001: .* give more"):
        finetune(store, tmp_path / "run", minutes=0.0001, validation=["phantom_004"])
    assert not (tmp_path / "run").exists()


def test_minutes_and_iterations_are_one_too_many(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="minutes and iterations both say how long"):
        finetune(store, tmp_path / "run", minutes=1, iterations=5)


def test_a_training_that_ends_while_it_rises_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rising = [*SMALL, "checkpoint_every=10", "optimiser.lr=0.01", "optimiser.warmup=0"]
    finetune(store, tmp_path / "run", iterations=120, validation=["phantom_004"], settings=rising)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        curve = [float(row["validation_dice"]) for row in csv.DictReader(file)]
    rise = rise_at_end(curve)
    assert rise > 0
    assert f"validation_dice rose by {rise:.3f}" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [False, True])
def test_a_finished_run_without_its_checkpoint_is_left_as_it_is(
    damaged: bool, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who needs room removes the checkpoints of runs that are finished."""
    own, run = Path(shutil.copytree(store, tmp_path / "store")), tmp_path / "run"
    finetune(own, run, iterations=1, settings=SMALL)
    shutil.rmtree(run / "checkpoints")
    if damaged:  # a refusal may not take the model with it
        next((own / "cases").glob("*/image.npy")).write_bytes(b"no array")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert finetune(own, run, settings=SMALL, resume=True) == run / "model.safetensors"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert f"note: {run} is finished; there is nothing to resume" in capsys.readouterr().err


def test_a_model_knows_the_range_of_all_that_it_has_seen(store: Path, tmp_path: Path) -> None:
    """Scans that it learned from without labels are not unlike its training data."""
    opened = Store(store)
    for method, others in (("supervised", 0), ("fixmatch", 4)):
        run = tmp_path / method
        finetune(store, run, labelled=1, method=method, iterations=1, settings=SMALL)
        seen = {name for names in roles(run).values() for name in names}
        assert len(seen) == 1 + others
        cases = [case for case in opened.cases if case.subject in seen]
        found = read_weights(run / "model.safetensors")[1]["training"]
        assert found == TrainingRange.of(opened, cases).model_dump(mode="json")


def test_a_setting_of_the_default_method_needs_no_stated_method(
    store: Path, tmp_path: Path
) -> None:
    run, how = tmp_path / "run", {"settings": [*SMALL, "unlabelled_batch=3"]}
    finetune(store, run, labelled=2, iterations=1, **how)
    settings = yaml.safe_load((run / "config.yaml").read_text())["settings"]
    assert (settings["method"], settings["unlabelled_batch"]) == ("fixmatch", 3)
    finetune(store, run, resume=True, **how)  # the same options may stay in the command
    with pytest.raises(PosconError, match="unlabelled_batch has no effect with method supervised"):
        finetune(store, tmp_path / "all", **how)  # all cases are labelled


def test_a_stated_length_replaces_that_of_the_recipe(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poscon.training.finetune_training.time_loop", lambda *_, **__: 20.0)
    steps, minutes = ({"finetune": {key: 1}} for key in ("iterations", "minutes"))
    how: dict[str, Any] = {"settings": SMALL}
    for name, given in (
        ("option", {"recipe": steps, "minutes": 0.9}),
        ("setting", {"recipe": steps, "settings": [*SMALL, "minutes=0.9"]}),
        ("steps", {"recipe": minutes, "iterations": 2}),
    ):
        finetune(store, tmp_path / name, **{**how, **given})
        finetune(store, tmp_path / name, **{**how, **given}, resume=True)
        found = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert found["settings"]["iterations"] == 2
        assert found["inputs"]["minutes"] == (None if name == "steps" else 0.9)
    both = {"finetune": {"iterations": 1, "minutes": 1}}
    with pytest.raises(PosconError, match="minutes and iterations both say how long"):
        finetune(store, tmp_path / "both", recipe=both, **how)


def test_minutes_of_a_compiled_training_hold_its_compilation_twice(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once where steps are timed, and once in the training."""
    from poscon.training import finetune_training as module

    asked = []

    def slow_start(training: Training, steps: int, *, compiled: bool) -> float:
        asked.append(compiled)
        time.sleep(1.0)
        return 0.01

    monkeypatch.setattr(module, "time_loop", slow_start)
    monkeypatch.setattr("poscon.commands.finetune.train", lambda *_, **__: None)
    settings = [*SMALL, "compile=true"]
    finetune(store, tmp_path / "run", minutes=0.1, method="supervised", settings=settings)
    assert asked == [True]
    found = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]
    assert 0 < found["iterations"] <= 420  # (6 - 1 - 0.8) / 0.01, where nothing else takes time


def test_cases_without_labels_that_are_drawn_as_labelled_are_told(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"phantom_00{k}" for k in range(5)]
    how: dict[str, Any] = {"iterations": 1, "settings": SMALL, "unlabelled": named}
    finetune(store, tmp_path / "run", labelled=2, **how)
    assert "note: 2 of the cases of the list of names are among the labelled" in (
        capsys.readouterr().err
    )
    finetune(store, tmp_path / "apart", cases=named[:1], **{**how, "unlabelled": named[1:]})
    assert "among the labelled" not in capsys.readouterr().err


def test_neither_a_run_nor_a_store_lies_in_a_store(
    store: Path, scans: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(store, tmp_path / "store"))
    before = sorted(own.rglob("*"))
    with pytest.raises(PosconError, match=r"lies in the store .*; choose a place outside it"):
        finetune(own, own / "runs" / "a", iterations=1, settings=SMALL)
    with pytest.raises(PosconError, match="lies in the store"):
        prepare(scans, own / "inner")
    assert sorted(own.rglob("*")) == before


def test_torchrun_is_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PosconError, match="trains in one process only; start it without torchrun"):
        finetune(store, tmp_path / "run", iterations=1, settings=SMALL)
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_has_just_ended_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fresh = tmp_path / "run", Request.from_arguments

    def overtaken(*arguments: Any) -> Request:
        request = fresh(*arguments)
        monkeypatch.undo()
        finetune(store, run, iterations=1, settings=SMALL)
        return request

    monkeypatch.setattr(Request, "from_arguments", overtaken)
    with pytest.raises(PosconError, match="exists already"):
        finetune(store, run, iterations=2, settings=SMALL)
    assert yaml.safe_load((run / "config.yaml").read_text())["settings"]["iterations"] == 1
