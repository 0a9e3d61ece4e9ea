import torch
from torch import nn

from poscon.networks.heads import HeadSettings, ProjectionHead


def head(**settings) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(6, HeadSettings(**settings)).eval()


def test_the_head_of_the_paper():
    """Average pool, linear, ReLU, linear."""
    published, bottleneck = head(dimension=4, norm=False), torch.randn(3, 6, 5, 2)
    first, last = (m for m in published.modules() if isinstance(m, nn.Linear))
    expected = last(torch.relu(first(bottleneck.mean(dim=(2, 3)))))
    torch.testing.assert_close(published(bottleneck), expected)
    assert expected.shape == (3, 4)


def test_normalisation_when_asked():
    kinds = [type(m) for m in head(norm=True).layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert not any(isinstance(m, nn.BatchNorm1d) for m in head(norm=False).modules())


def test_where_something_is_does_not_matter():
    bottleneck = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(head()(bottleneck.flip(2, 3)), head()(bottleneck))


def test_volumes():
    assert head(dimension=8)(torch.randn(2, 6, 2, 3, 4)).shape == (2, 8)


def test_biases_start_at_zero():
    assert not any(m.bias.any() for m in head().modules() if isinstance(m, nn.Linear))
