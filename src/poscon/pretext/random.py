"""No pre-training: a randomly initialised encoder, as the baseline of every comparison."""

from poscon.pretext.base import PretextMethod


class RandomInit(PretextMethod):
    """Trains nothing. ``finetune`` starts from the random initialisation."""

    summary = "no pre-training: the random start that every method must beat"
    citation = "He et al., ICCV 2015 (initialisation)"
    needs = "nothing"
    trains = False
    has_head = False
