"""Plans are read by name, from those that come with poscon, or from a file."""

from importlib.resources import files
from pathlib import Path

from poscon.comparison.plan import Plan
from poscon.errors import PosconError
from poscon.settings import GivenSettings, apply_settings, parse_yaml, validate
from poscon.wrong_settings import nearest

_PLANS = files("poscon") / "plans"


def plan_names() -> list[str]:
    """The names of the plans that come with poscon."""
    names = (entry.name for entry in _PLANS.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def plan_text(plan: str) -> str:
    """The text of a plan, by name or from a file.

    Raises:
        PosconError: there is no such file or name, or the file cannot be read.
    """
    if plan in plan_names():
        return (_PLANS / f"{plan}.yaml").read_text(encoding="utf-8")
    try:
        return Path(plan).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = plan_names()
        raise PosconError(
            f"plan {plan!r}: neither a file nor a known plan{nearest(plan, known)}; "
            f"known are {', '.join(known)}"
        ) from None
    except IsADirectoryError:
        raise PosconError(f"plan {plan}: a folder; name the plan first, then the folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PosconError(f"plan {plan}: cannot be read ({error})") from error


def read_plan(plan: str, overrides: GivenSettings = ()) -> Plan:
    """Read a plan by name or from a file, override its settings, and check it as a whole.

    Raises:
        PosconError: there is no such plan, or a setting of it or of a training in it is wrong.
    """
    content = parse_yaml(plan_text(plan), where=f"plan {plan}")
    if not isinstance(content, dict):
        raise PosconError(f"plan {plan}: expected settings, key: value")
    try:
        read = validate(Plan, apply_settings(content, overrides)).complete()
        for init, entry in read.combinations:
            read.pretrain_settings(init, "auto")
            read.finetune_settings(entry, init, 0, "auto")
    except PosconError as error:
        raise PosconError(f"plan {plan}: {error}") from error
    return read
