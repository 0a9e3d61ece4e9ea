"""A batch on its way to a method."""

import torch

from poscon.step import SliceBatch


def test_a_batch_as_a_method_gets_it() -> None:
    rest = SliceBatch(torch.ones(2, 1, 4, 4, dtype=torch.float16), torch.rand(2))
    rest.possible = torch.tensor([[True, False], [True, True]])
    labels = torch.ones(2, 4, 4, dtype=torch.uint8)
    batch = SliceBatch(rest.images, rest.positions, labels, unlabelled=rest)
    moved = batch.to("cpu")
    assert moved.images.dtype == torch.float32
    assert moved.labels is not None
    assert moved.labels.dtype == torch.uint8
    assert moved.unlabelled is not None
    assert moved.unlabelled.images.dtype == torch.float32
    assert moved.unlabelled.possible is not None
    assert torch.equal(moved.unlabelled.possible, rest.possible)
    assert moved.slice_ids is moved.possible is None
    assert batch.images.dtype == torch.float16  # the batch itself is as it was
