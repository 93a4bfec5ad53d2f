"""Intervals of proportions, in closed form."""

import math
from statistics import NormalDist


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of `count` successes out of `n`, in percent.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22
    (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = count / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    Under the null hypothesis an image on which two systems differ is as likely won as lost, so that
    their number is binomial; twice the smaller tail, at most 1.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12 (1947).

    Args:
        lost, won: the images that only the first, and only the second, has right.
    """
    n, smaller = lost + won, min(lost, won)
    ways, tail = 1, 1  # in integers, and thus exact
    for i in range(smaller):
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def paired_interval(lost: int, won: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the difference of two proportions of the same `n` images, in percent.

    D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).

    Args:
        lost, won: the images that only the first, and only the second, has right.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first, second = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    centre = second - first
    half = z * math.sqrt((first + second - centre**2) / (n + 2))
    return 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half)
