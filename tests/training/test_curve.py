"""Whether a curve still rose at its end."""

import numpy as np
import pytest
from scipy.stats import linregress

from poscon.training.curve import LEAST, rise_at_end


@pytest.mark.parametrize("seed", range(20))
def test_the_rise_is_that_of_the_fitted_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = 0.8 + rng.uniform(-0.01, 0.01) * np.arange(18) + rng.normal(0, 0.01, 18)
    line = linregress(np.arange(6), values[-6:])
    counts = 5 * line.slope >= LEAST and line.slope >= 2 * line.stderr
    assert rise_at_end(list(values)) == pytest.approx(5 * line.slope if counts else 0.0)


def test_a_curve_that_is_flat_at_its_end_does_not_rise() -> None:
    rng = np.random.default_rng(0)
    risen = [*np.linspace(0.2, 0.8, 20), *(0.8 + rng.normal(0, 0.002, 12))]
    assert rise_at_end(risen) == 0.0
    assert rise_at_end(list(np.linspace(0.8, 0.7, 12))) == 0.0


def test_a_curve_that_still_rises_does() -> None:
    assert rise_at_end([0.1, 0.3, 0.5, 0.6, 0.7, 0.8]) == pytest.approx(0.3)


def test_three_values_say_nothing() -> None:
    assert rise_at_end([0.1, 0.5, 0.9]) == 0.0
    assert rise_at_end([]) == 0.0
