"""The figures of the diagnostics that the pages of runs and of comparisons share."""

from poscon.reports.parts import diagnostics


def test_each_kind_of_position_has_a_figure_of_its_retrieval_error() -> None:
    rows = [
        {"step": 0.0, "retrieval_error": 0.3, "effective_rank": 3.0},
        {"step": 9.0, "retrieval_error": 0.1, "effective_rank": 4.0},
    ]
    in_mm = [{**row, "retrieval_error": 100 * row["retrieval_error"]} for row in rows]
    metrics = {"pcl": rows, "simclr": rows, "mm": in_mm}
    kinds = {"pcl": "relative", "simclr": "relative", "mm": "physical"}
    pictures = diagnostics(metrics, list(metrics), kinds)
    retrieval = "position retrieval error, across subjects"
    assert [picture.says for picture in pictures] == [
        retrieval,
        f"{retrieval}, physical position in mm",
        "effective rank of the features",
    ]
    drawn = [{name for name in metrics if f">{name}<" in picture.svg} for picture in pictures]
    assert drawn[0] == {"pcl", "simclr"}
    assert drawn[2] == {"pcl", "simclr", "mm"}
