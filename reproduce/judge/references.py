"""Evaluations compared with published or earlier values of the same weights."""

from dataclasses import dataclass
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.evaluate.records import Evaluation
from reproduce.judge.verdict import Verdict, judge_reference
from reproduce.paper import load_tolerances
from reproduce.statistics import kept
from reproduce.statistics.paired import Difference, paired
from reproduce.weights import registry
from reproduce.weights.registry import Reference, Released

# A reference may have two decimals only; the counts of its images give all.
_ROUNDING = 0.005 + 1e-9


@dataclass(frozen=True)
class ReferenceCheck:
    """An evaluation and the reference of its weights.

    Attributes:
        release: the released weights that were evaluated, if they are some.
        reference: what they score on these images according to their publisher, if that is known.
        verdicts: on each metric of the reference that was measured.
    """

    release: Released | None
    reference: Reference | None
    verdicts: dict[str, Verdict]

    @property
    def protocol(self) -> str:
        """How the weights differ from what the paper's row is about; '' if they do not."""
        return self.release.protocol if self.release else ''

    def value(self, metric: str) -> float | None:
        """Return the published value of `metric`, in percent, if there is one."""
        return self.reference and self.reference.metrics.get(metric)

    def verdict(self, metric: str) -> Verdict:
        """Return the verdict on `metric`, which was measured."""
        return self.verdicts.get(metric, Verdict.UNPRINTED)


def check_reference(
    evaluation: Evaluation, release: Released | None = None, reference: Reference | None = None
) -> ReferenceCheck:
    """Compare an evaluation with the published values of its weights on its images.

    Args:
        release, reference: those to compare with; by default the registered ones, of the weights
            that the record names by hash or by name.
    """
    data, weights = evaluation.data, evaluation.checkpoint
    if release is None:
        release = registry.released(weights.sha256, weights.released)
    if reference is None and release is not None:
        reference = release.reference_on(data.fingerprint, data.complete)
    tolerance = load_tolerances()['reference']
    verdicts = {
        metric: judge_reference(evaluation.metrics[metric], value, data.images, tolerance)
        for metric, value in (reference.metrics if reference else {}).items()
        if metric in evaluation.metrics
    }
    return ReferenceCheck(release, reference, verdicts)


def compare_counts(reference: Reference, counts: Path, manifest: Path) -> dict[str, Difference]:
    """Return the difference from the reference of each of its metrics, tested image by image.

    Args:
        reference: one with counts of each image, whose file is in the folder of the manifest.
        counts: the file of the counts of this evaluation.

    Raises:
        UserError: if a file cannot be read, or the reference's is not of its values and of the
            same images.
    """
    path = manifest.parent / reference.statistics
    then, now = kept.read(path), kept.read(counts)
    values = then.statistics.metrics()
    unlike = [
        name
        for name, value in reference.metrics.items()
        if abs(values.get(name, float('inf')) - value) > _ROUNDING
    ]
    if then.images != now.images or type(then.statistics) is not type(now.statistics) or unlike:
        what = f'other values of {", ".join(unlike)}' if unlike else 'other images'
        raise UserError(f'{path} is of {what} than the reference: accept the reference again.')
    found = paired(then.statistics, now.statistics).metrics
    return {name: found[name] for name in reference.metrics if name in found}
