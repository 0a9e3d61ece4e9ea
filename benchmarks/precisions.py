"""What bfloat16 saves in the default fine-tuning step on this CPU, by the size of the slices.

    python benchmarks/precisions.py [--sizes 48 128 256] [--batch 8] [--steps 5] [--rounds 7]

Synthetic slices, the default network and method of ``poscon finetune``, one thread. In every round
float32 and bfloat16 do so many steps, in turn. The figures are seconds of processor time of this
process, so that other work on the machine counts little: medians over the rounds, in ms, and of the
ratio within a round.
"""

import argparse
import statistics

import torch
from optimisers import Form

from poscon.training.inference import multiplies_in_bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 128, 256])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    able = "multiplies" if multiplies_in_bfloat16() else "does not multiply"
    print(f"{torch.backends.cpu.get_cpu_capability()}, {able} in bfloat16\n")
    print("| pixels | float32, ms | bfloat16, ms | float32 / bfloat16 |\n|---|---|---|---|")
    for size in arguments.sizes:
        total = arguments.steps * (arguments.rounds + 1)
        forms = [Form("fused", size, arguments.batch, total) for _ in range(2)]
        forms[0].bfloat16, forms[1].bfloat16 = False, True
        times: list[tuple[float, ...]] = []
        for round_ in range(arguments.rounds + 1):
            spent = []
            for form in forms:
                seeds = range(round_ * arguments.steps, (round_ + 1) * arguments.steps)
                spent.append(statistics.fmean(form.step(seed)[0] for seed in seeds) * 1e3)
            if round_:  # the first warms up
                times.append(tuple(spent))
        exact, short = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(f"| {size} | {exact:.0f} | {short:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
