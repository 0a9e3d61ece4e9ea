"""``poscon export`` writes the network of a run in a form that other programs read."""

from pathlib import Path

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.exports import FORMATS, find_writer, usage_of
from poscon.exports.card import CARD, model_card, results_table, write_cases
from poscon.exports.trained import read_trained
from poscon.files import complete, write_text


@checked
def export(
    run: Path | str,
    out: Path | str,
    *,
    to: str,
    licence: str | None = None,
    results: Path | str | None = None,
    opset: int | None = None,
) -> Path:
    """Export the network of a run, with a model card beside it.

    The exported network is run on random images. Nothing is written if its outputs are not those of
    poscon's own network.

    Args:
        run: folder of a run of ``poscon finetune``, whose whole network is exported, or of ``poscon
            pretrain``, whose encoder is.
        out: folder to write.
        to: ``torch``, ``onnx``, ``monai`` or ``nnunet``.
        licence: licence of the weights, for the card; None: it is not stated.
        results: what ``poscon evaluate`` wrote as JSON, for the card; None: no results.
        opset: for ``onnx`` only: version of ONNX' operators; None: 18.

    Returns:
        The folder.

    Raises:
        PosconError: the run has no model, the format is unknown or cannot hold it, or the folder
            exists.
    """
    if to not in FORMATS:
        raise PosconError(f"--to {to}: an unknown format; use {', '.join(FORMATS)}")
    if opset is not None and to != "onnx":
        raise PosconError(f"--opset: has no effect with --to {to}; leave it out")
    folder = Path(out)
    if folder.exists():
        raise PosconError(f"{folder}: exists already; choose another folder")
    measured = None if results is None else results_table(Path(results))
    trained = read_trained(Path(run))
    options = {} if opset is None else {"opset": opset}
    with complete(folder) as part:
        part.mkdir()
        difference = find_writer(to)(trained, part, **options)
        write_cases(part / FORMATS[to].cases, trained.entries)
        card = model_card(trained, usage_of(to, trained), difference, licence, measured)
        write_text(part / CARD, card)
    return folder
