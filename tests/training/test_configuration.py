"""Which distances between positions a training takes."""

from pathlib import Path

import pytest

from poscon.errors import PosconError
from poscon.settings import validate
from poscon.store.store import Store
from poscon.training.configuration import check_distances
from poscon.training.data import SliceReader
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.pretrain_settings import PretrainSettings, assemble


@pytest.fixture(scope="module")
def reader(store: Path) -> SliceReader:
    opened = Store(store)
    return SliceReader(opened, opened.cases, 8, position="physical")


def span(reader: SliceReader) -> float:
    """Millimetres from the first slice to the last one of the longest volume."""
    return max((case.shape[0] - 1) * case.spacing[0] for case in reader.cases)


@pytest.mark.parametrize("method", ["pcl", "pcl-mae"])
@pytest.mark.parametrize("loss", [{"threshold": 1}, {"threshold": 15}, {"grey": 1.5}])
def test_a_relative_distance_is_less_than_1(method: str, loss: dict[str, float]) -> None:
    (name,) = loss
    with pytest.raises(PosconError, match=f"loss.{name} = .* less than 1, .* from 0 to 1"):
        validate(PretrainSettings, {"method": method, "loss": loss})


def test_so_is_one_of_finetuning() -> None:
    with pytest.raises(PosconError, match=r"loss.threshold = 15: .* less than 1"):
        validate(FinetuneSettings, {"method": "supervised-pcl", "loss": {"threshold": 15}})


def test_a_threshold_that_is_no_distance_is_not_looked_at() -> None:
    chosen = validate(FinetuneSettings, {"method": "fixmatch", "loss": {"threshold": 0.99}})
    assert chosen.distances == {}


def test_distances_that_are_set() -> None:
    how = {"position": "physical", "loss": {"threshold": 15, "grey": 30}}
    assert validate(PretrainSettings, how).distances == {"threshold": 15, "grey": 30}
    assert validate(PretrainSettings, {}).distances == {"threshold": 0.1}


def test_millimetres_from_the_spacing_to_the_range_are_taken(reader: SliceReader) -> None:
    spacing = min(case.spacing[0] for case in reader.cases)
    for threshold in (spacing, 1.5 * spacing, 0.99 * span(reader)):
        how = {"position": "physical", "loss": {"threshold": threshold}}
        check_distances(validate(PretrainSettings, how), [reader])


@pytest.mark.parametrize("share", [0.99, 0.01])
def test_millimetres_below_the_spacing_are_refused(reader: SliceReader, share: float) -> None:
    spacing = min(case.spacing[0] for case in reader.cases)
    how = {"position": "physical", "loss": {"threshold": share * spacing}}
    with pytest.raises(PosconError, match=f"loss.threshold = .* at least {spacing:g} mm"):
        check_distances(validate(PretrainSettings, how), [reader])


@pytest.mark.parametrize("name", ["threshold", "grey"])
def test_millimetres_that_reach_everything_are_refused(reader: SliceReader, name: str) -> None:
    loss = {"threshold": 2 * reader.cases[0].spacing[0], name: span(reader)}
    how = {"position": "physical", "loss": loss}
    with pytest.raises(PosconError, match=f"loss.{name} = .* less than {span(reader):g} mm"):
        check_distances(validate(PretrainSettings, how), [reader])


def test_relative_distances_need_no_slices(reader: SliceReader) -> None:
    check_distances(validate(PretrainSettings, {"loss": {"threshold": 0.001}}), [reader])


def test_a_pretraining_knows_the_range_of_its_positions(store: Path, reader: SliceReader) -> None:
    opened, small = Store(store), {"width": 2, "levels": 2}
    for position, limits in (("relative", (0.0, 1.0)), ("physical", reader.limits)):
        how = {"method": "gcl", "network": small, "position": position}
        made = assemble(validate(PretrainSettings, how), opened, opened.cases, 32)
        assert made.learner.position_limits == limits
    assert reader.limits == pytest.approx((-span(reader) / 2, span(reader) / 2), rel=1e-6)
