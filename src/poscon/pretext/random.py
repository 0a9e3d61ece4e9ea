"""No pre-training: the encoder as it was initialised, so that every table can have it."""

from poscon.pretext.base import PretextMethod


class RandomInit(PretextMethod):
    """Trains nothing; ``finetune`` starts from what it initialised."""

    summary = "no pre-training: the random start that every method must beat"
    citation = "He et al., ICCV 2015 (initialisation)"
    needs = "nothing"
    trains = False
    has_head = False
