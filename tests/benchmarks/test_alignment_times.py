from alignment import measure


def test_volumes_are_placed_where_they_were_cut() -> None:
    found = measure(volumes=8, slices=30, dimension=16)
    assert found.seconds > 0
    assert found.cpu_seconds > 0
    assert found.mebibytes >= 0
    assert found.error_mm < 6
