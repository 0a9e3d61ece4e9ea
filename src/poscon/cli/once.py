"""Options that may be said once: a second value would replace the first without a word."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperOption


class OnceCommand(TyperCommand):
    """A command that refuses an option said twice, where it takes one value.

    Typer keeps the last value. Whoever writes ``--exclude a.txt --exclude b.txt`` means both.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, as Typer does.

        Args:
            ctx: context of the call.
            args: what follows the name of the command.

        Raises:
            typer.BadParameter: an option that takes one value is said twice.
        """
        if ctx.resilient_parsing:  # for the completion of a shell, which has no errors
            return super().parse_args(ctx, args)
        values, _, said = self.make_parser(ctx).parse_args(args=list(args))
        for option in said:
            once = isinstance(option, TyperOption) and not (option.multiple or option.is_flag)
            if once and said.count(option) > 1 and "help" not in values:
                raise typer.BadParameter(
                    "said twice; say it once", ctx=ctx, param_hint=f"'{option.opts[0]}'"
                )
        return super().parse_args(ctx, args)
