from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from poscon.errors import PosconError
from poscon.settings import (
    Settings,
    load_recipe,
    merged,
    parse_yaml,
    recipe_names,
    resolve,
    validate,
)
from poscon.wrong_settings import nearest


class Optimiser(Settings):
    name: str = "sgd"
    lr: float = 0.1
    momentum: float | None = None


class Training(Settings):
    size: int | str = 8
    epochs: int = Field(10, ge=1)
    optimiser: Optimiser = Optimiser()
    scale: tuple[float, float] = (0.5, 2.0)
    clip: float | None = None

    @model_validator(mode="after")
    def _together(self) -> "Training":
        if self.epochs == 13:
            raise ValueError("13 epochs bring bad luck")
        return self


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def refusal(*args, **kwargs) -> str:
    with pytest.raises(PosconError) as caught:
        resolve(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_told_means_the_defaults():
    assert resolve(Training, "pretrain", None) == Training()


def test_later_sources_override_earlier_ones(recipe):
    name = recipe("pretrain: {size: 1, epochs: 2, clip: 7, optimiser: {lr: 3, momentum: 0.5}}")
    told = resolve(
        Training, "pretrain", name, ["epochs=20", "optimiser.lr=30"], clip=8.0, size=None
    )
    assert told.size == 1  # an option that is not given leaves the recipe's value
    assert told.epochs == 20
    assert told.optimiser == Optimiser(lr=30, momentum=0.5)  # the rest of the group is kept
    assert told.clip == 8
    assert told.scale == (0.5, 2.0)


def test_a_setting_told_twice_is_refused():
    with pytest.raises(PosconError, match="--set clip: given as an option too"):
        resolve(Training, "pretrain", None, ["clip=7"], clip=8.0)


def test_what_was_told_is_known(recipe):
    told = resolve(Training, "pretrain", recipe("pretrain: {size: 8}"), ["clip=1"])
    assert told.model_fields_set == {"size", "clip"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E4", 1e4), ("0.5", 0.5), ("-2", -2.0), ("null", None), ("", None)],
)
def test_numbers_on_the_command_line(text, value):
    assert resolve(Training, "pretrain", None, [f"clip={text}"]).clip == value


def test_other_values_on_the_command_line():
    told = resolve(
        Training, "pretrain", None, ["scale=[0.9, 1.1]", "size=auto", "optimiser={name: adam}"]
    )
    assert told.scale == (0.9, 1.1)
    assert told.size == "auto"
    assert told.optimiser == Optimiser(name="adam")


def test_a_value_may_hold_an_equals_sign():
    assert resolve(Training, "pretrain", None, ["optimiser.name=a=b"]).optimiser.name == "a=b"


def test_the_recipe_on_disk_is_not_changed_by_overrides(recipe):
    name = recipe("pretrain: {optimiser: {lr: 3}}")
    resolve(Training, "pretrain", name, ["optimiser.lr=4"])
    assert resolve(Training, "pretrain", name).optimiser.lr == 3


def test_unknown_keys_name_the_nearest():
    message = refusal(Training, "pretrain", None, ["epoch=3"])
    assert "'epoch'" in message
    assert "did you mean 'epochs'?" in message


def test_unknown_keys_of_a_group_name_the_nearest_of_that_group():
    message = refusal(Training, "pretrain", None, ["optimiser.momentun=3"])
    assert "'optimiser.momentun'" in message
    assert "did you mean 'momentum'?" in message
    assert "epochs" not in message


def test_unknown_keys_in_a_recipe(recipe):
    assert "'epohcs'" in refusal(Training, "pretrain", recipe("pretrain: {epohcs: 3}"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs=0", "setting epochs = 0:"),
        ("epochs=many", "setting epochs = 'many':"),
        ("size=[1]", "setting size = [1]:"),
        ("optimiser.lr=fast", "setting optimiser.lr = 'fast':"),
        ("scale=[1]", "setting scale = [1]:"),
        ("epochs", "write key=value"),
        ("epochs.x=3", "unknown|epochs"),
        ("epochs=[1,", "not valid YAML"),
        ("optimiser=3", "setting optimiser = 3:"),
        ("epochs=13", "13 epochs bring bad luck"),
        ("=3", "unknown setting ''"),
    ],
)
def test_values_that_do_not_fit(override, expected):
    message = refusal(Training, "pretrain", None, [override])
    assert any(part in message for part in expected.split("|"))


class Group(Settings):
    method: str
    rate: float = 1.0


class Kinds(Settings):
    number: int = 1
    share: float = 0.5
    flag: bool = True
    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    group: Optimiser = Optimiser()
    size: int | Literal["auto"] = "auto"
    entries: tuple[str | Group, ...] = ()
    anything: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("number=x", "setting number = 'x': must be a whole number"),
        ("number=1.5", "setting number = 1.5: must be a whole number"),
        ("share=x", "setting share = 'x': must be a number"),
        ("flag=3", "setting flag = 3: must be true or false"),
        ("words=x", "setting words = 'x': must be a list, such as [a, b]"),
        ("words=[3]", "setting words = 3: must be a text"),
        ("numbers=3", "setting numbers = 3: must be a list, such as [a, b]"),
        ("pair=[1]", "setting pair = [1]: must have more members"),
        ("group=3", "setting group = 3: must be settings, such as {key: value}"),
        ("number=yes", "number = True must not be true or false (yes or no)"),
        ("numbers=[1, no]", "numbers = [1, False] must not be true or false (yes or no)"),
        ("group.lr=on", "lr = True must not be true or false (yes or no)"),
        ("entries=[{mehtod: x}]", "unknown setting 'entries.mehtod' (did you mean 'method'?)"),
        ("entries=[{method: x, rate: y}]", "setting entries.rate = 'y': must be a number"),
        ("size=x", "setting size = 'x': must be a whole number or 'auto'"),
        ("entries=[{rate: 2}]", "setting entries.method: must be stated"),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_user(override, expected):
    assert expected in refusal(Kinds, "pretrain", None, [override])


def test_true_and_false_where_they_are_meant():
    told = resolve(Kinds, "pretrain", None, ["flag=no", "anything={x: yes}"])
    assert told.flag is False
    assert told.anything == {"x": True}


def test_a_key_that_stands_twice_is_refused(recipe):
    name = recipe("pretrain: {epochs: 2}\npretrain: {epochs: 3}")
    assert "the key 'pretrain' stands twice" in refusal(Training, "pretrain", name)
    name = recipe("pretrain: {epochs: 2, optimiser: {lr: 1, lr: 2}}")
    assert "the key 'lr' stands twice" in refusal(Training, "pretrain", name)
    assert "twice" in refusal(Training, "pretrain", None, ["optimiser={lr: 1, lr: 2}"])


def test_two_wrong_settings_of_one_value_are_not_mixed_up():
    class Two(Settings):
        epochs: int = Field(1, ge=1)
        batch: int = Field(2, ge=2)

    assert refusal(Two, "pretrain", None, {"epochs": 0, "batch": 0}) == (
        "setting epochs = 0: must be greater than or equal to 1"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{<<: &a {x: 1}, <<: &b {y: 2}}", None),
        ("{1: a, '1': b}", None),
        ("{yes: 1, true: 2}", "the key 'true' stands twice"),
        ("{0x10: 1, 16: 2}", "the key '16' stands twice"),
        ("{{ name }}", "found unhashable key"),
        ("{[1, 2]: 3}", "found unhashable key"),
    ],
)
def test_keys_of_every_kind(text: str, words: str | None) -> None:
    if words is None:
        assert len(parse_yaml(text, where="here")) == 2
        return
    with pytest.raises(PosconError, match=f"here: not valid YAML.*{words}"):
        parse_yaml(text, where="here")


@pytest.mark.parametrize(
    "overrides",
    [
        ["epochs=2", "epochs=3"],
        ["optimiser.lr=1", "optimiser={name: sgd}"],
        ["optimiser={lr: 1}", "optimiser.lr=2"],
        {"optimiser.lr": 1, "optimiser": {"lr": 2}},
    ],
)
def test_one_setting_twice_is_refused(overrides):
    assert "twice" in refusal(Training, "pretrain", None, overrides)


def test_a_group_and_another_setting_of_it_go_together():
    told = resolve(Training, "pretrain", None, ["optimiser={lr: 3}", "optimiser.name=adam"])
    assert told.optimiser == Optimiser(name="adam", lr=3)


def test_a_key_over_one_that_is_merged_in_does_not_stand_twice(recipe):
    name = recipe(
        "prepare: &all {epochs: 2, clip: 1}\npretrain: {<<: *all, epochs: 3}\n"
        "finetune: {<<: *all, epochs: 4}"
    )
    assert resolve(Training, "pretrain", name).epochs == 3
    assert resolve(Training, "finetune", name).clip == 1


def test_a_wrong_setting_of_a_file_names_the_file(recipe):
    name = recipe("pretrain: {epoch: 3}")
    for overrides in ([], ["epochs=3"]):
        message = refusal(Training, "pretrain", name, overrides)
        assert message.startswith(f"recipe {name}, pretrain: unknown setting 'epoch' (did you")
    good = recipe("pretrain: {epochs: 3, optimiser: {lr: 1}}")
    assert refusal(Training, "pretrain", good, ["epochs=0"]).startswith("setting epochs = 0")
    assert refusal(Training, "pretrain", good, ["optimiser.rl=0"]).startswith("unknown setting")


def test_a_recipe_may_be_right_only_with_what_the_caller_adds(recipe):
    """Such as the settings of a method that the caller names."""
    name = recipe("pretrain: {epochs: 13, optimiser: {lr: x}}")
    told = resolve(Training, "pretrain", name, ["epochs=14", "optimiser.lr=2"])
    assert (told.epochs, told.optimiser.lr) == (14, 2)


def test_a_single_value_is_no_group(recipe):
    message = refusal(Training, "pretrain", recipe("pretrain: {epochs: 3}"), ["epochs.few=2"])
    assert "'epochs' is a single value, not a group" in message


def test_a_prefix_says_where_the_setting_is():
    with pytest.raises(PosconError, match=r"setting loss\.epochs = 0"):
        validate(Training, {"epochs": 0}, "loss")
    with pytest.raises(PosconError, match=r"unknown setting 'loss\.epoch' \(did you mean 'epochs'"):
        validate(Training, {"epoch": 0}, "loss")


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Training().epochs = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected the sections"),
        ("- pretrain", "expected the sections"),
        ("pretrain: [", "not valid YAML"),
        ("pretrian: {}", "did you mean 'pretrain'?"),
        ("3: {}", "unknown section 3"),
        ("pretrain: 3", "section 'pretrain' must hold settings"),
        ("pretrain: [1, 2]", "section 'pretrain' must hold settings"),
        ("pretrain: {3: 4}", "should be strings"),
        ("finetune: {}", "has no section 'pretrain'"),
    ],
)
def test_recipes_that_are_none(recipe, text, expected):
    name = recipe(text)
    message = refusal(Training, "pretrain", name)
    assert expected in message
    assert name in message or "should be strings" in message


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "photo.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read" in refusal(Training, "pretrain", str(path))


def test_an_empty_section_means_the_defaults(recipe):
    assert resolve(Training, "pretrain", recipe("pretrain:\n")) == Training()


def test_unknown_recipes_name_the_nearest():
    known = recipe_names()[0]
    message = refusal(Training, "pretrain", known + "s")
    assert f"did you mean '{known}'?" in message


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_that_come_with_poscon_can_be_read(name):
    content = load_recipe(name)
    assert isinstance(content["description"], str)
    assert set(content) - {"description"}


def test_a_recipe_by_name_is_not_a_file(tmp_path, monkeypatch):
    """A file that happens to lie in the working folder does not stand in for a known recipe."""
    name = recipe_names()[0]
    (tmp_path / name).write_text("pretrain: {}")
    monkeypatch.chdir(Path(tmp_path))
    assert "description" in load_recipe(name)


def test_nearest():
    assert nearest("treshold", ["threshold", "temperature"]) == " (did you mean 'threshold'?)"
    assert nearest("xyz", ["threshold"]) == ""


def test_merged_goes_deep_and_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"c": 4}, "d": {"e": 5}}) == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
