"""From the accuracies of a study's runs to a verdict on each claim.

The runs of one seed are paired: they see the same batches and begin with the same weights where
shapes agree. So the estimate is the mean of the differences by seed, with its t interval. Several
claims are judged together: p values are corrected by Holm's method, and a verdict is by the
corrected one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

import numpy as np

from reproduce.ablation.study import DesignClaim

LEVEL = 0.05  # of all claims of a study together
POWER = 0.8


class DesignVerdict(StrEnum):
    """What a study says about a claim."""

    SUPPORTED = 'supported'
    CONTRADICTED = 'contradicted'
    UNRESOLVED = 'unresolved'


@dataclass(frozen=True)
class Judgement:
    """A claim and what the runs say about it; differences are in percent of Top-1.

    Attributes:
        pairs: the number of seeds that both variants were trained with.
        mean: the mean difference, better minus worse; NaN without a pair.
        low, high: its 95 % interval, of this claim alone; NaN with fewer than two pairs.
        spread: the standard deviation of the differences.
        p, p_holm: of the two-sided paired t test, and corrected for the number of claims.
        resolvable: the smallest true difference that such a study finds in four of five cases, at
            the level that all claims together leave to one.
    """

    claim: DesignClaim
    pairs: int
    mean: float
    low: float
    high: float
    spread: float
    p: float
    p_holm: float
    resolvable: float
    verdict: DesignVerdict


def judge(claims: Sequence[DesignClaim], top1: Mapping[tuple[str, int], float]) -> list[Judgement]:
    """Judge claims by the Top-1 of runs, by variant and seed.

    Controls are no claims of the paper: each is judged at the full level, and they do not make the
    paper's claims harder to support.
    """
    differences = [_differences(claim, top1) for claim in claims]
    tests = [_tested(d) for d in differences]
    family = [i for i, claim in enumerate(claims) if not claim.control]
    corrected = {i: test[2] for i, test in enumerate(tests)}
    corrected |= dict(zip(family, holm([tests[i][2] for i in family]), strict=True))
    found = []
    for i, (claim, d) in enumerate(zip(claims, differences, strict=True)):
        low, high, p = tests[i]
        mean = float(np.mean(d)) if d else float('nan')
        spread = float(np.std(d, ddof=1)) if len(d) > 1 else float('nan')
        verdict = DesignVerdict.UNRESOLVED
        if corrected[i] < LEVEL:
            verdict = DesignVerdict.SUPPORTED if mean > 0 else DesignVerdict.CONTRADICTED
        least = resolvable(spread, len(d), 1 if claim.control else len(family))
        found.append(
            Judgement(claim, len(d), mean, low, high, spread, p, corrected[i], least, verdict)
        )
    return found


def _differences(claim: DesignClaim, top1: Mapping[tuple[str, int], float]) -> list[float]:
    seeds = sorted({seed for _, seed in top1})
    return [
        top1[claim.better, seed] - top1[claim.worse, seed]
        for seed in seeds
        if (claim.better, seed) in top1 and (claim.worse, seed) in top1
    ]


def _tested(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the 95 % interval of the mean, and the p value of the paired t test."""
    from scipy import special  # here: the report, which only shows results, need not wait for it

    n = len(differences)
    if n < 2:
        return float('nan'), float('nan'), 1.0
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / sqrt(n)
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    half = float(special.stdtrit(n - 1, 0.975)) * error
    return mean - half, mean + half, float(2 * special.stdtr(n - 1, -abs(mean) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down method."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind='stable')):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def resolvable(spread: float, pairs: int, claims: int) -> float:
    """Return the smallest true difference that is found with probability `POWER`.

    It is that of the two-sided paired t test at the level `LEVEL / claims`, by the noncentral t
    distribution; NaN with fewer than two pairs.

    Args:
        spread: the standard deviation of the differences.
        pairs: the number of differences.
        claims: how many share the level.
    """
    from scipy import special  # here: the report, which only shows results, need not wait for it

    if pairs < 2 or not spread >= 0:
        return float('nan')
    df = pairs - 1
    critical = special.stdtrit(df, 1 - LEVEL / claims / 2)
    shift = special.nctdtrinc(df, 1 - POWER, critical)
    return float(shift) * spread / sqrt(pairs)
