import pytest

from poscon.errors import PosconError
from poscon.settings import validate
from poscon.views.settings import ViewSettings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, 101) for name in ("brightness", "contrast", "gamma", "noise", "blur")),
        *(("shift", 1.1), ("elastic", 1.1), ("elastic_points", 101), ("low_resolution", 101)),
        *(("scale", (0.0, 1.0)), ("scale", (1.0, 21.0)), ("scale", (1.3, 0.7))),
    ],
)
def test_views_that_show_nothing_of_the_slice_are_refused(setting: str, value: object) -> None:
    with pytest.raises(PosconError, match=rf"setting {setting} = .*(must be|smaller factor)"):
        validate(ViewSettings, {setting: value})
