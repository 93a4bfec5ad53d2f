"""Evaluations compared with published or earlier values of the same weights."""

from typing import NamedTuple

from reproduce.evaluate.records import Evaluation
from reproduce.judge.verdict import Verdict, judge_reference
from reproduce.paper import load_tolerances
from reproduce.weights import registry
from reproduce.weights.registry import Reference, Released


class ReferenceCheck(NamedTuple):
    """An evaluation and the reference of its weights."""

    protocol: str  # how these differ from what the paper's row is about, if that is registered
    reference: Reference | None  # what they score on these images according to their publisher
    verdicts: dict[str, Verdict]  # on each metric of the reference that was measured

    def value(self, metric: str) -> float | None:
        """Return the published value of `metric`, in percent, if there is one."""
        return self.reference.metrics.get(metric) if self.reference else None


def check_reference(
    evaluation: Evaluation, release: Released | None = None, reference: Reference | None = None
) -> ReferenceCheck:
    """Compare an evaluation with the published values of its weights on its images.

    Args:
        release, reference: those to compare with; by default the registered ones, of the weights
            that the record names by hash or by name, unless other options were set by hand.
    """
    data, weights = evaluation.data, evaluation.checkpoint
    if release is None:
        release = registry.released(weights.sha256, weights.released)
    by_hand = {*evaluation.set_by_hand}
    if reference is None and release and by_hand <= {*release.preprocessing, *release.arguments}:
        reference = release.reference_on(data.fingerprint, data.complete)
    tolerance = load_tolerances()['reference']
    verdicts = {
        metric: judge_reference(evaluation.metrics[metric], value, data.images, tolerance)
        for metric, value in (reference.metrics if reference else {}).items()
        if metric in evaluation.metrics
    }
    return ReferenceCheck(release.protocol if release else '', reference, verdicts)
