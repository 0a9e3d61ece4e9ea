"""No pre-training."""

import pytest
import torch

from poscon.errors import PosconError
from poscon.networks.build import build_encoder, build_network
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext import find_method
from poscon.pretext.random import RandomInit
from poscon.settings import validate


def test_it_trains_nothing():
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    method = RandomInit(encoder, HeadSettings(), RandomInit.Settings(), n_slices=8)
    assert find_method("random") is RandomInit
    assert not method.trains
    assert not method.has_head
    assert method.parts == ("encoder",)
    assert method.encoder is encoder
    assert list(method.parameters()) == list(encoder.parameters())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_is_the_start_that_a_network_has_anyway():
    """So fine-tuning from it and fine-tuning from nothing are the same, with one seed."""
    chosen = NetworkSettings(width=2, levels=2)
    torch.manual_seed(0)
    method = RandomInit(build_encoder(chosen), HeadSettings(), RandomInit.Settings(), n_slices=8)
    torch.manual_seed(0)
    network = build_network(chosen, 2)
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, network.encoder.state_dict()[name]), name


def test_it_has_no_settings():
    with pytest.raises(PosconError, match="temperature"):
        validate(RandomInit.Settings, {"temperature": 0.1})
