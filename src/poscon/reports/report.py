"""``poscon report``: one HTML page of a comparison or of a single run."""

from pathlib import Path

from poscon.arguments import checked
from poscon.comparison.compare import PLAN, open_comparison
from poscon.errors import PosconError
from poscon.files import write_text
from poscon.reports.comparison import comparison_page
from poscon.reports.run import run_page

REPORT = "report.html"


@checked
def report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a comparison, of a pre-training or of a fine-tuning.

    The report is one file that needs no network. For unfinished work it has the parts that exist.

    Args:
        folder: folder that ``poscon compare``, ``pretrain`` or ``finetune`` wrote.
        out: the file to write; None means ``report.html`` in the folder.

    Raises:
        PosconError: the folder is none of these, or its store is missing.
    """
    folder = Path(folder)
    if (folder / PLAN).is_file():
        text = comparison_page(open_comparison(folder))
    elif (folder / "config.yaml").is_file():
        text = run_page(folder)
    else:
        raise PosconError(
            f"{folder}: neither a comparison nor a run; give a folder that poscon compare, "
            "pretrain or finetune wrote"
        )
    target = folder / REPORT if out is None else Path(out)
    write_text(target, text)
    return target
