"""What there is to choose from: methods, layouts, recipes and plans, as rows of texts."""

from dataclasses import dataclass

from poscon import finetuning, pretext, suggestion
from poscon.comparison.plan_files import plan_names, read_plan
from poscon.errors import PosconError
from poscon.networks.architectures import find_architecture, known_architectures
from poscon.settings import load_recipe, recipe_names
from poscon.volumes.layouts import find_layout, known_layouts


@dataclass(frozen=True)
class Listing:
    """Rows of a table.

    Attributes:
        rows: each a text by the name of its column; at least one.
        problems: plug-ins that cannot be used, a line each.
    """

    rows: list[dict[str, str]]
    problems: list[str]


def list_methods() -> Listing:
    """Every pre-training method, fine-tuning method, strategy and architecture.

    Raises:
        PosconError: two methods have the same name.
    """
    rows, problems = [], []
    for kind, known, find in (
        ("pre-training", pretext.known_methods, pretext.find_method),
        ("fine-tuning", finetuning.known_methods, finetuning.find_method),
        ("suggestion", suggestion.known_strategies, suggestion.find_strategy),
    ):
        for name, package in known().items():
            try:
                method = find(name)
            except PosconError as error:
                problems.append(str(error))
                continue
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "what it does": method.summary,
                    "needs": method.needs,
                    "source": method.citation,
                    "from": package,
                }
            )
    for name, package in known_architectures().items():
        try:
            encoder = find_architecture(name)
        except PosconError as error:
            problems.append(str(error))
            continue
        rows.append(
            {
                "kind": "architecture",
                "name": name,
                "what it does": encoder.summary,
                "needs": f"--set network.architecture={name}",
                "source": encoder.citation,
                "from": package,
            }
        )
    return Listing(rows, problems)


def list_layouts() -> Listing:
    """Every layout of data sets, in the order in which they are tried.

    Raises:
        PosconError: two layouts have the same name.
    """
    rows, problems = [], []
    for name, package in known_layouts().items():
        try:
            layout = find_layout(name)
        except PosconError as error:
            problems.append(str(error))
            continue
        rows.append({"layout": name, "what it looks like": layout.description, "from": package})
    return Listing(rows, problems)


def list_recipes() -> Listing:
    """The recipes that come with poscon."""
    rows = []
    for name in recipe_names():
        content = load_recipe(name)
        commands = ", ".join(key for key in content if key != "description")
        rows.append(
            {"recipe": name, "what it is": content["description"].strip(), "commands": commands}
        )
    return Listing(rows, [])


def list_plans() -> Listing:
    """The plans of comparisons that come with poscon."""
    rows = []
    for name in plan_names():
        plan = read_plan(name)
        rows.append({"plan": name, "what it is": plan.description.strip(), "setting": plan.setting})
    return Listing(rows, [])
