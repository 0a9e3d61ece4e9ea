"""A fine-tuning from its first step, and how many steps of it fit into a time."""

import time
from copy import deepcopy

import torch

from poscon.errors import PosconError
from poscon.finetuning import find_method
from poscon.networks.parts import SegmentationNetwork
from poscon.progress import console
from poscon.store.store import Store
from poscon.training.configuration import check_distances
from poscon.training.data import LabelledBatches, SliceReader, without_label
from poscon.training.finetune_settings import FinetuneSettings, make_learner
from poscon.training.inference import choose_device
from poscon.training.roles import Roles
from poscon.training.timing import Training, time_loop
from poscon.training.validation import mean_dice
from poscon.views import ViewMaker, canvas_size

TIMED_STEPS = 10
"""Steps whose time says how many there are in ``minutes``, after as many to warm up."""


def finetune_training(
    chosen: FinetuneSettings,
    store: Store,
    cases: Roles,
    network: SegmentationNetwork,
) -> Training:
    """The training of a network from its first step.

    Args:
        chosen: every setting; ``size`` and ``network`` are resolved.
        store: the prepared data set.
        cases: the cases by role.
        network: trained in place.
    """
    size = int(chosen.size)
    context = network.settings.context
    views = ViewMaker(chosen.views, size, store.channels)
    canvas = canvas_size(size, chosen.views)
    unlabelled, which = None, None
    if find_method(chosen.method).uses_unlabelled:
        # the other slices of a partly labelled case are data without labels
        rest = [*cases.get("unlabelled", ()), *(c for c in cases["labelled"] if c.partly_labelled)]
        unlabelled = SliceReader(store, rest, canvas, context, chosen.position)
        which = without_label(unlabelled, cases["labelled"])
    reader = SliceReader(store, cases["labelled"], canvas, context, chosen.position)
    check_distances(chosen, [reader] if unlabelled is None else [reader, unlabelled])
    batches = LabelledBatches(
        reader,
        chosen.batch,
        size,
        chosen.iterations,
        chosen.oversample_foreground,
        chosen.seed,
        chosen.checkpoint_every,
        unlabelled,
        chosen.unlabelled_batch,
        which,
    )
    device = choose_device(chosen.device)
    learner = make_learner(chosen, network, views)
    return Training(learner, views, batches, chosen.optimiser, device, chosen.precision)


def steps_within(
    minutes: float,
    chosen: FinetuneSettings,
    store: Store,
    cases: Roles,
    network: SegmentationNetwork,
) -> int:
    """How many steps fit into so many minutes from now, with their looks at validation cases.

    Raises:
        PosconError: not one does.
    """
    started = time.perf_counter()
    look = 0.0
    if watched := cases.get("validation"):
        network.to(choose_device(chosen.device))  # as the training looks at them
        mean_dice(network, store, watched, chosen)
        look = time.perf_counter() - started
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # the training itself begins as if untimed
        training = finetune_training(chosen, store, cases, deepcopy(network))
        step = time_loop(training, TIMED_STEPS, compiled=chosen.compile)
    # compilation is the most of it, and the training has it once more
    start = max(0.0, time.perf_counter() - began - 2 * TIMED_STEPS * step)
    left = minutes * 60 - (time.perf_counter() - started) - start
    steps = int(left / (step + look / chosen.checkpoint_every))
    if steps < 1:
        raise PosconError(
            f"--minutes {minutes:g}: not enough for one step, which takes {step:.2g} seconds, "
            f"after {minutes * 60 - left:.2g} seconds to find that out; give more, or --iterations"
        )
    console.print(f"{minutes:g} minutes: {steps} iterations of {step:.2g} seconds", soft_wrap=True)
    return steps
