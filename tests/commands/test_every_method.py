"""Every method through the commands: it learns its task, it resumes, its parts are handed on."""

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from poscon import finetuning, pretext
from poscon.commands.finetune import finetune
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.finetuning.base import FinetuneMethod
from poscon.networks.weights import read_weights
from poscon.pretext.base import PretextMethod
from poscon.step import SliceBatch
from poscon.training.data import LabelledBatches
from poscon.training.run import part_file

pytestmark = pytest.mark.usefixtures("no_picture")
TINY = ["network.width=4", "network.levels=2", "size=32", "batch=16"]
TRAINED = [name for name in pretext.METHODS if pretext.find_method(name).trains]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["loss"]]


def same(a: Path, b: Path) -> bool:
    x, y = read_weights(a)[0], read_weights(b)[0]
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize("room", [pretext, finetuning])
def test_methods_are_found_by_name_and_say_what_they_are(room: Any) -> None:
    base = PretextMethod if room is pretext else FinetuneMethod
    for name in room.METHODS:
        method = room.find_method(name)
        assert issubclass(method, base)
        for text in (method.summary, method.citation, method.needs):
            assert text
            assert "\n" not in text
    known = next(iter(room.METHODS))
    with pytest.raises(PosconError, match=rf"did you mean '{known}'\?"):
        room.find_method(known + "l")


@pytest.mark.parametrize("name", TRAINED)
def test_pretraining_learns_its_task(name: str, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # contrast is slow with few slices, most of all with a memory bank that is an epoch old
    epochs = {"rotation": 12, "mae": 12, "pirl": 40}.get(name, 24)
    pretrain(store, run, method=name, epochs=epochs, settings=[*TINY, "optimiser.lr=0.01"])
    learnt = [float(row["learnt"]) for row in rows(run) if row["learnt"]]
    assert max(learnt[-3:]) > 0.1
    assert max(learnt[-3:]) > learnt[0]


def test_a_chunk_of_two_stages_is_not_judged(store: Path, tmp_path: Path) -> None:
    """Its loss is a mixture, which has no chance level; before it there is one, after it none."""
    run = tmp_path / "run"
    pretrain(store, run, method="gcl", epochs=3, settings=[*TINY, "loss.local=0.5"])
    first, mixed, last = rows(run)
    assert first["chance"]
    assert first["learnt"]
    assert not first["local_loss"]
    for name in ("chance", "floor", "learnt"):
        assert not mixed[name]
        assert not last[name]
    assert mixed["global_loss"]
    assert mixed["local_loss"]
    assert last["local_loss"] == last["loss"]
    assert not last["global_loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_pretraining_resumed_equals_uninterrupted(
    name: str, store: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(store, whole, method=name, epochs=3, settings=TINY)
    with power_cut(pretext.find_method(name), 17):
        pretrain(store, broken, method=name, epochs=3, settings=TINY)
    pretrain(store, broken, resume=True)
    parts = read_weights(part_file(whole, "encoder"))[1]["parts"]
    for part in parts:
        assert same(part_file(whole, part), part_file(broken, part)), part
    assert [row["loss"] for row in rows(whole)] == [row["loss"] for row in rows(broken)]


@pytest.mark.parametrize("name", pretext.METHODS)
def test_finetuning_starts_from_every_part_that_was_trained(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "pre"
    trained = pretext.find_method(name).trains
    if trained:
        pretrain(store, run, method=name, epochs=1, settings=TINY)
    else:
        pretrain(store, run, method=name, settings=[t for t in TINY if "batch" not in t])
    parts = read_weights(part_file(run, "encoder"))[1]["parts"]
    assert sorted(path.name for path in run.glob("*.safetensors")) == sorted(
        f"{part}.safetensors" for part in parts
    )
    seen = {}

    def spy(method: FinetuneMethod, *_: Any, **__: Any) -> None:
        seen.update({k: v.clone() for k, v in method.network.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr("poscon.commands.finetune.train", spy)
    for start in ("all", "encoder"):
        with pytest.raises(KeyboardInterrupt):
            finetune(
                store, tmp_path / start, init=run, labelled=2, settings=[f"init_parts={start}"]
            )
        for part in parts:
            tensors = read_weights(part_file(run, part))[0]
            taken = [torch.equal(seen[f"{part}.{name}"], value) for name, value in tensors.items()]
            assert all(taken) == (start == "all" or part == "encoder")


AVERAGED = [name for name in finetuning.METHODS if not finetuning.find_method(name).has_own_ema]
FINETUNE = ["size=32", "batch=8", "network.width=4", "network.levels=2"]


@pytest.mark.parametrize("name", finetuning.METHODS)
def test_finetuning_learns_and_resumes(
    name: str, store: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    how: dict[str, Any] = {"method": name, "labelled": 2, "iterations": 30}
    how["settings"] = [*FINETUNE, "checkpoint_every=5"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune(store, whole, **how)
    # a consistency may rise while the network becomes sure of more pixels
    losses = [float(row.get("supervised", row["loss"])) for row in rows(whole)]
    assert min(losses[-2:]) < 0.9 * losses[0]
    with power_cut(finetuning.find_method(name), 13):
        finetune(store, broken, **how)
    finetune(store, broken, resume=True)
    assert same(whole / "model.safetensors", broken / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "averaged", "settings"),
    [
        ("mean-teacher", "teacher", []),
        ("tcsm", "teacher", []),
        *((name, "ema", ["ema_decay=0.9"]) for name in AVERAGED),
    ],
)
def test_the_result_is_the_average_after_every_step(
    name: str, averaged: str, settings: list[str], store: Path, tmp_path: Path
) -> None:
    """Not the network that was trained; and the average has followed each of the 12 steps."""
    run = tmp_path / "run"
    finetune(store, run, method=name, labelled=2, iterations=12, settings=[*FINETUNE, *settings])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = checkpoint["method"]
    assert int(state[f"{averaged}._extra_state"]) == 12
    result = read_weights(run / "model.safetensors")[0]
    for tensor, value in result.items():
        assert torch.equal(value, state[f"{averaged}.network.{tensor}"]), tensor
    last = state["network.classifier.weight"]
    assert not torch.allclose(result["classifier.weight"], last)


def test_a_frozen_encoder_ends_as_it_began(store: Path, pretrained: Path, tmp_path: Path) -> None:
    """Frozen for 9 of 10 steps, and the learning rate of the last one is 0."""
    start = read_weights(part_file(pretrained, "encoder"))[0]
    changed = {}
    for frozen in (0.0, 0.9):
        run = tmp_path / str(frozen)
        settings = ["size=32", "batch=8", f"encoder_rate.frozen={frozen}", "optimiser.min_lr=0"]
        finetune(store, run, init=pretrained, labelled=2, iterations=10, settings=settings)
        model = read_weights(run / "model.safetensors")[0]
        weights = [k for k in start if k.endswith(("weight", "bias"))]
        changed[frozen] = [k for k in weights if not torch.equal(model[f"encoder.{k}"], start[k])]
    assert changed[0.9] == []
    assert changed[0.0]


@pytest.mark.parametrize("levels", [0, 1])
def test_coarser_resolutions_are_supervised_as_asked(
    levels: int, store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [*FINETUNE, f"deep_supervision={levels}"]
    finetune(store, run, labelled=2, iterations=1, settings=settings)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["method"]
    assert len([k for k in state if k.startswith("coarse") and "weight" in k]) == levels


@pytest.mark.parametrize("name", finetuning.METHODS)
def test_unlabelled_cases_are_the_rest(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only for methods that use them; a validation subject is never among them."""
    monkeypatch.setattr("poscon.commands.finetune.train", lambda *_, **__: None)
    (tmp_path / "watch.txt").write_text("phantom_003\n")
    (tmp_path / "not.txt").write_text("phantom_004\n")
    run = tmp_path / "run"
    finetune(
        store,
        run,
        method=name,
        labelled=2,
        validation=tmp_path / "watch.txt",
        exclude=tmp_path / "not.txt",
        settings=FINETUNE,
    )
    roles: dict[str, set[str]] = {}
    for entry in json.loads((run / "cases.json").read_text()):
        roles.setdefault(entry["role"], set()).add(entry["id"])
    assert roles["validation"] == {"phantom_003"}
    assert len(roles["labelled"]) == 2
    rest = {"phantom_000", "phantom_001", "phantom_002"} - roles["labelled"]
    uses = finetuning.find_method(name).uses_unlabelled
    assert roles.get("unlabelled", set()) == (rest if uses else set())


def test_unlabelled_cases_from_a_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poscon.commands.finetune.train", lambda *_, **__: None)
    (tmp_path / "labelled.txt").write_text("phantom_000\n")
    (tmp_path / "without.txt").write_text("phantom_000\nphantom_002\n")
    how: dict[str, Any] = {"cases": tmp_path / "labelled.txt", "settings": FINETUNE}
    with pytest.raises(PosconError, match=r"labelled\.txt: method|store: method bcp needs cases"):
        finetune(store, tmp_path / "none-left", method="bcp", **how)
    assert not (tmp_path / "none-left").exists()
    with pytest.raises(PosconError, match="--unlabelled: has no effect with method supervised"):
        finetune(
            store,
            tmp_path / "no-use",
            method="supervised",
            unlabelled=tmp_path / "without.txt",
            **how,
        )
    finetune(store, tmp_path / "run", method="bcp", unlabelled=tmp_path / "without.txt", **how)
    entries = json.loads((tmp_path / "run" / "cases.json").read_text())
    assert [(e["id"], e["role"]) for e in entries] == [
        ("phantom_000", "labelled"),
        ("phantom_002", "unlabelled"),
    ]


def test_excluded_subjects_leave_the_unlabelled_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the file of unlabelled cases has them."""
    monkeypatch.setattr("poscon.commands.finetune.train", lambda *_, **__: None)
    (tmp_path / "labelled.txt").write_text("phantom_000\n")
    (tmp_path / "all.txt").write_text("\n".join(f"phantom_00{i}" for i in range(5)))
    (tmp_path / "test.txt").write_text("phantom_003\nphantom_004\n")
    how: dict[str, Any] = {"cases": tmp_path / "labelled.txt", "exclude": tmp_path / "test.txt"}
    finetune(
        store,
        tmp_path / "run",
        method="bcp",
        unlabelled=tmp_path / "all.txt",
        settings=FINETUNE,
        **how,
    )
    entries = json.loads((tmp_path / "run" / "cases.json").read_text())
    assert [e["id"] for e in entries if e["role"] == "unlabelled"] == ["phantom_001", "phantom_002"]
    with pytest.raises(PosconError, match="has no effect, none of its subjects was chosen"):
        finetune(store, tmp_path / "supervised", settings=FINETUNE, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "random", "epochs": 3}, "epochs has no effect with method random"),
        ({"method": "random", "settings": ["batch=3"]}, "batch has no effect with method random"),
        ({"method": "mae", "settings": ["head.dimension=3"]}, "head has no effect with method mae"),
        (
            {"method": "gcl", "settings": ["grad_cache_chunk=8"]},
            "grad_cache_chunk has no effect with method gcl; .* --set grad_cache_chunk=null",
        ),
    ],
)
def test_settings_without_an_effect(
    how: dict[str, Any], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(PosconError, match=message):
        pretrain(store, tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mean-teacher", "tcsm"])
def test_an_average_of_a_method_that_has_its_own(name: str, store: Path, tmp_path: Path) -> None:
    message = f"ema_decay has no effect with method {name}, .* .see loss"
    with pytest.raises(PosconError, match=message):
        finetune(store, tmp_path / "run", method=name, settings=[*FINETUNE, "ema_decay=0.9"])
    assert not (tmp_path / "run").exists()


def test_unlabelled_slices_of_a_method_that_uses_none(store: Path, tmp_path: Path) -> None:
    message = "unlabelled_batch has no effect with method supervised, which uses labelled slices"
    with pytest.raises(PosconError, match=message):
        finetune(store, tmp_path / "run", settings=[*FINETUNE, "unlabelled_batch=2"])
    assert not (tmp_path / "run").exists()


def test_positions_of_a_method_that_uses_none(
    store: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = poscon("finetune", store, tmp_path / "run", "--set", "position=physical")
    assert code == 2
    assert "position has no effect with method supervised, which uses no positions" in err
    assert not (tmp_path / "run").exists()


def test_finetuning_by_positions_in_millimetres(store: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "supervised-pcl", "labelled": 2, "iterations": 2}
    settings = [*FINETUNE, "position=physical"]
    with pytest.raises(PosconError, match=r"loss.threshold = 0\.1: .* at least 5"):
        finetune(store, tmp_path / "run", settings=settings, **how)
    assert not (tmp_path / "run").exists()
    finetune(store, tmp_path / "run", settings=[*settings, "loss.threshold=15"], **how)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_pairs_of_another_number_leave_nothing(store: Path, tmp_path: Path) -> None:
    settings = [*FINETUNE, "unlabelled_batch=2"]
    with pytest.raises(PosconError, match="setting unlabelled_batch = 2: method bcp pastes"):
        finetune(store, tmp_path / "run", method="bcp", labelled=2, settings=settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mean-teacher", "tcsm", "supervised-pcl"])
def test_the_number_of_unlabelled_slices_is_a_setting(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()
    read = LabelledBatches.batch

    def watched(batches: LabelledBatches, step: int) -> SliceBatch:
        batch = read(batches, step)
        assert batch.unlabelled is not None
        seen.add((len(batch.images), len(batch.unlabelled.images)))
        return batch

    monkeypatch.setattr(LabelledBatches, "batch", watched)
    settings = [*FINETUNE, "unlabelled_batch=6"]
    finetune(store, tmp_path / "run", method=name, labelled=2, iterations=2, settings=settings)
    assert seen == {(8, 6)}
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_start_without_an_effect(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="init_parts: has no effect without --init"):
        finetune(store, tmp_path / "run", labelled=2, settings=["init_parts=encoder"])


def test_a_part_that_is_missing(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "pre", method="mae", epochs=1, settings=TINY)
    part_file(tmp_path / "pre", "decoder").unlink()
    with pytest.raises(PosconError, match=r"decoder\.safetensors: no such file"):
        finetune(store, tmp_path / "run", init=tmp_path / "pre", labelled=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mixup", "bcp"])
def test_a_batch_with_nothing_to_bring_together(name: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="together; use 2 or more"):
        finetune(store, tmp_path / "run", method=name, labelled=2, settings=["batch=1"])
    assert not (tmp_path / "run").exists()


def test_starts_that_are_no_pretraining_run(store: Path, finetuned: Path, tmp_path: Path) -> None:
    for init, message in [
        (finetuned, "a fine-tuning run; give one of poscon pretrain"),
        (tmp_path / "nowhere", "give the folder of a pre-training run"),
    ]:
        with pytest.raises(PosconError, match=message):
            finetune(store, tmp_path / "run", init=init, labelled=2)
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_method_says_the_way_out(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"method rotation: unknown .* --set loss=\{\}"):
        pretrain(store, tmp_path / "run", recipe="paper-acdc", method="rotation")
    with pytest.raises(PosconError, match=r"head has no effect .* --set head=\{\}"):
        pretrain(
            store, tmp_path / "run", recipe="paper-acdc", method="rotation", settings=["loss={}"]
        )


@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_too_short_for_its_stages(steps: int, store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="none is left for self-training"):
        finetune(
            store,
            tmp_path / "run",
            method="bcp",
            labelled=2,
            iterations=steps,
            settings=[*FINETUNE, "loss.pretraining=0.8"],
        )
    with pytest.raises(PosconError, match="none is left for the decoder"):
        pretrain(
            store,
            tmp_path / "run",
            method="gcl",
            epochs=1,
            settings=[t.replace("batch=16", "batch=90") for t in TINY] + ["loss.local=0.2"],
        )
    assert not (tmp_path / "run").exists()


def test_a_batch_too_small_to_normalise(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="one value per channel, too few to normalise"):
        finetune(store, tmp_path / "run", labelled=2, settings=["size=16", "batch=1"])
    assert not (tmp_path / "run").exists()
