"""Intervals and tests of proportions, the correction for several tests, and power."""

import math
from collections.abc import Sequence

LEVEL = 0.05  # a difference with a smaller p value is called significant
POWER = 0.8

# SciPy and statsmodels take up to a second to import, which commands that only show results do not
# wait for: every function imports what it calls.


def wilson(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `count` successes out of `n`, in percent."""
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(0.95, 'wilson')
    return 100 * float(low), 100 * float(high)


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    Only the first system classifies `lost` images correctly, only the second one `won`.
    """
    from scipy.stats import binomtest

    return float(binomtest(won, lost + won).pvalue) if lost + won else 1.0


def paired_interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two proportions of `n` images, in percent.

    D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).
    """
    from scipy.special import ndtri

    first, second = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    centre = second - first
    half = float(ndtri(0.975)) * math.sqrt((first + second - centre**2) / (n + 2))
    return 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down method, in the same order."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(ps, method='holm')[1].tolist() if len(ps) else []


def resolvable(deviation: float, pairs: int, tests: int = 1) -> float:
    """Return the smallest true difference that a test finds with a probability of `POWER`.

    The test is the two-sided paired t test at the level `LEVEL / tests`; its power is by the
    noncentral t distribution.

    Args:
        deviation: the standard deviation of the differences of pairs.
        pairs: the number of pairs: of images, or of trained networks.
        tests: how many tests share the level.

    Returns:
        the difference in the unit of `deviation`; NaN with fewer than two pairs.
    """
    from scipy.special import nctdtrinc, stdtrit

    if pairs < 2 or not deviation >= 0:
        return math.nan
    critical = stdtrit(pairs - 1, 1 - LEVEL / tests / 2)
    return float(nctdtrinc(pairs - 1, 1 - POWER, critical)) * deviation / math.sqrt(pairs)
