"""``--to monai``: a Bundle that MONAI runs, with the label maps that poscon writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from export_examples import fake_run, fake_trained
from monai.bundle import ConfigParser, run, verify_metadata, verify_net_in_out

from poscon.commands.predict import predict
from poscon.errors import PosconError
from poscon.exports.monai import write_monai
from poscon.exports.trained import read_trained
from poscon.models import Model
from poscon.networks.checkpoints import read_checkpoint

REQUIRED = {
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"),
    *("required_packages_version", "description", "authors", "copyright", "network_data_format"),
}
"""What MONAI's specification of Bundles asks of ``metadata.json``."""


def bundle(*arguments: object, cwd: Path) -> None:
    """``python -m monai.bundle ...`` in a process that cannot import poscon."""
    guard = "import sys; sys.modules['poscon'] = None; sys.path.insert(0, '.'); "
    result = subprocess.run(
        [sys.executable, "-c", f"{guard}import runpy; runpy.run_module('monai.bundle', "
         "run_name='__main__')", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(((a == b) & (a > 0)).sum()) / float((a > 0).sum() + (b > 0).sum())


def test_the_bundle_segments_scans_as_poscon_does(
    finetuned: Path, scans: Path, tmp_path: Path
) -> None:
    """The very same voxels, on the scan's own grid, in any orientation of the file."""
    write_monai(read_trained(finetuned), tmp_path)
    (tmp_path / "scans").mkdir()
    image = nib.load(scans / "imagesTr" / "phantom_000.nii.gz")
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    for name, scan in (("a", image), ("b", turned)):
        nib.save(scan, tmp_path / "scans" / f"{name}.nii.gz")
    bundle("run", "--config_file", "configs/inference.json", cwd=tmp_path)
    written = predict(finetuned, tmp_path / "scans", tmp_path / "ours", device="cpu")
    assert [p.name for p in written] == ["a.nii.gz", "b.nii.gz"]
    for ours in written:
        expected, found = nib.load(ours), nib.load(tmp_path / "predictions" / ours.name)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        labels = np.asanyarray(expected.dataobj)
        assert len(np.unique(labels)) > 1
        assert dice(np.asanyarray(found.dataobj), labels) > 0.9999


@pytest.mark.parametrize(
    ("network", "target"),
    [
        ({"levels": 4}, "monai.networks.nets.BasicUNet"),
        ({"levels": 4, "bottleneck_norm": False}, "scripts.network.build"),
        ({"levels": 2, "context": 1}, "scripts.network.build"),
    ],
)
def test_the_network_is_monai_s_own_where_it_can_be(
    finetuned: Path, tmp_path: Path, network: dict[str, Any], target: str
) -> None:
    trained = fake_trained(finetuned, tmp_path / "run", **network)
    out = tmp_path / "out"
    out.mkdir()
    assert write_monai(trained, out) <= 1e-5
    config = json.loads((out / "configs" / "inference.json").read_text())
    assert config["network_def"]["_target_"] == target
    assert (out / "scripts" / "network.py").is_file() == target.startswith("scripts")
    if target.startswith("monai"):
        parser = ConfigParser({"network_def": config["network_def"]})
        theirs = parser.get_parsed_content("network_def").eval()
        theirs.load_state_dict(torch.load(out / "models" / "model.pt", weights_only=True))
        images = torch.randn(3, 1, 48, 16)
        with torch.no_grad():
            expected = trained.network(images)
            torch.testing.assert_close(theirs(images), expected, rtol=1e-5, atol=1e-5)
        verify_net_in_out(
            "network_def",
            meta_file=str(out / "configs" / "metadata.json"),
            config_file=str(out / "configs" / "inference.json"),
            device="cpu",
            n=2,
        )


def test_the_metadata_have_what_monai_asks_for(finetuned: Path, tmp_path: Path) -> None:
    trained = read_trained(finetuned)
    write_monai(trained, tmp_path)
    found = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    schema = {"type": "object", "required": sorted(REQUIRED)}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    verify_metadata(
        meta_file=str(tmp_path / "configs" / "metadata.json"),
        filepath=str(tmp_path / "schema.json"),
    )
    output = found["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"]["0"] == "background"
    assert output["num_channels"] == len(output["channel_def"]) == trained.network.n_classes
    assert found["network_data_format"]["inputs"]["image"]["spatial_shape"] == ["4*n", "4*n"]


def test_neighbouring_slices_and_ct(
    finetuned: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding of a CT counts as air; a slice at the end is its own neighbour; no resampling.

    A label value of more than eight bits is kept, as MM-WHS has them.
    """
    source = fake_run(
        *(finetuned, tmp_path / "run"), context=1, preparation={"spacing": None}, first_value=500
    )
    out = tmp_path / "out"
    out.mkdir()
    trained = read_trained(source)
    for channel in trained.loaded.training.channels:
        object.__setattr__(channel, "modalities", ("CT",))
    write_monai(trained, out)
    image = nib.load(scans / "imagesTr" / "phantom_001.nii.gz")
    voxels = np.asanyarray(image.dataobj).astype(np.float32) * 3 - 1000
    voxels[:4] = -3024
    (out / "scans").mkdir()
    nib.save(nib.Nifti1Image(voxels, image.affine), out / "scans" / "a.nii.gz")
    monkeypatch.chdir(out)
    monkeypatch.syspath_prepend(str(out))
    run(config_file="configs/inference.json")
    found = np.asanyarray(nib.load(out / "predictions" / "a.nii.gz").dataobj)
    assert isinstance(trained.loaded, Model)
    expected = trained.loaded.segment(out / "scans" / "a.nii.gz")
    assert 500 in found
    assert dice(found, np.asanyarray(expected.dataobj)) > 0.9999


def test_our_own_bundle_is_a_start(finetuned: Path, tmp_path: Path) -> None:
    trained = fake_trained(finetuned, tmp_path / "run", levels=4)
    (tmp_path / "out").mkdir()
    write_monai(trained, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out" / "models" / "model.pt")
    assert found.settings == trained.settings
    for part, tensors in found.parts.items():
        expected = trained.network.get_submodule(part).state_dict()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_pre_training_is_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="segments nothing; use --to torch"):
        write_monai(read_trained(pretrained), tmp_path)
