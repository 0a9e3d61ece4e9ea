"""``--to onnx``: ONNX Runtime computes what poscon computes, in any batch and size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from poscon.errors import PosconError
from poscon.exports.onnx import with_transposed_convolutions, write_onnx
from poscon.exports.trained import read_trained
from poscon.networks.layers import UpSample2d

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def outputs(path: Path, images: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


@pytest.mark.slow
@torch.no_grad()
def test_a_model_and_its_encoder(finetuned: Path, tmp_path: Path) -> None:
    trained = read_trained(finetuned)
    assert write_onnx(trained, tmp_path) <= 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "encoder.onnx"}
    stride = trained.settings.stride
    for n, a, b in ((1, 5, 3), (3, 16, 9)):
        images = torch.randn(n, 1, a * stride, b * stride)
        (logits,) = outputs(tmp_path / "model.onnx", images)
        np.testing.assert_allclose(logits, trained.network(images).numpy(), rtol=1e-4, atol=1e-4)
        features = outputs(tmp_path / "encoder.onnx", images)
        for found, expected in zip(features, trained.encoder(images), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import}[""] == 18


@pytest.mark.slow
def test_a_pre_training_has_an_encoder_only(pretrained: Path, tmp_path: Path) -> None:
    write_onnx(read_trained(pretrained), tmp_path, 20)
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.onnx"]
    model = onnx.load(tmp_path / "encoder.onnx")
    assert {o.domain: o.version for o in model.opset_import}[""] == 20


@pytest.mark.parametrize("opset", [3, 17, 999])
def test_an_opset_that_cannot(finetuned: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(PosconError, match=rf"^--opset {opset}: cannot be written; use 18 to"):
        write_onnx(read_trained(finetuned), tmp_path, opset)
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poscon.exports.onnx.find_spec", lambda name: None)
    with pytest.raises(PosconError, match=r"needs onnx, .* pip install 'poscon\[export\]'"):
        write_onnx(read_trained(finetuned), tmp_path)


@torch.no_grad()
def test_transposed_convolutions_compute_the_same(finetuned: Path) -> None:
    trained = read_trained(finetuned)
    twin = with_transposed_convolutions(trained.network)
    assert not any(isinstance(module, UpSample2d) for module in twin.modules())
    assert any(isinstance(module, UpSample2d) for module in trained.network.modules())
    torch.testing.assert_close(
        twin(trained.images), trained.network(trained.images), rtol=1e-5, atol=1e-5
    )
