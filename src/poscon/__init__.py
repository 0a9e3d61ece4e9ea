"""poscon: positional contrastive pre-training for segmentation with few labels.

Every command that does work is a function of the same name and with the same arguments.
They are imported on first use, so that ``import poscon`` and ``poscon --help`` stay instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from poscon.environment import name_the_user
from poscon.version import __version__

name_the_user()

_HOME = {
    "prepare": "poscon.commands.prepare",
    "inspect": "poscon.commands.inspect",
    "align": "poscon.commands.align",
    "pretrain": "poscon.commands.pretrain",
    "suggest": "poscon.commands.suggest",
    "label": "poscon.commands.label",
    "finetune": "poscon.commands.finetune",
    "predict": "poscon.commands.predict",
    "evaluate": "poscon.commands.evaluate",
    "view": "poscon.commands.view",
    "export": "poscon.commands.export",
    "bench": "poscon.commands.bench",
    "compare": "poscon.comparison.compare",
    "demo": "poscon.commands.demo",
    "report": "poscon.reports.report",
    "load_model": "poscon.models",
    "load_encoder": "poscon.models",
    "PosconError": "poscon.errors",
}

__all__ = [
    "PosconError",
    "__version__",
    "align",
    "bench",
    "compare",
    "demo",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "label",
    "load_encoder",
    "load_model",
    "predict",
    "prepare",
    "pretrain",
    "report",
    "suggest",
    "view",
]

if TYPE_CHECKING:
    from poscon.commands.align import align
    from poscon.commands.bench import bench
    from poscon.commands.demo import demo
    from poscon.commands.evaluate import evaluate
    from poscon.commands.export import export
    from poscon.commands.finetune import finetune
    from poscon.commands.inspect import inspect
    from poscon.commands.label import label
    from poscon.commands.predict import predict
    from poscon.commands.prepare import prepare
    from poscon.commands.pretrain import pretrain
    from poscon.commands.suggest import suggest
    from poscon.commands.view import view
    from poscon.comparison.compare import compare
    from poscon.errors import PosconError
    from poscon.models import load_encoder, load_model
    from poscon.reports.report import report


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'poscon' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
