"""The network that a fine-tuning starts from: random, or with the weights of a pre-training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from poscon.errors import PosconError
from poscon.leakage import describe, roles_by_pixels
from poscon.networks.build import build_network
from poscon.networks.checkpoints import Checkpoint
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings, fit_channels
from poscon.networks.weights import load_by_name
from poscon.progress import console
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.names import Names, names_place, read_names
from poscon.store.store import Store
from poscon.store.training_range import TrainingRange
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.start import read_start, seen_before


def initial_network(
    chosen: FinetuneSettings,
    init: Path | str | None,
    store: Store,
    cases: Sequence[CaseRecord],
) -> tuple[SegmentationNetwork, str | None]:
    """The network to start from, and a report of what was loaded.

    Args:
        chosen: the settings.
        init: the pre-training run, or file, whose weights are loaded; None: random weights.
        store: the prepared data set.
        cases: the cases to learn from, with labels or without.

    Raises:
        PosconError: the weights cannot be read, or are of another architecture.
    """
    n_classes = len(store.class_names) + 1
    torch.manual_seed(stream(chosen.seed, "initialisation"))
    if init is None:
        settings = fit_channels(chosen.network or NetworkSettings(), store.channels, store.path)
        return build_network(settings, n_classes), None
    start = read_start(Path(init), chosen.init_parts)
    theirs = fit_channels(start.settings, store.channels, store.path)
    ours = chosen.network and fit_channels(chosen.network, store.channels, store.path)
    if ours not in (None, theirs):
        differing = _differences(theirs.model_dump(), ours.model_dump())
        raise PosconError(f"{start.path}: a checkpoint of another architecture ({differing})")
    _say_prepared_otherwise(start, store, cases)
    network = build_network(theirs, n_classes)
    reports = []
    for part, tensors in start.parts.items():
        report = load_by_name(network.get_submodule(part), tensors, where=str(start.path))
        reports.append(f"{part}: {report}")
    if start.unused:
        more = ", ..." * (len(start.unused) > 3)
        reports.append(
            f"{len(start.unused)} other tensors not used ({', '.join(start.unused[:3])}{more})"
        )
    loaded = "; ".join(reports)
    console.print(f"from {init}: {loaded}", soft_wrap=True, markup=False)
    return network, loaded


def _say_prepared_otherwise(start: Checkpoint, store: Store, cases: Sequence[CaseRecord]) -> None:
    """A note on stderr if the weights were trained on other slices, or do not say on what."""
    if not start.about:
        text = f"{start.path} does not say how the slices were prepared that it was trained on"
    else:
        here = {
            **store.manifest.preparation.model_dump(mode="json"),
            **TrainingRange.of(store, cases).words,
        }
        words = TrainingRange.read(start.about, start.path).words
        there = {**start.about.get("preparation", {}), **words}
        if there == here:
            return
        text = (
            f"{start.path} was pre-trained on slices prepared otherwise "
            f"({_differences(there, here)})"
        )
    console.print(f"note: {text}", soft_wrap=True, markup=False)


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    return ", ".join(
        f"other {key}"
        if dict in map(type, (theirs.get(key), ours.get(key)))
        else f"{key} {theirs.get(key)} there, {ours.get(key)} here"
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key)
    )


def check_unseen(
    store: Store,
    init: Path | str | None,
    exclude: Names | None,
    validation: Sequence[CaseRecord],
    transductive: bool,
) -> None:
    """Refuse a start that has seen the cases which are kept apart, unless that is meant.

    Raises:
        PosconError: it has, or ``transductive`` has nothing to allow.
    """
    apart = list(validation)
    if exclude is not None:
        named = store.select(read_names(exclude), where=names_place(exclude))
        subjects = {c.subject for c in named}
        apart += [c for c in store.cases if c.subject in subjects]
    known = {} if init is None else roles_by_pixels(seen_before(Path(init)))
    seen = {c.id: known[c.pixels_sha256] for c in apart if c.pixels_sha256 in known}
    if seen and not transductive:
        raise PosconError(
            f"--init {init}: {describe(seen)}, which --exclude or --validation keeps apart; "
            "pre-train without them (pretrain --exclude), or say --set transductive=true and "
            "report it"
        )
    if transductive and not seen:
        raise PosconError(
            "setting transductive: has no effect, no excluded or validation case was pre-trained on"
        )
