import torch

from poscon.training import loop


def test_means_go_on_where_the_training_runs() -> None:
    """A checkpoint is read into the memory of the CPU; the sums of a GPU's steps belong there."""
    means = loop.ChunkMeans(torch.device("meta"))
    means.load_state_dict({"sums": {"loss": torch.tensor(2.0), "rate": 1.0}, "counts": {"loss": 1}})
    assert means.sums["loss"].device.type == "meta"
    assert means.sums["rate"] == 1.0
