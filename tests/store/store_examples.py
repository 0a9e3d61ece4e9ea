"""What the tests of stores share."""

import json
from pathlib import Path

import pytest

from poscon.errors import PosconError


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(PosconError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(store: Path, change) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
