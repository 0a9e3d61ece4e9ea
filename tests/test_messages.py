"""The page of messages lists every refusal of the source, and each has a meaning."""

from pathlib import Path
from types import ModuleType

import pytest
from docs_scripts import load


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    return load("messages")


def test_every_refusal_has_a_meaning(messages: ModuleType) -> None:
    found = messages.collect()
    assert sum(map(len, found.values())) > 200  # else they were not found
    missing = [
        (module, text)
        for module, texts in found.items()
        for text in texts
        if messages.kind_of(text) is None
    ]
    assert not missing, "add a pattern to KINDS of docs/messages.py"


def test_the_page_is_up_to_date(messages: ModuleType) -> None:
    written = messages.PAGE.read_text(encoding="utf-8")
    assert written == messages.page(messages.collect()), "run python docs/messages.py"


def test_every_kind_is_used(messages: ModuleType) -> None:
    used = {messages.kind_of(text) for texts in messages.collect().values() for text in texts}
    assert used == set(messages.KINDS)


def test_a_message_with_places_and_one_that_is_passed_on(
    messages: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "module.py").write_text(
        "raise PosconError(f'{self.path}: has {len(names)} names' + ', use \\'x\\'')\n"
        "raise PosconError(str(error))\n"
        "raise PosconError('plain')\n"
    )
    found = messages.collect(tmp_path)
    assert found == {"module": ["PATH: has NAMES names, use 'x'", "plain"]}
    with pytest.raises(ValueError, match="no kind for 'plain'"):
        messages.page({"module": ["plain"]})
