"""nnU-Net's side of versus_nnunet.py and nnunet_start.py.

They run this file with the Python that has nnU-Net.

    python experiments/nnunet_side.py prepare DATASET ABOUT
    python experiments/nnunet_side.py train DATASET MINUTES SEED ABOUT
    python experiments/nnunet_side.py predict DATASET SCANS OUT ABOUT
    python experiments/nnunet_side.py start DATASET WEIGHTS EPOCHS ITERATIONS SEED ABOUT

``start`` trains fold 0 for some short epochs, from the weights of a file or, where WEIGHTS is
``none``, from nnU-Net's own random ones. Then nnU-Net validates. The fold is that of
``splits_final.json``.

DATASET is the name of a raw data set. The variables nnUNet_raw, nnUNet_preprocessed and
nnUNet_results say where it lies. All is nnU-Net's own default in 2-D on a CPU, with fold ``all``,
except for three things. There is one thread, while nnU-Net's own commands take all cores for a
CPU. The length of the training follows from MINUTES. The random numbers follow from SEED. ABOUT is
a JSON file with times and settings, which is written at the end.
"""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

PARTS = 50
"""nnU-Net's epoch of 250 iterations of training and 50 of validation is so many equal parts."""
PART = 5
"""Iterations of training in a part. There is one of validation."""
LEAST_EPOCHS = 10
"""nnU-Net lowers the learning rate once an epoch. A short training has shorter epochs, so that the
rate takes so many values, and not one or two."""
TRIAL = [1, 10, 1]
"""Parts of the epochs that are timed. The first warms up."""
CONFIGURATION = "2d"
FOLD = "all"
MODEL = f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
"""Where nnU-Net puts a training."""


def main(stage: str, *arguments: str) -> None:
    import torch

    torch.set_num_threads(1)
    *rest, about = arguments
    stages: dict[str, Callable[..., dict[str, Any]]]
    stages = {"prepare": prepare, "train": train, "predict": predict, "start": start}
    found = stages[stage](*rest)
    Path(about).write_text(json.dumps(found, indent=1) + "\n")


def prepare(dataset: str) -> dict[str, Any]:
    """Plan and preprocess."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    started = time.perf_counter()
    number = convert_dataset_name_to_id(dataset)
    api.extract_fingerprints([number], num_processes=1, check_dataset_integrity=True)
    api.plan_experiments([number])
    api.preprocess([number], configurations=[CONFIGURATION], num_processes=[1])
    return {"seconds": time.perf_counter() - started}


def train(dataset: str, minutes: str, seed: str) -> dict[str, Any]:
    """Time a short training, then train for as long as is asked for."""
    _, long, short = epoch_seconds(_trainer(dataset), TRIAL)
    part = (long - short) / (TRIAL[1] - TRIAL[2])
    epochs, parts = schedule(float(minutes) * 60, part, max(0.0, short - part))
    _seed(int(seed))
    trainer = _trainer(dataset)
    seconds = sum(epoch_seconds(trainer, [parts] * epochs))
    plan = trainer.configuration_manager
    return {
        "seconds": seconds,
        "iterations": epochs * parts * PART,
        "epochs": epochs,
        "batch": plan.batch_size,
        "patch": [int(pixels) for pixels in plan.patch_size],
        "features": plan.network_arch_init_kwargs["features_per_stage"],
    }


def predict(dataset: str, scans: str, out: str) -> dict[str, Any]:
    """Segment a folder of scans with mirroring, as nnU-Net does by default."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.paths import nnUNet_results

    started = time.perf_counter()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    model = Path(nnUNet_results) / dataset / MODEL
    predictor.initialize_from_trained_model_folder(str(model), (FOLD,))
    predictor.predict_from_files_sequential(scans, out)
    return {"seconds": time.perf_counter() - started}


def start(dataset: str, weights: str, epochs: str, iterations: str, seed: str) -> dict[str, Any]:
    """Train from weights or from none, for epochs of some iterations, and validate.

    Both begin with the same random numbers, so they see the same batches. An iteration of
    validation goes with every two of training.
    """
    from nnunetv2.run.run_training import maybe_load_checkpoint

    _seed(int(seed))
    trainer = _trainer(dataset, fold=0)
    trainer.num_epochs = int(epochs)  # the schedule of the learning rate is made of it
    trainer.num_iterations_per_epoch = int(iterations)
    trainer.num_val_iterations_per_epoch = max(1, int(iterations) // 2)
    trainer.initialize()
    maybe_load_checkpoint(trainer, False, False, None if weights == "none" else weights)
    _seed(int(seed))
    started = time.perf_counter()
    trainer.run_training()
    seconds = time.perf_counter() - started
    trainer.perform_actual_validation(False)
    output = Path(trainer.output_folder)
    validation = json.loads((output / "validation" / "summary.json").read_text())
    plan = trainer.configuration_manager
    return {
        "seconds": seconds,
        "log": trainer.log_file,
        "dice": [
            fmean(measured["Dice"] for measured in case["metrics"].values())
            for case in validation["metric_per_case"]
        ],
        "batch": plan.batch_size,
        "patch": [int(pixels) for pixels in plan.patch_size],
        "features": plan.network_arch_init_kwargs["features_per_stage"],
    }


def schedule(seconds: float, part: float, between: float) -> tuple[int, int]:
    """The number of epochs, and of parts in each, that fill a time.

    An epoch has as many parts as nnU-Net's own, or fewer.

    Args:
        seconds: how long the training may take.
        part: how long a part of an epoch takes, in seconds.
        between: how long nnU-Net takes at the end of an epoch, in seconds.

    Raises:
        ValueError: there is no time for the least number of epochs.
    """
    epochs = max(LEAST_EPOCHS, math.ceil(seconds / (PARTS * part + between)))
    parts = int((seconds / epochs - between) / part)
    if parts < 1:
        raise ValueError(
            f"{LEAST_EPOCHS} epochs take at least {LEAST_EPOCHS * (part + between) / 60:.2g} "
            "minutes here; give more --minutes"
        )
    return epochs, parts


def epoch_seconds(trainer: Any, parts: Sequence[int]) -> list[float]:
    """Train for epochs of so many parts each; how many seconds each took, with its end."""
    begun: list[float] = []
    begin = trainer.on_epoch_start

    def on_epoch_start() -> None:
        trainer.num_val_iterations_per_epoch = parts[len(begun)]
        trainer.num_iterations_per_epoch = PART * parts[len(begun)]
        begun.append(time.perf_counter())
        begin()

    trainer.on_epoch_start = on_epoch_start
    trainer.num_epochs = len(parts)
    trainer.run_training()
    ended = [*begun[1:], time.perf_counter()]
    return [b - a for a, b in zip(begun, ended, strict=True)]


def _trainer(dataset: str, fold: int | str = FOLD) -> Any:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(dataset, CONFIGURATION, fold, device=torch.device("cpu"))


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
