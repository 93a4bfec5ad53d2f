"""The files that a study writes, small enough to be committed.

study.toml      the study with everything in it
runs.csv        a line for each run: its accuracy, its weights, its record
curves.csv      a line for each epoch of each run
variants.csv    parameters and FLOPs of each variant
claims.csv      a line for each claim, judged
times.csv       what each run took; the one file that differs from one time to the next
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce.ablation.judging import Judgement, judge
from reproduce.ablation.study import Study
from reproduce.base.files import (
    OptionalNumber,
    check_writable,
    read_csv,
    read_toml,
    write_atomically,
    write_csv,
)


class _Line(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class RunLine(_Line):
    """A run: Top-1 and Top-5 on all validation images, in percent, of the last averaged weights.

    `train_data` and `val_data` are fingerprints of the images, `weights` and `labels` SHA-256 of
    the trained weights and of the annotator's, and `record` is the stem of the evaluation record.
    """

    variant: str
    seed: int
    top1: float
    top5: float
    epochs: int
    train_images: int
    train_data: str
    val_images: int
    val_data: str
    labels: str
    weights: str
    record: str


class CurveLine(_Line):
    """An epoch of a run; `top1` is of the averaged weights, on the images of the curves."""

    variant: str
    seed: int
    epoch: int
    loss: float
    top1: float


class VariantLine(_Line):
    """A variant: parameters, and multiply-adds of one forward pass of one image."""

    variant: str
    says: str
    params: int
    layer_flops: int
    total_flops: int


class TimeLine(_Line):
    """What a run took, where and when.

    `train_cpu_seconds` is of the computing process, which other work on the machine does not
    lengthen much; it is empty for a run that was interrupted.
    """

    variant: str
    seed: int
    train_cpu_seconds: OptionalNumber
    train_seconds: float
    evaluation_seconds: float
    threads: int
    device: str
    date: str


_FILES: Mapping[str, type[_Line]] = {
    'runs': RunLine,
    'curves': CurveLine,
    'variants': VariantLine,
    'times': TimeLine,
}


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
        """Write the files into `folder`, each whole or not at all.

        Raises:
            UserError: if one cannot be written.
        """
        check_writable(folder)
        write_atomically(folder / 'study.toml', self.study.to_toml())
        for name, schema in _FILES.items():
            lines = [line.model_dump() for line in getattr(self, name)]
            write_csv(folder / f'{name}.csv', schema, lines)
        claims = [judged.model_dump(mode='json') for judged in self.judgements]
        for line in claims:
            line.update({k: f'{v:.6g}' for k, v in line.items() if isinstance(v, float)})
        write_csv(folder / 'claims.csv', Judgement, claims)


def load_outcomes(folder: Path) -> Outcomes:
    """Return what the study in `folder` has measured.

    Raises:
        UserError: if a file is missing or malformed.
    """
    study = read_toml(folder / 'study.toml', Study)
    lines = {
        name: tuple(line for _, line in read_csv(folder / f'{name}.csv', schema))
        for name, schema in _FILES.items()
    }
    return Outcomes(study, **lines)
