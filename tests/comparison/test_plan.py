from pathlib import Path

import pytest
import yaml

from poscon.comparison.plan_files import read_plan
from poscon.errors import PosconError

MINIMAL = {
    "data": {"phantom": {"subjects": 8}},
    "pretraining": ["random", "pcl"],
    "labelled": [2],
    "folds": 2,
}


def write(folder: Path, **changes: object) -> str:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return str(path)


def test_a_method_alone_is_an_entry_and_the_random_start_the_baseline(tmp_path: Path) -> None:
    plan = read_plan(
        write(tmp_path, pretraining=["pcl", "random"], finetuning=["supervised", "bcp"])
    )
    assert plan.rows == ["pcl | supervised", "pcl | bcp", "random | supervised", "random | bcp"]
    assert plan.baseline_row == "random | supervised"


def test_an_entry_without_a_name_has_that_of_its_method(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, finetuning=[{"method": "bcp", "settings": {"batch": 4}}]))
    assert plan.rows == ["random | bcp", "pcl | bcp"]


def test_a_finetuning_may_be_for_some_starts_only(tmp_path: Path) -> None:
    bcp = {"name": "bcp", "method": "bcp", "inits": ["random"]}
    plan = read_plan(write(tmp_path, finetuning=["supervised", bcp]))
    assert plan.rows == ["random | supervised", "random | bcp", "pcl | supervised"]


def test_both_trainings_share_the_network_and_random_starts_have_it_too(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, network={"width": 5, "levels": 2}, size=24))
    (none, pcl), (entry,) = plan.pretraining, plan.finetuning
    assert plan.pretrain_settings(pcl, "auto").network.width == 5
    for start in (none, pcl):
        told = plan.finetune_settings(entry, start, 3, "auto")
        assert told.network is not None
        assert (told.network.width, told.size, told.seed) == (5, 24, 3)


def test_settings_of_an_entry_go_over_the_plans_over_the_recipes(tmp_path: Path) -> None:
    own = {"name": "sharp", "method": "pcl", "settings": {"loss": {"threshold": 0.2}, "epochs": 7}}
    plan = read_plan(
        write(
            tmp_path,
            recipe="paper-acdc",
            pretraining=["random", "pcl", own, "simclr"],
            pretrain={"epochs": 5},
        )
    )
    _, pcl, sharp, simclr = (plan.pretrain_settings(e, "auto") for e in plan.pretraining)
    assert (pcl.epochs, sharp.epochs, simclr.epochs) == (5, 7, 5)
    assert (pcl.loss["threshold"], sharp.loss["threshold"]) == (0.35, 0.2)  # 0.35 is the recipe's
    assert "threshold" not in simclr.loss  # which is pcl's
    assert pcl.optimiser == simclr.optimiser
    assert pcl.optimiser.name == "sgd"


def test_what_a_method_makes_nothing_of_is_not_forced_on_it(tmp_path: Path) -> None:
    plan = read_plan(
        write(
            tmp_path,
            pretraining=["random", "rotation", "pcl"],
            finetuning=["supervised", "mean-teacher"],
            pretrain={"epochs": 3, "head": {"dimension": 32}},
            finetune={"ema_decay": 0.5, "init_parts": "encoder"},
        )
    )
    none, rotation, _ = plan.pretraining
    supervised, teacher = plan.finetuning
    assert plan.pretrain_settings(rotation, "auto").epochs == 3
    assert plan.finetune_settings(supervised, rotation, 0, "auto").ema_decay == 0.5
    assert plan.finetune_settings(teacher, rotation, 0, "auto").ema_decay == 0.99
    assert plan.finetune_settings(supervised, rotation, 0, "auto").init_parts == "encoder"
    assert plan.finetune_settings(supervised, none, 0, "auto").init_parts == "all"


def test_a_start_that_there_is_not_has_no_settings(tmp_path: Path) -> None:
    entry = {"name": "held", "method": "supervised", "settings": {"init_parts": "encoder"}}
    with pytest.raises(PosconError, match="finetuning held: init_parts has no effect from ran"):
        read_plan(write(tmp_path, finetuning=["supervised", entry]))
    plan = read_plan(write(tmp_path, finetuning=["supervised", {**entry, "inits": ["pcl"]}]))
    held, pcl = plan.finetuning[1], plan.pretraining[1]
    assert plan.finetune_settings(held, pcl, 0, "auto").init_parts == "encoder"


def test_a_recipes_network_of_fine_tuning_is_that_of_the_start(tmp_path: Path) -> None:
    recipe = {"pretrain": {"network": {"width": 8}}, "finetune": {"network": {"width": 8}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = read_plan(write(tmp_path, recipe=str(tmp_path / "recipe.yaml")))
    told = plan.finetune_settings(plan.finetuning[0], plan.pretraining[0], 0, "auto")
    assert told.network is not None
    assert told.network.width == 8
    recipe["finetune"]["network"]["width"] = 4
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(PosconError, match=r"finetune\.network of the recipe: has no effect"):
        read_plan(write(tmp_path, recipe=str(tmp_path / "recipe.yaml")))
    read_plan(write(tmp_path, recipe=str(tmp_path / "recipe.yaml"), network={"width": 5}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pretraining": ["random", "pcll"]},
            "pre-training method 'pcll' is unknown (did you mean",
        ),
        ({"finetuning": ["supervise"]}, "did you mean 'supervised'"),
        ({"pretraining": ["pcl", "pcl"]}, "pretraining has pcl twice"),
        ({"labelled": [2, 2]}, "labelled has 2 twice"),
        ({"labelled": [0]}, "greater than 0"),
        ({"labelled": []}, "at least 1"),
        ({"fold": 2}, "unknown setting 'fold' (did you mean 'folds'?)"),
        ({"folds": 1}, "folds must be 2 or more"),
        ({"folds": []}, "the list is empty"),
        ({"setting": "transfer"}, "goes with pretrain_data"),
        ({"pretrain_data": {"folder": "x"}}, "goes with pretrain_data"),
        ({"order": "listed"}, "needs folds that name a train file"),
        ({"pretraining": ["random"], "transductive": True}, "nothing is pre-trained"),
        ({"baseline": "random | supervise"}, "did you mean 'random | supervised'"),
        ({"pretrain": {"epoch": 3}}, "pretrain, random: unknown setting 'epoch'"),
        ({"pretrain": {"loss": {"threshold": 1}}}, "pretrain.loss: belongs to one method"),
        ({"finetune": {"seed": 1}}, "finetune.seed: give the plan's own seed"),
        ({"pretrain": {"network": {}}}, "give the plan's own network"),
        ({"metrics": ["dices"]}, "dice"),
        ({"metrics": ["rvd", "dice"]}, "rvd has no better side"),
        ({"nsd_tolerance_mm": 0}, "greater than 0"),
        ({"metrics": ["hd95_mm"], "flaws": {"pooled_dice": True}}, "not among the metrics"),
        ({"pretraining": [{"name": "a b", "method": "pcl"}]}, "a name has 1 to 60 letters"),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "inits": ["randm"]}]},
            "did you mean 'random'",
        ),
        ({"recipe": "paper"}, "neither a file nor a known recipe"),
        ({"recipe": {"prepare": {"spacing": 1.0}}}, "has neither pretrain nor finetune"),
        ({"recipe": {"finetune": {"seed": 1}}}, "finetune.seed: give the plan's own seed"),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "inits": []}]},
            "at least 1",
        ),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "inits": ["random"]}]},
            "pretraining pcl: no fine-tuning starts from it",
        ),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "settings": {"seed": 7}}]},
            "s: settings.seed: give the plan's own seed",
        ),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "settings": {"network": {}}}]},
            "s: settings.network: give the plan's own network",
        ),
        ({"pretraining": ["random"], "pretrain": {"epochs": 1}}, "pretrain has no effect"),
        ({"finetune": {"unlabelled_batch": 3}}, "finetune.unlabelled_batch has no effect"),
        (
            {"pretraining": ["random"], "finetune": {"init_parts": "encoder"}},
            "finetune.init_parts has no effect: no method of this plan uses it",
        ),
        (
            {"pretraining": ["random", "rotation"], "pretrain": {"grad_cache_chunk": 4}},
            "pretrain.grad_cache_chunk has no effect",
        ),
        ({"labelled": 2}, "labelled"),
        ({"finetune": {"minutes": 5}}, "finetune.minutes: give iterations, because runs that"),
        ({"recipe": {"finetune": {"minutes": 5}}}, "finetune.minutes: give iterations"),
        (
            {"finetuning": [{"name": "s", "method": "supervised", "settings": {"minutes": 5}}]},
            "s: settings.minutes: give iterations",
        ),
        ({"folds": {"test": "x"}}, "folds"),
        ({"description": 3}, "description"),
        ({"data": "x"}, "data"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_in_one_line(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(PosconError) as caught:
        read_plan(write(tmp_path, **changes))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"plan {tmp_path / 'plan.yaml'}: ")


def test_a_recipes_preparation_goes_under_the_plans(tmp_path: Path) -> None:
    recipe = {"prepare": {"spacing": 1.0, "plane": "axial"}, "finetune": {"iterations": 3}}
    told = {"phantom": {"subjects": 8}, "prepare": {"spacing": 2.0}}
    plan = read_plan(write(tmp_path, recipe=recipe, data=told))
    assert plan.data.prepare == {"spacing": 2.0, "plane": "axial"}
    # what is written down can be read again, and means the same
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    assert read_plan(str(tmp_path / "kept.yaml")) == plan


def test_overrides_reach_into_groups(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), ["labelled=[1, 3]", "pretrain.epochs=2", "data.layout=acdc"])
    assert (plan.labelled, plan.pretrain, plan.data.layout) == ((1, 3), {"epochs": 2}, "acdc")
