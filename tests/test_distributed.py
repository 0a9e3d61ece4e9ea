"""Two processes with half of a batch each against one process with all of it, on this machine."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from poscon.distributed import gather, n_processes, rank, total
from poscon.networks.build import build_encoder
from poscon.networks.embedding import embed
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.settings import NetworkSettings
from poscon.pretext.contrast import contrast
from poscon.pretext.pcl import near, positional_contrast
from poscon.pretext.simclr import slice_contrast

PROCESSES = 2
SLICES = 6
POSITIONS = torch.tensor([0.1, 0.15, 0.5, 0.52, 0.9, 0.12], dtype=torch.float64)


class _Embed(nn.Module):
    """Encoder and head, with BatchNorm by its running statistics, which no batch changes."""

    def __init__(self, grad_cache_chunk=None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = build_encoder(NetworkSettings(width=2, levels=2))
        self.head = ProjectionHead(8, HeadSettings(dimension=4))
        self.grad_cache_chunk = grad_cache_chunk
        self.double().eval()

    def forward(self, images):
        return embed(self.encoder, self.head, images, self.grad_cache_chunk)


def two_views_of(process, processes):
    """Rows as a method has them: a view of each of the process's slices, then another of each."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, SLICES, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images.chunk(processes, dim=1)[process].flatten(0, 1)


def steps(process, processes):
    """Each loss by name, on the process's share of the batch."""
    positions = POSITIONS.chunk(processes)[process].repeat(2)

    def by_position(threshold, embeddings):
        return contrast(embeddings, positions, partial(near, threshold=threshold), temperature=0.3)

    def by_kernel(embeddings, **how):
        return positional_contrast(embeddings, positions, threshold=0.05, temperature=0.3, **how)

    return {
        "pcl": partial(by_position, 0.1),
        "pcl, one half without positives": partial(by_position, 1e-9),
        "pcl, nobody has a positive": partial(by_position, 0.0),
        "pcl, weights and a grey zone": partial(by_kernel, kernel="gaussian", grey=0.4),
        "simclr": partial(slice_contrast, temperature=0.3),
    }


def outcomes(process, processes, wrap, grad_cache_chunk=None):
    """What each loss says, and the gradient of every parameter."""
    images, found = two_views_of(process, processes), {}
    for name, loss_of in steps(process, processes).items():
        network = wrap(_Embed(grad_cache_chunk))
        step = loss_of(network(images))
        step.loss.backward()
        found[name] = {
            "loss": step.loss.detach(),
            "chance": step.chance,
            "floor": step.floor,
            **step.logs,
            **{f"parameter {i}": p.grad for i, p in enumerate(network.parameters())},
        }
    return found


def _work(process, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    rows = torch.arange(4.0).reshape(2, 2).add(10 * process).requires_grad_()
    everything = gather(rows)
    (everything * total(everything.detach()[:, :1] + process)).sum().backward()
    found = {
        "number": (rank(), n_processes()),
        "gathered": everything.detach(),
        "numbers": gather(torch.tensor([process])),
        "gradient": rows.grad,
        "plain": outcomes(process, PROCESSES, DistributedDataParallel),
        "micro-batches": outcomes(process, PROCESSES, DistributedDataParallel, grad_cache_chunk=4),
    }
    torch.save(found, f"{folder}/{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_work, (folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{process}.pt") for process in range(PROCESSES)]


def test_rows_are_gathered_and_their_gradients_summed(of_two_processes):
    for process, found in enumerate(of_two_processes):
        assert found["number"] == (process, 2)
        assert found["gathered"].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert found["numbers"].tolist() == [0, 1]
        # of either process's loss the weights of rows 0 and 2 are total(0 + process), total(10 ...)
        weights = torch.tensor([[0.0], [2.0], [10.0], [12.0]]) * 2 + 1
        expected = (weights * 2).expand(4, 2)[2 * process : 2 * process + 2]
        assert torch.equal(found["gradient"], expected)


@pytest.mark.parametrize("how", ["plain", "micro-batches"])
def test_two_processes_are_as_good_as_one(how, of_two_processes):
    """Loss, what is said of it, and the gradients that DistributedDataParallel has averaged."""
    expected = outcomes(0, 1, lambda network: network)
    for found in of_two_processes:
        torch.testing.assert_close(found[how], expected, rtol=1e-10, atol=1e-12)


def test_one_process_is_left_alone():
    rows = torch.ones(3, 2)
    assert (rank(), n_processes()) == (0, 1)
    assert gather(rows) is rows
    assert total(rows) is rows
