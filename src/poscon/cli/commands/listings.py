"""``poscon methods``, ``layouts``, ``recipes`` and ``plans``: what there is to choose from."""

from typing import Annotated

import typer

from poscon.cli.options import Json
from poscon.cli.output import print_listing, print_text


def methods(as_json: Json = False) -> None:
    """List methods of training, strategies and architectures, those of installed packages too."""
    from poscon.listings import list_methods

    print_listing(list_methods(), as_json)


def layouts(as_json: Json = False) -> None:
    """List the data set layouts that poscon reads, in the order in which they are tried."""
    from poscon.listings import list_layouts

    print_listing(list_layouts(), as_json)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Prints this recipe.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes of training, or print one to change it."""
    if name is None:
        from poscon.listings import list_recipes  # which loads every method

        print_listing(list_recipes(), as_json)
    else:
        from poscon.settings import recipe_text

        print_text(recipe_text(name), as_json)


def plans(
    name: Annotated[str | None, typer.Argument(help="Prints this plan.")] = None,
    as_json: Json = False,
) -> None:
    """List the plans of poscon compare, or print one to change it."""
    from poscon.comparison.plan_files import plan_text
    from poscon.listings import list_plans

    if name is None:
        print_listing(list_plans(), as_json)
    else:
        print_text(plan_text(name), as_json)
