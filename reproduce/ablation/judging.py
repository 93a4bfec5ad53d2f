"""From the accuracies of a study's runs to a verdict on each claim.

The runs of one seed are paired: they see the same batches and begin with the same weights where
shapes agree. So the estimate is the mean of the differences by seed, with its t interval. Several
claims are judged together: p values are corrected by Holm's method, and a verdict is by the
corrected one.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from reproduce.ablation.study import DesignClaim
from reproduce.base.files import NumberText, OptionalNumber
from reproduce.statistics.significance import LEVEL, holm, resolvable


class DesignVerdict(StrEnum):
    """What a study says about a claim."""

    SUPPORTED = 'supported'
    CONTRADICTED = 'contradicted'
    UNRESOLVED = 'unresolved'


class Judgement(BaseModel):
    """A claim and what the runs say about it; differences are in percent of Top-1.

    Attributes:
        claim, says, better, worse, control, paper, place, note: as in a `DesignClaim`.
        pairs: the number of seeds that both variants were trained with.
        mean: the mean difference, better minus worse; None without a pair.
        low, high: its 95 % interval, of this claim alone; None with fewer than two pairs.
        spread: the standard deviation of the differences.
        p, p_holm: of the two-sided paired t test, and corrected for the number of claims.
        resolvable: the smallest true difference that such a study finds with probability `POWER`,
            at the level divided by the number of claims.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    claim: str
    says: str
    better: str
    worse: str
    control: bool
    paper: NumberText
    place: str
    pairs: int
    mean: OptionalNumber = None
    low: OptionalNumber = None
    high: OptionalNumber = None
    spread: OptionalNumber = None
    p: OptionalNumber = None
    p_holm: OptionalNumber = None
    resolvable: OptionalNumber = None
    verdict: DesignVerdict = DesignVerdict.UNRESOLVED
    note: str


def judge(claims: Sequence[DesignClaim], top1: Mapping[tuple[str, int], float]) -> list[Judgement]:
    """Judge claims by the Top-1 of runs, by variant and seed.

    Controls check the study: each is judged at the full level, and they are not counted among the
    claims that the level is divided by.
    """
    found = [_measured(claim, top1) for claim in claims]
    family = [i for i, claim in enumerate(claims) if not claim.control]
    corrected = {i: numbers.get('p', 1.0) for i, numbers in enumerate(found)}
    corrected |= dict(zip(family, holm([corrected[i] for i in family]), strict=True))
    judged = []
    for i, (claim, numbers) in enumerate(zip(claims, found, strict=True)):
        if 'p' in numbers:
            numbers['p_holm'] = corrected[i]
            count = 1 if claim.control else len(family)
            numbers['resolvable'] = resolvable(numbers['spread'], numbers['pairs'], count)
        if corrected[i] < LEVEL:
            better = numbers['mean'] > 0
            numbers['verdict'] = DesignVerdict.SUPPORTED if better else DesignVerdict.CONTRADICTED
        facts = claim.model_dump(exclude={'name', 'cells'})
        judged.append(Judgement(claim=claim.name, **facts, **numbers))
    return judged


def _measured(claim: DesignClaim, top1: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Return the fields of a `Judgement` that follow from the pairs of this claim alone."""
    import numpy as np
    from scipy import stats

    seeds = sorted(s for v, s in top1 if v == claim.better and (claim.worse, s) in top1)
    differences = np.array([top1[claim.better, s] - top1[claim.worse, s] for s in seeds])
    numbers = {'pairs': len(seeds)}
    if len(seeds):
        numbers['mean'] = float(differences.mean())
    if len(seeds) > 1:
        numbers['spread'] = float(differences.std(ddof=1))
        if numbers['spread'] == 0:
            low = high = numbers['mean']
            numbers['p'] = 1.0 if numbers['mean'] == 0 else 0.0
        else:
            test = stats.ttest_1samp(differences, 0)
            numbers['p'] = float(test.pvalue)
            low, high = test.confidence_interval(0.95)
        numbers |= {'low': float(low), 'high': float(high)}
    return numbers
