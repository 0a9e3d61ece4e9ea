"""What the positional loss costs with the number of embeddings: time and memory of three forms.

    python benchmarks/loss_scale.py [--smallest 256] [--largest 65536] [--limit 8] [--threads 1]
                                    [--device cpu|cuda] [--checkpoint]

- broadcast: the cosine of (1, B, D) with (B, 1, D), the form of the published implementation, which
  makes B x B x D;
- dense: `poscon.pretext.contrast.contrastive_loss`, which makes B x B;
- blocks: `poscon.pretext.blockwise.anchor_losses`, which makes a block of anchors x B;
- checkpoint, if asked for: the same blocks, each under `torch.utils.checkpoint`, which makes them
  again for a backward pass that torch derives (docs/decisions/0014-blockwise.md).

Forward and backward, random embeddings of 128 values in single precision, random positions, a
threshold of 0.1, a temperature of 0.1. First all forms are checked to agree. Each measurement is in
a process of its own, after one of 256 embeddings that warms up: the median time of the rounds (on
one thread of a CPU, the time of the processor, so that other work counts little), and
the most memory that was in use beyond what was before the first (on a CPU the resident set of the
process, Linux only; on a GPU what torch has allocated). A form that is refused memory at the limit,
in GiB, is shown as "-", and not tried with more embeddings.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from poscon.pretext.blockwise import BLOCK_PAIRS, anchor_losses
from poscon.pretext.contrast import contrastive_loss, unit
from poscon.pretext.pcl import near

WARM_UP = 256
DIMENSION = 128
THRESHOLD = 0.1
TEMPERATURE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smallest", type=int, default=256)
    parser.add_argument("--largest", type=int, default=65536)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit", type=float, default=8, help="GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpoint", action="store_true")
    arguments = parser.parse_args()
    if arguments.smallest < 2:
        parser.error("--smallest: must be at least 2")
    check_that_all_agree()
    forms = [form for form in FORMS if form != "checkpoint" or arguments.checkpoint]
    where = f"{arguments.threads} thread(s)"
    if arguments.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{where}, at most {arguments.limit:g} GiB, {arguments.rounds} round(s)\n")
    print("| B | " + " | ".join(f"{form}, s | {form}, MiB" for form in forms) + " |")
    print("|" + "---|" * (1 + 2 * len(forms)))
    possible, n = set(forms), arguments.smallest
    while n <= arguments.largest:
        cells = []
        for form in forms:
            cost = None
            if form in possible:
                how = (form, n, arguments.device, arguments.limit * 2**30)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                    work = fresh.submit(measure, *how, arguments.rounds, arguments.threads)
                    cost = work.result()
            if cost is None:
                possible.discard(form)
                cells += ["-", "-"]
            else:
                cells += [f"{cost[0]:.3g}", f"{cost[1] / 2**20:.0f}"]
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)
        n *= 2


def broadcast(embeddings: Tensor, positions: Tensor) -> Tensor:
    cosines = nn.functional.cosine_similarity(embeddings[None], embeddings[:, None], dim=-1)
    itself = torch.eye(len(positions), dtype=torch.bool, device=positions.device)
    positives = near(positions, positions, THRESHOLD) & ~itself
    logits = (cosines / TEMPERATURE).masked_fill(itself, -torch.inf)
    n_positives = positives.sum(dim=1)
    own = logits.log_softmax(dim=1).masked_fill(~positives, 0).sum(dim=1)
    return -(own / n_positives.clamp(min=1)).sum() / (n_positives > 0).sum()


def dense(embeddings: Tensor, positions: Tensor) -> Tensor:
    positives = near(positions, positions, THRESHOLD)
    return contrastive_loss(embeddings, positives, temperature=TEMPERATURE)


def blocks(embeddings: Tensor, positions: Tensor) -> Tensor:
    rule = partial(near, threshold=THRESHOLD)
    terms = anchor_losses(unit(embeddings), positions, rule, temperature=TEMPERATURE)
    return terms.losses.sum() / (terms.weight > 0).sum()


def checkpointed(embeddings: Tensor, positions: Tensor) -> Tensor:
    z, block = unit(embeddings), max(1, BLOCK_PAIRS // len(embeddings))
    parts = [
        checkpoint(block_losses, z, positions, first, block, use_reentrant=False)
        for first in range(0, len(z), block)
    ]
    losses, n_positives = (torch.cat(part) for part in zip(*parts, strict=True))
    return losses.sum() / (n_positives > 0).sum()


def block_losses(z: Tensor, positions: Tensor, first: int, block: int) -> tuple[Tensor, Tensor]:
    rows = slice(first, first + block)
    logits = z[rows] @ z.T / TEMPERATURE
    logits.diagonal(first).fill_(torch.finfo(logits.dtype).min)
    positives = near(positions[rows], positions, THRESHOLD)
    positives.diagonal(first).fill_(False)
    n_positives = positives.sum(dim=1)
    own = (logits * positives).sum(dim=1) / n_positives.clamp(min=1)
    return (logits.logsumexp(dim=1) - own).masked_fill(n_positives == 0, 0), n_positives


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "broadcast": broadcast,
    "dense": dense,
    "blocks": blocks,
    "checkpoint": checkpointed,
}


def random_batch(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Embeddings that want a gradient, and positions."""
    generator = torch.Generator().manual_seed(n)
    embeddings = torch.randn(n, DIMENSION, generator=generator).to(device)
    return embeddings.requires_grad_(), torch.rand(n, generator=generator).to(device)


def check_that_all_agree() -> None:
    embeddings, positions = random_batch(WARM_UP, "cpu")
    losses = [form(embeddings, positions) for form in FORMS.values()]
    gradients = [torch.autograd.grad(loss, embeddings)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0])


def measure(
    form: str, n: int, device: str, limit: float, rounds: int, threads: int
) -> tuple[float, int] | None:
    """Seconds, and bytes beyond the inputs; None if more than the limit would be needed."""
    torch.set_num_threads(threads)
    clock = time.process_time if device == "cpu" and threads == 1 else time.perf_counter

    def seconds(embeddings: Tensor, positions: Tensor) -> float:
        started = clock()
        loss = FORMS[form](embeddings, positions)
        float(torch.autograd.grad(loss, embeddings)[0][0, 0])  # waits for a GPU
        return clock() - started

    seconds(*random_batch(WARM_UP, device))
    batch = random_batch(n, device)
    start = begin_at(limit, device)
    try:
        spent = [seconds(*batch) for _ in range(rounds)]
    except (MemoryError, RuntimeError) as error:
        if "memory" in str(error):  # torch has a class of its own for a GPU only
            return None
        raise
    most = torch.cuda.max_memory_allocated() if device == "cuda" else memory_of_process("VmHWM")
    return statistics.median(spent), most - start


def begin_at(limit: float, device: str) -> int:
    """Bytes in use; from here on no more than ``limit`` beyond, and the most of them is noted."""
    if device == "cuda":
        start = torch.cuda.memory_allocated()
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (start + limit) / whole))
        torch.cuda.reset_peak_memory_stats()
        return start
    most = int(memory_of_process("VmSize") + limit)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident set starts anew
    return memory_of_process("VmRSS")


def memory_of_process(name: str) -> int:
    """Bytes, by a name of /proc/self/status."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
