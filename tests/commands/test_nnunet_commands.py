"""nnU-Net's network through the commands, and the plans files that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nnunet_examples import LIBRARY, plans_of_nnunet, write_plans

pytestmark = pytest.mark.usefixtures("no_picture")
Poscon = Callable[..., tuple[int, str, str]]
NNUNET = ["-s", "network.architecture=nnunet", "-s", "size=32"]


def test_from_plans_to_label_maps_and_back_to_nnunet(
    poscon: Poscon, store: Path, scans: Path, tmp_path: Path
) -> None:
    """The file of the plans is gone after the pre-training."""
    pytest.importorskip("dynamic_network_architectures")
    plans = write_plans(tmp_path / "plans.json")
    given = [*NNUNET, "-s", f"network.plans={plans}", "-s", "batch=24"]
    assert poscon("pretrain", store, tmp_path / "pre", "--epochs", "1", *given)[0] == 0
    plans.unlink()
    start = ["--init", tmp_path / "pre", "--labelled", "3", "--iterations", "2"]
    other = write_plans(tmp_path / "other.json", "ResidualEncoderUNet")
    given = [*NNUNET, "-s", f"network.plans={other}"]
    code, _, err = poscon("finetune", store, tmp_path / "fine", *start, *given)
    assert code == 2
    assert err.strip().endswith("a checkpoint of another architecture (other plans)")
    code, _, err = poscon(
        "finetune", store, tmp_path / "fine", *start, "-s", "size=32", "-s", "batch=2"
    )
    assert code == 0, err
    scan = scans / "imagesTr" / "phantom_001.nii.gz"
    assert poscon("predict", tmp_path / "fine", scan, tmp_path / "maps")[0] == 0
    found, image = nib.load(tmp_path / "maps" / scan.name), nib.load(scan)
    assert found.shape == image.shape
    np.testing.assert_allclose(found.affine, image.affine)
    for run in ("pre", "fine"):
        out = tmp_path / f"{run}-out"
        assert poscon("export", tmp_path / run, out, "--to", "nnunet")[0] == 0
        assert (out / "pretrained.pth").is_file()
    code, _, err = poscon("export", tmp_path / "pre", tmp_path / "x", "--to", "torch")
    assert code == 2
    assert "'nnunet' is that of another package" in err


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The text of a plans file in which something is changed."""
    plans = plans_of_nnunet()
    change(plans)
    return json.dumps(plans)


def two(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"]["2d"]


BAD = {
    "no JSON": ("{", "plans.json: cannot be read as JSON"),
    "no plans": ("[1, 2]", "plans.json: not a plans file of nnU-Net v2, it has no configurations"),
    "a data set": ('{"labels": {}}', "plans.json: not a plans file of nnU-Net v2"),
    "no 2d": (
        changed(lambda p: p["configurations"].pop("2d")),
        "plans.json: has no configuration 2d (it has 3d_fullres); plan the data set with it",
    ),
    "old": (
        changed(lambda p: two(p).pop("architecture")),
        "plans.json: its configuration 2d has no 'architecture'; plan the data set again",
    ),
    "3-D": (
        changed(lambda p: two(p)["architecture"]["arch_kwargs"].update(conv_op="torch.nn.Conv3d")),
        "plans.json: its configuration 2d has Conv3d and a patch of 2 dimensions; poscon works on "
        "slices",
    ),
    "3-D patch": (
        changed(lambda p: two(p).update(patch_size=[8, 32, 24])),
        "plans.json: its configuration 2d has Conv2d and a patch of 3 dimensions",
    ),
    "class": (
        changed(lambda p: two(p)["architecture"].update(network_class_name=f"{LIBRARY}.Primus")),
        f"plans.json: its network '{LIBRARY}.Primus' is not known; poscon builds PlainConvUNet and",
    ),
    "strides": (
        changed(lambda p: two(p)["architecture"]["arch_kwargs"].update(strides=[[1, 1], [3, 3]])),
        "plans.json: its strides [[1, 1], [3, 3]] and features [2, 4, 8] are not those of levels",
    ),
    "no stages": (
        changed(lambda p: two(p)["architecture"].update(arch_kwargs=7)),
        "plans.json: setting arch_kwargs = 7",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_plans_are_one_line(case: str, poscon: Poscon, store: Path, tmp_path: Path) -> None:
    text, message = BAD[case]
    (tmp_path / "plans.json").write_text(text)
    given = [*NNUNET, "-s", f"network.plans={tmp_path / 'plans.json'}"]
    code, out, err = poscon("pretrain", store, tmp_path / "run", *given)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there(poscon: Poscon, store: Path, tmp_path: Path) -> None:
    given = [*NNUNET, "-s", "network.plans=no.json"]
    code, _, err = poscon("pretrain", store, tmp_path / "run", *given)
    assert code == 2
    assert err.startswith("error: no.json: no such file; give a plans file of nnU-Net")


def test_a_bottleneck_of_one_pixel(poscon: Poscon, store: Path, tmp_path: Path) -> None:
    """InstanceNorm cannot normalise it."""
    pytest.importorskip("dynamic_network_architectures")
    plans = write_plans(tmp_path / "plans.json", features=[2, 2, 2, 2, 2, 2])
    given = [*NNUNET, "-s", f"network.plans={plans}"]
    code, _, err = poscon("pretrain", store, tmp_path / "run", *given)
    assert code == 2
    assert "setting size = 32: leaves the bottleneck of this network too few pixels" in err
    assert not (tmp_path / "run").exists()


def test_two_channels_in_the_plans(poscon: Poscon, store: Path, tmp_path: Path) -> None:
    plans = write_plans(tmp_path / "plans.json", channels=2)
    given = [*NNUNET, "-s", f"network.plans={plans}"]
    code, _, err = poscon("pretrain", store, tmp_path / "run", *given)
    assert code == 2
    assert "has 1 image channel(s), the network takes 2" in err
