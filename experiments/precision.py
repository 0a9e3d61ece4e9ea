"""Dice after fine-tuning in bfloat16 and in float32, seed by seed.

    python experiments/precision.py SOURCE OUT [--plane coronal] [--labelled 6]
        [--iterations 1500] [--seeds 5] [--set KEY=VALUE]

SOURCE is a labelled data set. Every fifth subject is kept for testing. With each seed a U-Net is
fine-tuned from a random start on the labelled subjects that the seed draws, once with
``precision=32`` and once with ``precision=bf16``. Both models segment the test subjects in float32.
The Dice of a seed is the mean over subjects of their mean over classes. What is in OUT already is
not done again. The table is printed and written to OUT/precision.md.
"""

import argparse
import csv
from pathlib import Path
from statistics import fmean, stdev

import poscon
from poscon.store.store import Store

PRECISIONS = ("32", "bf16")
KEPT_APART = 5


def test_dice(arguments: argparse.Namespace, seed: int, precision: str) -> float:
    """Train with one seed in one precision if that is not done yet; the mean Dice in testing."""
    run = arguments.out / f"{precision}-seed{seed}"
    test = arguments.out / "test.txt"
    if not (run / "model.safetensors").is_file():
        resume = (run / "config.yaml").is_file()
        poscon.finetune(
            arguments.out / "store",
            run,
            resume=resume,
            **(
                {}
                if resume
                else {
                    "method": "supervised",
                    "labelled": arguments.labelled,
                    "exclude": test,
                    "iterations": arguments.iterations,
                    "seed": seed,
                    "settings": [f"precision={precision}", *arguments.set],
                }
            ),
        )
    results = run / "test.csv"
    if not results.is_file():
        poscon.predict(run, arguments.source, run / "predictions", cases=test, resume=True)
        poscon.evaluate(run / "predictions", arguments.source, results)
    by_case: dict[str, list[float]] = {}
    with results.open(newline="") as file:
        for row in csv.DictReader(file):
            by_case.setdefault(row["case"], []).append(float(row["dice"]))
    return fmean(fmean(values) for values in by_case.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plane", default="coronal")
    parser.add_argument("--labelled", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not (arguments.out / "store").exists():
        poscon.prepare(arguments.source, arguments.out / "store", plane=arguments.plane)
    subjects = sorted({case.subject for case in Store(arguments.out / "store").cases})
    (arguments.out / "test.txt").write_text("\n".join(subjects[::KEPT_APART]) + "\n")
    dice = {
        seed: [test_dice(arguments, seed, precision) for precision in PRECISIONS]
        for seed in range(arguments.seeds)
    }
    exact, short = zip(*dice.values(), strict=True)
    differences = [b - a for a, b in dice.values()]
    rows = [
        *((str(seed), *pair, pair[1] - pair[0]) for seed, pair in dice.items()),
        ("mean", fmean(exact), fmean(short), fmean(differences)),
        ("standard deviation over seeds", stdev(exact), stdev(short), stdev(differences)),
    ]
    lines = [
        "| seed | float32 | bfloat16 | difference |",
        "|---|---|---|---|",
        *(f"| {name} | {a:.4f} | {b:.4f} | {d:+.4f} |" for name, a, b, d in rows),
    ]
    text = "\n".join(lines)
    print(text)
    (arguments.out / "precision.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
