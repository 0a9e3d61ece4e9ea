"""What forms of AdamW and denormal numbers cost in the default fine-tuning step on a CPU.

    python benchmarks/optimisers.py [--size 48] [--batch 8] [--steps 20] [--rounds 7]

Synthetic slices, the default network, method and precision of ``poscon finetune``, one thread. In
every round each form does so many steps, in turn. The figures are seconds of processor time of this
process, so that other work on the machine counts little: medians over the rounds of a whole step
and of its optimiser part, in ms. ``denormals flushed`` is with ``torch.set_flush_denormal(True)``.
poscon uses ``fused``.
"""

import argparse
import statistics
import time

import torch
from step_cost import CLASSES, random_batch

from poscon.finetuning.supervised import Supervised
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.inference import channels_last, choose_precision
from poscon.training.optimisation import build_optimiser
from poscon.views import ViewMaker, canvas_size

FORMS = ("one tensor at a time", "foreach", "fused", "fused, denormals flushed")


class Form:
    """A training with one form of AdamW."""

    def __init__(self, name: str, size: int, batch: int, steps: int) -> None:
        settings = FinetuneSettings()
        self.flush = name.endswith("flushed")
        self.views = ViewMaker(settings.views, size)
        self.batch = random_batch(batch, canvas_size(size, settings.views))
        self.bfloat16 = choose_precision(settings.precision, "cpu") == "bf16"
        torch.manual_seed(0)
        network = build_network(NetworkSettings(), CLASSES)
        self.method = Supervised(
            network, Supervised.Settings(), settings.deep_supervision, settings.ema_decay
        )
        channels_last(self.method)
        self.optimiser, _ = build_optimiser(self.method.parameters(), settings.optimiser, steps)
        for group in self.optimiser.param_groups:
            group["fused"], group["foreach"] = name.startswith("fused"), name == "foreach"

    def step(self, seed: int) -> tuple[float, float]:
        """Seconds of the step, and of the optimiser in it."""
        torch.set_flush_denormal(self.flush)
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            loss = self.method.step(self.batch, self.views, seed, 0.5).loss
        loss.backward()
        before = time.process_time()
        self.optimiser.step()
        after = time.process_time()
        self.optimiser.zero_grad()
        self.method.after_step()
        return time.process_time() - started, after - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    total = arguments.steps * (arguments.rounds + 1)
    forms = {name: Form(name, arguments.size, arguments.batch, total) for name in FORMS}
    whole: dict[str, list[float]] = {name: [] for name in FORMS}
    part: dict[str, list[float]] = {name: [] for name in FORMS}
    for round_ in range(arguments.rounds + 1):
        for name, form in forms.items():
            spent = [form.step(round_ * arguments.steps + i) for i in range(arguments.steps)]
            if round_:  # the first warms up
                whole[name].append(statistics.fmean(step for step, _ in spent) * 1e3)
                part[name].append(statistics.fmean(own for _, own in spent) * 1e3)
    precision = "bfloat16" if forms[FORMS[0]].bfloat16 else "float32"
    print(f"{arguments.batch} slices of {arguments.size} x {arguments.size}, {precision}\n")
    print("| AdamW | step, ms | optimiser, ms |\n|---|---|---|")
    for name in FORMS:
        step, own = statistics.median(whole[name]), statistics.median(part[name])
        print(f"| {name} | {step:.1f} | {own:.2f} |")


if __name__ == "__main__":
    main()
