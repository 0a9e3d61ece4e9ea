"""Label maps of which only a part is labelled, from the command line to the model."""

import base64
import csv
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from poscon import finetuning
from poscon.finetuning.supervised import Supervised
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.pictures.predictions import draw_predictions
from poscon.pictures.slices import DARK, outlined_pngs
from poscon.store.oddities import find_oddities
from poscon.store.slices import draw_slices
from poscon.store.store import Store
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.inference import predicted_classes
from poscon.training.probes import linear_segmentation_probe
from poscon.training.validation import mean_dice
from poscon.volumes.case import IGNORE

SHAPE = (12, 10, 8)


def put(path: Path, voxels: np.ndarray, *, downwards: bool = False) -> None:
    """A file whose slices run upwards, or downwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.5, 1.5, -6.0 if downwards else 6.0, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), path)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 80, SHAPE).round().astype(np.int16)


def segmentation() -> np.ndarray:
    """Two classes; slices 0 and 7 are empty."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 2:6, 1:7] = 1
    labels[7:10, 2:8, 1:7] = 2
    return labels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four scans; a to c have label maps, and the file of b runs downwards."""
    folder = tmp_path / "scans"
    for seed, name in enumerate("abcd"):
        put(folder / f"{name}.nii.gz", scan(seed), downwards=name == "b")
        if name != "d":
            put(folder / f"{name}_seg.nii.gz", segmentation(), downwards=name == "b")
    return folder


@pytest.fixture
def refused(poscon):
    """Runs the command line, which refuses in one line; gives the line."""

    def run(*arguments: object) -> str:
        code, out, err = poscon(*arguments)
        assert (code, out) == (2, "")
        (line,) = (line for line in err.splitlines() if line.startswith("error: "))
        return line

    return run


def table(path: Path, rows: str) -> Path:
    path.write_text(f"case,slice\n{rows}")
    return path


def stored(store: Path, name: str) -> tuple[object, np.ndarray]:
    opened = Store(store)
    (case,) = [case for case in opened.cases if case.id == name]
    return case, np.asarray(opened.label(case))


# prepare


def test_a_value_that_means_not_labelled(source, tmp_path, poscon):
    labels = segmentation()
    labels[:, :, 2] = 9
    labels[:3, :, 4] = 9
    put(source / "a_seg.nii.gz", labels)
    code, out, _ = poscon(
        "prepare", source, tmp_path / "s", "--spacing", "native", "--ignore-label", 9
    )
    assert code == 0
    case, label = stored(tmp_path / "s", "a")
    np.testing.assert_array_equal(label == IGNORE, (labels == 9).transpose(2, 1, 0))
    assert case.labelled_slices == (0, 1, 3, 4, 5, 6, 7)
    assert case.class_voxels == ((labels == 1).sum(), (labels == 2).sum())
    assert "23 of 24 slices of 3 subject(s) are labelled" in out
    assert Store(tmp_path / "s").class_names == ("class_1", "class_2")


def test_the_ignore_label_of_nnunet(tmp_path, poscon):
    root = tmp_path / "nnunet"
    labels = segmentation()
    labels[:, :, 5] = 3
    put(root / "imagesTr" / "a_0000.nii.gz", scan(0))
    put(root / "labelsTr" / "a.nii.gz", labels)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "RV": 1, "LV": 2, "ignore": 3},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    assert poscon("prepare", root, tmp_path / "s")[0] == 0
    case, label = stored(tmp_path / "s", "a")
    assert case.labelled_slices == (0, 1, 2, 3, 4, 6, 7)
    assert (label[5] == IGNORE).all()
    assert Store(tmp_path / "s").class_names == ("RV", "LV")


def test_a_table_of_labelled_slices(source, tmp_path, poscon):
    slices = table(tmp_path / "slices.csv", "a,1\na,6\nb,0\nb,2\n")
    arguments = ("--spacing", "native", "--labelled-slices", slices)
    code, out, _ = poscon("prepare", source, tmp_path / "s", *arguments)
    assert code == 0
    assert "4 of 16 slices of 2 subject(s) are labelled" in out
    assert "1 case(s) with a label map are not in slices.csv" in out
    case, label = stored(tmp_path / "s", "a")
    assert case.labelled_slices == (1, 6)
    truth = segmentation().transpose(2, 1, 0)
    np.testing.assert_array_equal(label[[1, 6]], truth[[1, 6]])
    assert (label[[0, 2, 3, 4, 5, 7]] == IGNORE).all()
    # the numbers are those of the file, whose slices run the other way
    case, label = stored(tmp_path / "s", "b")
    assert case.labelled_slices == (5, 7)
    np.testing.assert_array_equal(label[[7, 5]], truth[[0, 2]])
    assert [c.labelled for c in Store(tmp_path / "s").cases] == [True, True, False, False]
    assert not (tmp_path / "s" / "cases" / "c" / "label.npy").exists()


def test_the_numbers_of_a_reversed_case_are_those_of_the_file(source, tmp_path, poscon):
    slices = table(tmp_path / "slices.csv", "a,1\n")
    (tmp_path / "reverse.txt").write_text("a")
    arguments = ("--labelled-slices", slices, "--reverse", tmp_path / "reverse.txt")
    assert poscon("prepare", source, tmp_path / "s", *arguments)[0] == 0
    assert stored(tmp_path / "s", "a")[0].labelled_slices == (6,)


def test_the_numbers_run_along_the_axis_that_is_sliced(source, tmp_path, poscon):
    slices = table(tmp_path / "slices.csv", "a,11\n")
    arguments = ("--labelled-slices", slices, "--plane", "sagittal", "--spacing", "native")
    assert poscon("prepare", source, tmp_path / "s", *arguments)[0] == 0
    case, label = stored(tmp_path / "s", "a")
    assert case.labelled_slices == (11,)
    assert label.shape == (12, 8, 10)


def test_slices_that_were_drawn_on(source, tmp_path, poscon):
    put(source / "c_seg.nii.gz", segmentation() * 0)
    code, out, _ = poscon("prepare", source, tmp_path / "s", "--labelled-slices", "nonempty")
    assert code == 0
    case, label = stored(tmp_path / "s", "a")
    assert case.labelled_slices == (1, 2, 3, 4, 5, 6)
    assert (label[[0, 7]] == IGNORE).all()
    assert [c.labelled for c in Store(tmp_path / "s").cases] == [True, True, False, False]
    assert "12 of 16 slices of 2 subject(s) are labelled" in out


def test_a_whole_data_set_has_no_line_of_labelled_slices(source, tmp_path, poscon):
    _, out, _ = poscon("prepare", source, tmp_path / "s")
    assert "are labelled" not in out
    assert all(case.labelled_slices is None for case in Store(tmp_path / "s").cases)


def test_an_interrupted_prepare_has_the_same_slices(source, tmp_path, poscon):
    slices = table(tmp_path / "slices.csv", "a,1\nb,3\n")
    arguments = ("prepare", source, tmp_path / "s", "--labelled-slices", slices)
    (source / "d.nii.gz").rename(tmp_path / "d.nii.gz")
    (source / "d.nii.gz").write_bytes((tmp_path / "d.nii.gz").read_bytes()[:-2000])
    assert poscon(*arguments)[0] == 2
    (tmp_path / "d.nii.gz").replace(source / "d.nii.gz")
    table(slices, "a,2\nb,3\n")
    assert poscon(*arguments)[0] == 0
    assert stored(tmp_path / "s", "a")[0].labelled_slices == (2,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,8\n", "case a has no slice 8, its slices are 0 to 7"),
        ("x,0\n", "there is no case 'x' among those of"),
        ("d,0\n", "case d has no label map"),
        ("a,-1\n", "line 2: '-1' is no slice number"),
        ("a,1\na\n", "line 3: 1 fields, but 2 columns"),
        ("", "names no slice"),
    ],
)
def test_tables_that_are_refused(source, tmp_path, refused, rows, message):
    slices = table(tmp_path / "slices.csv", rows)
    line = refused("prepare", source, tmp_path / "s", "--labelled-slices", slices)
    assert line.startswith(f"error: {slices}")
    assert message in line
    assert not (tmp_path / "s").exists()


def test_a_table_of_suggest_is_read_in_the_numbers_of_the_files(source, tmp_path, poscon):
    """It has the numbers of the store too, which run the other way in some files."""
    (tmp_path / "next.csv").write_text("case,slice,file_slice\na,1,6\na,2,5\n")
    table(tmp_path / "slices.csv", "a,5\na,6\n")
    for name in ("next", "slices"):
        options = ("--labelled-slices", tmp_path / f"{name}.csv")
        assert poscon("prepare", source, tmp_path / name, *options)[0] == 0
    kept = [stored(tmp_path / name, "a")[0].labelled_slices for name in ("next", "slices")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2


def test_a_table_without_the_columns(source, tmp_path, refused):
    (tmp_path / "slices.csv").write_text("name,slice\na,1\n")
    arguments = ("prepare", source, tmp_path / "s", "--labelled-slices")
    assert "has no column 'case'" in refused(*arguments, tmp_path / "slices.csv")
    assert "absent.csv: cannot be read (No" in refused(*arguments, tmp_path / "absent.csv")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ignore-label", "1", "--labels", "1=RV,2=LV"], "it is the class 'RV'"),
        (["--ignore-label", "9", "--labelled-slices", "nonempty"], "leave one of the two out"),
    ],
)
def test_options_that_contradict(source, tmp_path, refused, options, message):
    assert message in refused("prepare", source, tmp_path / "s", *options)
    assert not (tmp_path / "s").exists()


def test_not_one_labelled_voxel(source, tmp_path, refused):
    for name in "abc":
        put(source / f"{name}_seg.nii.gz", segmentation() * 0 + 9, downwards=name == "b")
    arguments = ("prepare", source, tmp_path / "s", "--ignore-label", 9)
    assert "not one voxel of its label maps is labelled" in refused(*arguments)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("option", [("--ignore-label", 9), ("--labelled-slices", "nonempty")])
def test_without_label_maps(source, tmp_path, refused, option):
    for name in "abc":
        (source / f"{name}_seg.nii.gz").unlink()
    line = refused("prepare", source, tmp_path / "s", *option)
    assert f"{option[0]} has no effect, no case has a label map" in line


# finetune

TINY = [f"--set={s}" for s in ("network.width=4", "network.levels=2", "size=16", "batch=4")]


@pytest.fixture
def store(source, tmp_path, poscon) -> Path:
    assert poscon("prepare", source, tmp_path / "store", "--spacing", "native")[0] == 0
    return tmp_path / "store"


def entries(run: Path, role: str = "labelled") -> dict[str, list[int] | None]:
    """The labelled slices of each case of a role."""
    found = json.loads((run / "cases.json").read_text())
    return {e["id"]: e.get("labelled_slices") for e in found if e["role"] == role}


def test_a_number_of_slices_is_drawn(store, tmp_path, poscon):
    drawn = []
    for n in (2, 4):
        run = tmp_path / f"run{n}"
        options = ("--labelled-slices", n, "--iterations", 2, *TINY)
        assert poscon("finetune", store, run, *options)[0] == 0
        found = entries(run)
        drawn.append({(case, number) for case, numbers in found.items() for number in numbers})
        assert len(drawn[-1]) == n
    assert drawn[0] < drawn[1]


def test_slices_of_few_subjects(store, tmp_path, poscon):
    options = ("--labelled", 1, "--labelled-slices", 3, "--iterations", 2, *TINY)
    assert poscon("finetune", store, tmp_path / "run", *options)[0] == 0
    ((_, numbers),) = entries(tmp_path / "run").items()
    assert len(numbers) == 3


def test_slices_of_a_file_and_resume(store, tmp_path, poscon, power_cut):
    slices = table(tmp_path / "slices.csv", "a,2\na,5\nb,3\n")
    arguments = ("finetune", store, tmp_path / "run", "--labelled-slices", slices)
    arguments += ("--method", "supervised", "--iterations", 4, "--set", "checkpoint_every=2", *TINY)
    with power_cut(Supervised, 3):
        poscon(*arguments)
    assert entries(tmp_path / "run") == {"a": [2, 5], "b": [3]}
    slices.unlink()
    assert poscon("finetune", store, tmp_path / "run", "--resume")[0] == 0
    table(slices, "a,2\na,5\nb,3\n")
    whole = ("finetune", store, tmp_path / "whole", *arguments[3:])
    assert poscon(*whole)[0] == 0
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole")]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labelled-slices", "25"], "there are 24 labelled slices of 3 subject(s)"),
        (["--labelled-slices", "0"], "--labelled-slices 0: give 1 or more"),
        (["--labelled-slices", "absent.csv"], "absent.csv: cannot be read (No such file"),
        (["--labelled-slices", "x.csv", "--labelled", "2"], "--labelled: has no effect"),
        (["--labelled", "1", "--labelled-slices", "9"], "there are 8 labelled slices"),
    ],
)
def test_slices_that_are_refused(store, tmp_path, refused, options, message):
    assert message in refused("finetune", store, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_slices_that_show_no_class(store, tmp_path, poscon, refused):
    """A draw is repeated with another seed. Who names such slices means them."""
    opened = Store(store)
    labelled = [case for case in opened.cases if case.labelled]
    empty = next(
        (case.id, number)
        for case in labelled
        for number in case.labelled_slice_numbers.tolist()
        if not opened.label(case)[number].any()
    )
    slices = table(tmp_path / "slices.csv", f"{empty[0]},{empty[1]}\n")
    options = ("--method", "supervised", "--iterations", 1, *TINY)
    told = poscon("finetune", store, tmp_path / "run", "--labelled-slices", slices, *options)
    assert told[0] == 0
    assert "cannot learn it" in told[2]
    seed = next(
        seed
        for seed in range(99)
        for name, numbers in draw_slices(labelled, 1, seed).items()
        if not any(opened.label(c)[numbers[0]].any() for c in labelled if c.id == name)
    )
    drawn = ("--labelled-slices", 1, "--seed", seed, *options)
    assert "the drawn slice(s) show no class, such as slice" in refused(
        "finetune", store, tmp_path / "drawn", *drawn
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,8\n", "case a has no slice 8"),
        ("d,0\n", "there is no case 'd' among the labelled cases of"),
        ("b,1\n", "there is no case 'b'"),
    ],
)
def test_tables_that_do_not_fit_the_store(store, tmp_path, refused, rows, message):
    slices = table(tmp_path / "slices.csv", rows)
    (tmp_path / "b.txt").write_text("b")
    options = ("--labelled-slices", slices, "--exclude", tmp_path / "b.txt")
    assert message in refused("finetune", store, tmp_path / "run", *options)


def test_a_slice_that_is_not_labelled(source, tmp_path, poscon, refused):
    prepared = ("--labelled-slices", table(tmp_path / "one.csv", "a,1\na,2\n"))
    assert poscon("prepare", source, tmp_path / "s", *prepared)[0] == 0
    slices = table(tmp_path / "slices.csv", "a,3\n")
    line = refused("finetune", tmp_path / "s", tmp_path / "run", "--labelled-slices", slices)
    assert "slice 3 of case a is not labelled in" in line


@pytest.mark.parametrize("method", finetuning.METHODS)
def test_every_method_trains_on_a_few_slices(source, tmp_path, poscon, method):
    """The slices without labels of the labelled cases are the only data without labels."""
    (source / "d.nii.gz").unlink()
    slices = table(tmp_path / "few.csv", "a,1\na,4\nb,2\nc,3\n")
    options = ("--spacing", "native", "--labelled-slices", slices)
    assert poscon("prepare", source, tmp_path / "s", *options)[0] == 0
    run = tmp_path / "run"
    options = ("--method", method, "--iterations", 4, "--set", "checkpoint_every=4", *TINY)
    assert poscon("finetune", tmp_path / "s", run, *options)[0] == 0
    assert entries(run) == {"a": [1, 4], "b": [5], "c": [3]}
    assert entries(run, "unlabelled") == {}
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert all(np.isfinite(float(value)) for value in row.values() if value)


def test_what_is_not_labelled_does_not_count_in_validation(store):
    """The Dice of a model on some slices is that of the whole with the other slices cut away."""
    opened = Store(store)
    network = build_network(NetworkSettings(width=2, levels=2), 3).eval()
    chosen = FinetuneSettings(size=16, precision="32")
    (case,) = (c for c in opened.cases if c.id == "a")
    stack = torch.from_numpy(opened.image(case).astype(np.float32))
    predicted = predicted_classes(network, stack, 16)
    label = np.array(opened.label(case))
    label[[0, 3, 4]] = IGNORE
    label[5, :4] = IGNORE
    scores = []
    for index in (1, 2):
        a, b = ((part == index) & (label != IGNORE) for part in (predicted, label))
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    opened.label = lambda _: label  # type: ignore[method-assign]
    found = mean_dice(network, opened, [case], chosen)["validation_dice"]
    assert found == pytest.approx(np.mean(scores))


# inspect, and the pictures


@pytest.fixture
def sparse(source, tmp_path, poscon) -> Path:
    """A store with one wholly labelled case, one with two labelled slices, two without labels."""
    labels = segmentation()
    labels[:6, :, 3] = 9
    put(source / "a_seg.nii.gz", labels)
    rows = "".join(f"a,{i}\n" for i in range(8)) + "b,1\nb,4\n"
    options = ("--ignore-label", 9, "--labelled-slices", table(tmp_path / "t.csv", rows))
    assert poscon("prepare", source, tmp_path / "s", "--spacing", "native", *options)[0] == 0
    return tmp_path / "s"


def test_inspect_says_and_draws_what_is_labelled(sparse, poscon):
    code, out, _ = poscon("inspect", sparse)
    assert code == 0
    assert "10 of 16 slices of 2 subject(s) are labelled" in " ".join(out.split())
    picture = imread(sparse / "contact_sheet_labelled.png")
    colours = (picture[..., :3] * 255).round().astype(int)
    blue, grey = ((colours == c).all(-1).any(0).nonzero()[0] for c in ((0, 114, 178), (221,) * 3))
    assert len(blue) > 100
    assert len(grey) > 100
    _, out, _ = poscon("inspect", sparse, "--json")
    record = json.loads(out)
    assert (record["labelled_slices"], record["slices"]) == (10, 32)
    assert record["labelled_picture"] == str(sparse / "contact_sheet_labelled.png")
    with (sparse / "contact_sheet_cases.csv").open() as file:
        assert [row["labelled_slices"] for row in csv.DictReader(file)] == ["8", "2", "0", "0"]


def test_inspect_of_a_whole_store_draws_no_strips(store, poscon):
    assert poscon("inspect", store)[0] == 0
    assert not (store / "contact_sheet_labelled.png").exists()


def test_a_case_that_is_partly_labelled_lacks_no_class(source, tmp_path, poscon):
    for name in "efgh":
        put(source / f"{name}.nii.gz", scan(ord(name)))
        put(source / f"{name}_seg.nii.gz", segmentation())
    labels = segmentation()
    labels[labels == 2] = 9  # none of class 2 is labelled, and little of class 1
    labels[3:, :, :] = 9
    put(source / "a_seg.nii.gz", labels)
    assert poscon("prepare", source, tmp_path / "s", "--ignore-label", 9)[0] == 0
    findings = find_oddities(Store(tmp_path / "s"))
    assert not [f for f in findings if f.case == "a"]


def test_pictures_of_references_that_are_partly_labelled(sparse, source, tmp_path):
    """No overlay of a class where nothing is labelled; and nothing fails."""
    opened = Store(sparse)
    case, label = stored(sparse, "a")
    image = opened.image(case)[:, 0]
    pngs = outlined_pngs(image, label, np.zeros_like(label), (1.0, 1.0))
    assert len(pngs) == 8
    draw_predictions(tmp_path / "p.png", opened, ["a"], {"model": source_maps(source)}, title="t")
    assert (tmp_path / "p.png").is_file()
    dimmed = outlined_pngs(image, np.full_like(label, IGNORE), np.zeros_like(label), (1.0, 1.0))
    pixels = imread(io.BytesIO(base64.b64decode(dimmed[0])))[..., :3]
    left, right = pixels[:, :192], pixels[:, -192:]
    np.testing.assert_allclose(left, right * DARK, atol=1 / 100)


def source_maps(source: Path) -> Path:
    """A folder of predictions."""
    put(source.parent / "predicted" / "a.nii.gz", segmentation())
    return source.parent / "predicted"


def test_the_linear_probe_counts_labelled_voxels_only(store, monkeypatch):
    opened = Store(store)
    network = build_network(NetworkSettings(width=2, levels=2), 3)
    cases = [case for case in opened.cases if case.labelled]
    before = linear_segmentation_probe(network.encoder, opened, cases[:1], cases[1:], 16)
    plain = Store.label
    monkeypatch.setattr(Store, "label", lambda *a: np.where(plain(*a) == 2, IGNORE, plain(*a)))
    found = linear_segmentation_probe(network.encoder, opened, cases[:1], cases[1:], 16)
    assert set(before[cases[1].id]) == {"class_1", "class_2"}
    assert all("class_1" in dice and dice.get("class_2", 0) == 0 for dice in found.values())


# From a partly labelled data set to its results


def test_from_scans_to_results(source, sparse, tmp_path, poscon):
    run, predictions = tmp_path / "run", tmp_path / "out"
    options = ("--iterations", 6, "--set", "checkpoint_every=6", *TINY)
    assert poscon("finetune", sparse, run, *options)[0] == 0
    assert poscon("predict", run, source, predictions)[0] == 0
    predicted = nib.load(predictions / "a.nii.gz").get_fdata()
    assert set(np.unique(predicted)) <= {0, 1, 2}
    plain = ("--layout", "plain", "--ignore-label", 9)
    code, out, _ = poscon("evaluate", predictions, source, *plain)
    assert code == 0
    assert "60 voxels of 1 reference(s) are not labelled and do not count" in " ".join(out.split())
    _, out, _ = poscon("evaluate", predictions, source, *plain, "--json")
    record = json.loads(out)
    assert record["unlabelled"] == {"voxels": 60, "slices": 0, "cases": 1}
    truth = segmentation()
    counted = np.ones(SHAPE, bool)
    counted[:6, :, 3] = False
    for row in record["cases"]:
        if row["case"] == "a" and row["dice"] is not None:
            index = int(row["class"][-1])
            a, b = ((part == index) & counted for part in (predicted, truth))
            assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_an_ignore_label_of_evaluate_that_is_a_class(store, source, refused):
    options = ("--labels", "1=A,2=B", "--ignore-label", 2)
    line = refused("evaluate", source / "a_seg.nii.gz", source / "c_seg.nii.gz", *options)
    assert "the value 2 cannot mean 'not labelled', it is the class 'B'" in line


def test_validation_cases_may_be_partly_labelled(sparse, tmp_path, poscon):
    (tmp_path / "v.txt").write_text("b")
    run = tmp_path / "run"
    options = ("--validation", tmp_path / "v.txt", "--iterations", 4, *TINY)
    assert poscon("finetune", sparse, run, *options, "--set", "checkpoint_every=2")[0] == 0
    with (run / "metrics.csv").open() as file:
        dice = [float(row["validation_dice"]) for row in csv.DictReader(file)]
    assert all(0 <= value <= 1 for value in dice)
    assert entries(run, "validation") == {"b": None}
