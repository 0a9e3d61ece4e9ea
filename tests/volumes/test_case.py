"""Label schemes: voxel values to classes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.volumes.case import (
    LARGEST_VALUE,
    LabelClass,
    LabelScheme,
    label_scheme,
    parse_labels,
)

MMWHS = parse_labels("500=LV,600=RV,420+421=LA,550=RA,205=MYO,820=AO,850=PA")


@st.composite
def schemes(draw: st.DrawFn) -> LabelScheme:
    """A scheme of up to 12 classes, each of one to three values."""
    values = draw(st.lists(st.integers(1, LARGEST_VALUE), min_size=1, max_size=36, unique=True))
    classes = []
    while values and len(classes) < 12:
        size = draw(st.integers(1, min(3, len(values))))
        classes.append(LabelClass(f"class {len(classes) + 1}", tuple(values[:size])))
        values = values[size:]
    return LabelScheme(tuple(classes))


@given(schemes(), st.data())
def test_classes_survive_the_round_trip(scheme: LabelScheme, data: st.DataObject) -> None:
    indices = st.integers(0, len(scheme.classes))
    classes = np.array(data.draw(st.lists(indices, max_size=30)), np.uint8)
    values = scheme.to_values(classes)
    np.testing.assert_array_equal(scheme.to_classes(values, where="here"), classes)


@given(schemes(), st.data())
def test_every_declared_value_comes_back_as_its_class_first_value(
    scheme: LabelScheme, data: st.DataObject
) -> None:
    first = {0: 0} | {value: c.values[0] for c in scheme.classes for value in c.values}
    values = np.array(data.draw(st.lists(st.sampled_from(sorted(first)), max_size=30)), np.int32)
    written = scheme.to_values(scheme.to_classes(values, where="here"))
    assert written.tolist() == [first[int(value)] for value in values]


@given(schemes())
def test_text_is_read_back(scheme: LabelScheme) -> None:
    text = ", ".join(f"{'+'.join(map(str, c.values))}={c.name}" for c in scheme.classes)
    assert parse_labels(text) == scheme


def test_mmwhs_reads_its_known_slip_as_the_left_atrium() -> None:
    values = np.array([[0, 500], [420, 421], [205, 850]], np.int16)
    classes = MMWHS.to_classes(values, where="here")
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[0, 1], [3, 3], [5, 7]]
    assert MMWHS.to_values(classes).tolist() == [[0, 500], [420, 420], [205, 850]]
    assert MMWHS.names == ("LV", "RV", "LA", "RA", "MYO", "AO", "PA")


def test_written_values_take_the_smallest_type() -> None:
    classes = np.zeros(1, np.uint8)
    assert MMWHS.to_values(classes).dtype == np.uint16
    assert parse_labels("1=RV,2=MYO").to_values(classes).dtype == np.uint8


def test_background_values() -> None:
    scheme = LabelScheme((LabelClass("LV", (1,)),), background=(4,), background_above=7)
    assert scheme.to_classes(np.array([0, 1, 4, 8, 900]), where="here").tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(PosconError, match="7 not declared"):
        scheme.to_classes(np.array([7]), where="here")


def test_floating_point_labels_are_read_if_whole() -> None:
    assert MMWHS.to_classes(np.array([0.0, 600.0]), where="here").tolist() == [0, 2]


@pytest.mark.parametrize("value", [0.5, 499.9999, np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_other_floating_point_labels_are_refused(value: float) -> None:
    with pytest.raises(PosconError, match=r"a_gt.nii.gz: label values must be whole"):
        MMWHS.to_classes(np.array([500, value]), where="a_gt.nii.gz")


def test_undeclared_values_are_listed() -> None:
    with pytest.raises(PosconError, match=r"a_gt.nii.gz: label value\(s\) 1, 2 not declared"):
        MMWHS.to_classes(np.array([500, 2, 1]), where="a_gt.nii.gz")
    scheme, values = parse_labels("1=RV"), np.array([1, 9])
    with pytest.raises(PosconError, match="state them with --labels, or with --ignore-label 9 "):
        scheme.to_classes(values, where="a_gt.nii.gz", ignorable=True)
    for other, found, ignorable in (
        (scheme, values, False),  # of a prediction
        (scheme, -values, True),  # no value of the option
        (scheme.with_ignore(7, where="here"), values, True),
    ):
        with pytest.raises(PosconError, match=r"state them with --labels$"):
            other.to_classes(found, where="a_gt.nii.gz", ignorable=ignorable)
    with pytest.raises(PosconError, match=r"10, \.\.\. \(99 in all\)"):
        MMWHS.to_classes(np.arange(1, 100), where="a_gt.nii.gz")


def test_order_of_writing_is_the_canonical_order() -> None:
    scheme = parse_labels("3=RV, 2=MYO, 1=LV")
    assert (scheme.names, scheme.values) == (("RV", "MYO", "LV"), (3, 2, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RV",
        "1=",
        "x=RV",
        "0=background",
        "1=RV,,2=LV",
        "1+=RV",
        "-1=RV",
        "2.7=RV",
        "True=RV",
        "1= ",
    ],
)
def test_unreadable_text(text: str) -> None:
    with pytest.raises(PosconError, match="VALUE=NAME"):
        parse_labels(text)


@pytest.mark.parametrize("text", ["1=RV,2=RV", "1=RV,1=LV", "1+1=RV", "1+2=RV,2=LV"])
def test_repeated_names_and_values(text: str) -> None:
    with pytest.raises(PosconError, match="occurs twice"):
        parse_labels(text)


@given(schemes())
def test_the_constructor_takes_every_good_scheme(scheme: LabelScheme) -> None:
    classes = [(c.name, c.values) for c in scheme.classes]
    assert label_scheme(classes, where="here") == scheme
    as_text = [(f" {name} ", [str(value) for value in values]) for name, values in classes]
    assert label_scheme(as_text, where="here") == scheme
    as_floats = [(name, [float(value) for value in values]) for name, values in classes]
    assert label_scheme(as_floats, where="here") == scheme


NO_VALUES = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=LARGEST_VALUE + 1),
    st.floats().filter(lambda x: not (0 <= x <= LARGEST_VALUE and x == int(x))),
    st.booleans(),
    st.none(),
    st.text().filter(lambda text: not text.strip().lstrip("+").isdigit()),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)


@given(schemes(), NO_VALUES, st.data())
def test_a_value_that_is_none_is_refused(
    scheme: LabelScheme, bad: object, data: st.DataObject
) -> None:
    classes = [[c.name, [*c.values]] for c in scheme.classes]
    data.draw(st.sampled_from(classes))[1].append(bad)
    with pytest.raises(PosconError, match=r"^here: class 'class \d+': .* is no whole number") as e:
        label_scheme(classes, where="here")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x00", None, 1, True, ["RV"], {"RV": 1}])
def test_a_name_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(PosconError, match=r"^here: a class has the name"):
        label_scheme([(name, [1])], where="here")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([("RV", [1]), (" RV", [2])], "name 'RV' occurs twice"),
        ([("RV", [1]), ("LV", [2, 1])], "value 1 occurs twice, in class 'RV' and in class 'LV'"),
        ([("RV", [1, 1.0])], "value 1 occurs twice"),
        ([("RV", [])], "class 'RV' has no value"),
        ([("RV", [0])], "class 'RV' has the value 0, which is background"),
    ],
)
def test_schemes_that_contradict_themselves(classes: list, message: str) -> None:
    with pytest.raises(PosconError, match=f"^here: .*{message}"):
        label_scheme(classes, where="here")


@pytest.mark.parametrize("value", [0.99999999, 2.00002, 499.9999])
def test_a_value_that_is_nearly_whole_is_shown_in_full(value: float) -> None:
    with pytest.raises(PosconError, match=f"whole numbers, found {value!r};"):
        MMWHS.to_classes(np.array([500, value]), where="here")
