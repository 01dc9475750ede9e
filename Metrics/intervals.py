"""95 % intervals of what is measured on one set of images, and what endless images would give.

Both follow from the values without each of a few groups of the images (`Metrics.jackknife`).
"""

from collections.abc import Sequence
from statistics import fmean

from scipy.special import stdtrit

from Metrics.jackknife import standard_error

SHARE = 0.95
PER_FEATURE = 3  # at 1 image a feature an extrapolated distance falls below 0


def interval(centre: float, without: Sequence[float]) -> tuple[float, float]:
    """About a number, from those without each of g groups: Student's t of g - 1, 2.26 at g = 10."""
    reach = stdtrit(len(without) - 1, (1 + SHARE) / 2).item() * standard_error(without)
    return centre - reach, centre + reach


def extrapolated(value: float, without: Sequence[float]) -> float:
    """A Fréchet distance at endlessly many images, from that of all and those without each group.

    A finite set adds c / N to it, and c depends on what is measured (Chong & Forsyth 2020): so
    distances of different numbers of images are not comparable, and these are. Of the line through
    N and N (g - 1) / g images this is the value at 1 / N = 0, which is also the jackknife's
    correction of a bias (Quenouille 1956). It takes about PER_FEATURE images a feature: below, the
    distance is no such line yet.
    """
    num_groups = len(without)
    return num_groups * value - (num_groups - 1) * fmean(without)
