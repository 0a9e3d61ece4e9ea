import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from poscon.errors import PosconError
from poscon.networks.build import build_encoder, build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import load_by_name, network_settings, read_weights, save_weights

SMALL = NetworkSettings(width=2, levels=2)


def network(seed=0, **settings) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(SMALL.model_copy(update=settings), 3)


def trained(seed=0) -> SegmentationNetwork:
    """A network whose buffers are not as they start either."""
    whole = network(seed)
    whole(torch.randn(2, 1, 8, 8))
    return whole


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(PosconError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_loaded(tmp_path: Path):
    whole, path = trained(), tmp_path / "weights.safetensors"
    about = {"network": SMALL.model_dump(), "classes": ["RV", "LV"], "step": 3}
    save_weights(path, whole, about)
    tensors, told = read_weights(path)
    assert same(tensors, whole.state_dict())
    assert told == about
    assert network_settings(told, path) == SMALL
    other = network(seed=1)
    report = load_by_name(other, tensors, where="here")
    assert same(other.state_dict(), whole.state_dict())
    assert set(report.loaded) == set(tensors)
    assert report.missing == report.unused == ()
    images = torch.randn(1, 1, 8, 8)
    assert torch.equal(other.eval()(images), whole.eval()(images))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_replaces_the_file_whole(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained(0), {"step": 1})
    save_weights(path, trained(1), {"step": 2})
    tensors, about = read_weights(path)
    assert about == {"step": 2}
    assert same(tensors, trained(1).state_dict())


def test_the_same_weights_make_the_same_bytes(tmp_path: Path):
    network = build_encoder(NetworkSettings(width=4, levels=2))
    about = {name: name for name in "zyxwvutsrqp"}
    for name, values in (("a", about), ("b", dict(reversed(about.items())))):
        save_weights(tmp_path / name, network, values)
    written = (tmp_path / "a").read_bytes()
    assert written == (tmp_path / "b").read_bytes()
    assert int.from_bytes(written[:8], "little") % 8 == 0


def test_channels_last_memory_is_saved_as_any_other(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained().to(memory_format=torch.channels_last), {})
    assert same(read_weights(path)[0], trained().state_dict())


def test_an_encoder_is_loaded_into_a_segmentation_network():
    source, target = trained(), network(seed=1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    tensors = {f"encoder.{name}": value for name, value in source.encoder.state_dict().items()}
    report = load_by_name(target, {**tensors, "head.0.weight": torch.ones(3)}, where="here")
    after = target.state_dict()
    for name in after:
        kept = tensors[name] if name.startswith("encoder.") else before[name]
        assert torch.equal(after[name], kept), name
    assert set(report.loaded) == set(tensors)
    assert report.unused == ("head.0.weight",)
    assert set(report.missing) == {name for name in after if not name.startswith("encoder.")}
    text = str(report)
    assert f"{len(tensors)} tensors loaded" in text
    assert f"{len(report.missing)} kept as initialised" in text
    assert "1 not used (head.0.weight)" in text


def test_loading_copies():
    target, tensors = network(seed=1), trained().state_dict()
    load_by_name(target, tensors, where="here")
    with torch.no_grad():
        next(target.parameters()).add_(1)
    assert same(tensors, trained().state_dict())


def test_loading_keeps_parameters_trainable():
    target = network(seed=1)
    load_by_name(target, trained().state_dict(), where="here")
    target(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in target.parameters())


def test_another_architecture_is_refused_and_changes_nothing():
    target = network(seed=1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    message = refusal(load_by_name, target, network(width=4).state_dict(), where="a.safetensors")
    assert message.startswith("a.safetensors: encoder.blocks.0.0.weight has shape (4, 1, 3, 3)")
    assert "(2, 1, 3, 3)" in message
    assert same(target.state_dict(), before)


def test_a_mismatch_in_the_last_tensor_changes_nothing():
    target, tensors = network(seed=1), trained().state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    tensors[list(tensors)[-1]] = torch.zeros(7)
    refusal(load_by_name, target, tensors, where="a.safetensors")
    assert same(target.state_dict(), before)


def test_nothing_to_load_is_an_error():
    """An encoder's own names, without their prefix, fit nowhere."""
    tensors = build_encoder(SMALL).state_dict()
    message = refusal(load_by_name, network(), tensors, where="a.safetensors")
    assert message.startswith(f"a.safetensors: none of its {len(tensors)} tensors")


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_a_damaged_file(tmp_path: Path, cut: int):
    path = tmp_path / "weights.safetensors"
    save_weights(path, trained(), {})
    path.write_bytes(path.read_bytes()[:cut])
    assert str(path) in refusal(read_weights, path)


def test_no_file(tmp_path: Path):
    assert "no such file" in refusal(read_weights, tmp_path / "weights.safetensors")
    assert "no such file" in refusal(read_weights, tmp_path)


def test_a_file_of_another_program(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"format": "pt"})
    assert "not a poscon file" in refusal(read_weights, path)


@pytest.mark.parametrize("network", [None, {"width": 0}, {"depth": 3}, "unet"])
def test_a_file_that_does_not_say_its_network(tmp_path: Path, network):
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"network": json.dumps(network)})
    _, about = read_weights(path)
    assert str(path) in refusal(network_settings, about, path)
    save_file({"w": torch.ones(2)}, path)
    assert str(path) in refusal(network_settings, read_weights(path)[1], path)
