"""Say when a class has died out in pseudo-labels, and when it is back."""

from collections.abc import Sequence

from poscon.finetuning.guard import ClassGuard
from poscon.progress import console


class LostClassWatch:
    """Prints a note on stderr, once for each class that is lost, and once when it is back.

    Args:
        guard: the guard of the method.
        class_names: the foreground classes.
    """

    def __init__(self, guard: ClassGuard, class_names: Sequence[str]) -> None:
        self.guard = guard
        self.names = ["background", *class_names]
        self.lost: set[int] = set()

    def __call__(self, row: dict[str, float]) -> None:
        """Look at the steps since the last call. ``row`` is their row of metrics.csv."""
        lost = set(self.guard.lost_lately())
        for classes, what in (
            (lost - self.lost, "have lost {}; they do not count until it is back"),
            (self.lost - lost, "have {} again, so they count again"),
        ):
            for index in sorted(classes):
                console.print(
                    f"note: by step {row['step']:.0f} the pseudo-labels "
                    + what.format(self.names[index]),
                    soft_wrap=True,
                    markup=False,
                )
        self.lost = lost
