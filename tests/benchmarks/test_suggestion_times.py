import pytest
from suggestion import measure

from poscon.suggestion import STRATEGIES


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_measured(name: str) -> None:
    seconds, mebibytes = measure(name, 5, 200, 8, 20, 10)
    assert seconds > 0
    assert mebibytes >= 0
