"""What a study has measured, from the files that it writes to a verdict on each claim.

study.toml      the study with everything in it
runs.csv        a line for each run: its accuracy, its weights, its record
curves.csv      a line for each epoch of each run
variants.csv    parameters and FLOPs of each variant
claims.csv      a line for each claim, judged
times.csv       what each run took; the one file that differs from one time to the next

The runs of one seed are paired: they see the same batches and begin with the same weights where
shapes agree. So the estimate is the mean of the differences by seed, with its t interval. Several
claims are judged together: p values are corrected by Holm's method, and a verdict is by the
corrected one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reproduce.ablation.study import DesignClaim, Study
from reproduce.base.files import (
    NumberText,
    OptionalNumber,
    read_csv,
    read_toml,
    write_atomically,
    write_csv,
)
from reproduce.statistics.significance import LEVEL, holm, resolvable


class RunLine(BaseModel, extra='forbid', frozen=True):
    """A run: Top-1 and Top-5 on all validation images, in percent, of the last averaged weights."""

    variant: str
    seed: int
    top1: float
    top5: float
    epochs: int
    train_images: int
    train_data: str  # the fingerprint of the images
    val_images: int
    val_data: str
    labels: str  # the SHA-256 of the annotator's weights
    weights: str  # the SHA-256 of the trained weights
    record: str  # the stem of the evaluation record


class CurveLine(BaseModel, extra='forbid', frozen=True):
    """An epoch of a run; `top1` is of the averaged weights, on the images of the curves."""

    variant: str
    seed: int
    epoch: int
    loss: float
    top1: float


class VariantLine(BaseModel, extra='forbid', frozen=True):
    """A variant: parameters, and multiply-adds of one forward pass of one image."""

    variant: str
    says: str
    params: int
    layer_flops: int
    total_flops: int


class TimeLine(BaseModel, extra='forbid', frozen=True):
    """What a run took, where and when."""

    variant: str
    seed: int
    train_cpu_seconds: OptionalNumber  # of the computing process; empty for an interrupted run
    train_seconds: float
    evaluation_seconds: float
    threads: int
    device: str
    date: str


_FILES: Mapping[str, type[BaseModel]] = {
    'runs': RunLine,
    'curves': CurveLine,
    'variants': VariantLine,
    'times': TimeLine,
}


class DesignVerdict(StrEnum):
    """What a study says about a claim."""

    SUPPORTED = 'supported'
    CONTRADICTED = 'contradicted'
    UNRESOLVED = 'unresolved'


class Judgement(BaseModel, extra='forbid', frozen=True):
    """A claim and what the runs say about it; differences are in percent of Top-1."""

    claim: str
    says: str
    better: str
    worse: str
    control: bool
    paper: NumberText
    place: str
    pairs: int  # the number of seeds that both variants were trained with
    mean: OptionalNumber = None  # the mean difference, better minus worse
    low: OptionalNumber = None  # its 95 % interval, of this claim alone
    high: OptionalNumber = None
    spread: OptionalNumber = None  # the standard deviation of the differences
    p: OptionalNumber = None  # of the two-sided paired t test
    p_holm: OptionalNumber = None  # corrected for the number of claims
    # The smallest true difference that such a study finds with probability `POWER`, at the level
    # divided by the number of claims.
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
    corrected = [numbers.get('p', 1.0) for numbers in found]
    for i, p in zip(family, holm([corrected[i] for i in family]), strict=True):
        corrected[i] = p
    judged = []
    for claim, numbers, p in zip(claims, found, corrected, strict=True):
        if 'p' in numbers:
            count = 1 if claim.control else len(family)
            numbers['resolvable'] = resolvable(numbers['spread'], numbers['pairs'], count)
            numbers['p_holm'] = p
        if p < LEVEL:
            better = numbers['mean'] > 0
            numbers['verdict'] = DesignVerdict.SUPPORTED if better else DesignVerdict.CONTRADICTED
        facts = claim.model_dump(exclude={'name', 'cells'})
        judged.append(Judgement(claim=claim.name, **facts, **numbers))
    return judged


def _measured(claim: DesignClaim, top1: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    """Return the fields of a `Judgement` that follow from the pairs of this claim alone."""
    import numpy as np
    from scipy import stats

    seeds = sorted(s for v, s in top1 if v == claim.better and (claim.worse, s) in top1)
    differences = np.array([top1[claim.better, s] - top1[claim.worse, s] for s in seeds])
    numbers: dict[str, Any] = {'pairs': len(seeds)}
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


@dataclass(frozen=True)
class Outcomes:
    """What a study has measured."""

    study: Study
    runs: tuple[RunLine, ...]
    curves: tuple[CurveLine, ...]
    variants: tuple[VariantLine, ...]
    times: tuple[TimeLine, ...]

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The claims, judged by the runs."""
        return judge(self.study.claim, {(run.variant, run.seed): run.top1 for run in self.runs})

    def save(self, folder: Path) -> None:
        """Write the files into `folder`, each whole or not at all."""
        write_atomically(folder / 'study.toml', self.study.to_toml())
        for name, schema in _FILES.items():
            lines = [line.model_dump() for line in getattr(self, name)]
            write_csv(folder / f'{name}.csv', schema, lines)
        claims = [judged.model_dump(mode='json') for judged in self.judgements]
        for line in claims:
            line.update({k: f'{v:.6g}' for k, v in line.items() if isinstance(v, float)})
        write_csv(folder / 'claims.csv', Judgement, claims)


def load_studies(results: Path) -> list[Outcomes]:
    """Return what all studies in `results`/ablations have measured, by their names."""
    return [load_outcomes(path.parent) for path in sorted(results.glob('ablations/*/study.toml'))]


def load_outcomes(folder: Path) -> Outcomes:
    """Return what the study in `folder` has measured.

    Raises:
        UserError: if a file is missing or malformed.
    """
    study = read_toml(folder / 'study.toml', Study)
    lines: dict[str, Any] = {
        name: tuple(line for _, line in read_csv(folder / f'{name}.csv', schema))
        for name, schema in _FILES.items()
    }
    return Outcomes(study, **lines)
