"""What decides pass or fail: one measured value against one target."""

import math
from enum import StrEnum

from reproduce.paper import Direction, Metric, Printed, Tolerance


class Verdict(StrEnum):
    """The verdict on a cell; every cell has one."""

    MATCH = 'match'  # within the tolerance of the target
    BETTER = 'better'  # beyond it on the good side (accuracy only)
    WORSE = 'worse'  # outside the tolerance
    KNOWN = 'known'  # outside, and registered with the reason
    UNPRINTED = 'unprinted'  # measured, and the target has no value
    NOT_RUN = 'not-run'  # no checkpoint, no data
    CITED = 'cited'  # no implementation here, the paper's value is carried
    ERROR = 'error'  # it should have run, and failed

    @property
    def measured(self) -> bool:
        return self not in (Verdict.NOT_RUN, Verdict.CITED, Verdict.ERROR)


class Agreement(StrEnum):
    """How a value that a publisher states compares with the one that the paper prints."""

    AGREES = 'agrees'  # within rounding and seeds of the printed value
    HIGHER = 'higher'  # the publisher's is above that
    LOWER = 'lower'  # the publisher's is below that


def compare_published(published: float, printed: Printed, tolerance: Tolerance) -> Agreement:
    """Compare the value that a publisher states with the `printed` one.

    Both were measured on the same images, so that these add no difference.
    """
    difference = published - printed.value
    # Both have few decimals: what is a binary fraction beyond the tolerance is on its edge.
    if abs(difference) <= tolerance.width_of_seeds(printed) + 1e-9:
        return Agreement.AGREES
    return Agreement.HIGHER if difference > 0 else Agreement.LOWER


def judge(
    metric: Metric, measured: float, target: Printed | None, tolerance: Tolerance, known: bool
) -> Verdict:
    """Compare `measured` with the printed `target`.

    Args:
        known: whether the cell is registered as a known deviation. One that matches all the same
            is an error, so that the register stays true.
    """
    if not math.isfinite(measured):
        return Verdict.ERROR
    if target is None:
        return Verdict.UNPRINTED
    difference = measured - target.value
    if abs(difference) <= tolerance.width(target):
        return Verdict.ERROR if known else Verdict.MATCH
    if difference > 0 and metric.direction is Direction.HIGHER:
        return Verdict.BETTER
    return Verdict.KNOWN if known else Verdict.WORSE


def judge_reference(
    measured: float, target: float | None, images: int, tolerance: Tolerance
) -> Verdict:
    """Compare an accuracy with what the same weights scored on the same images.

    Args:
        measured, target: in percent; without a target there is nothing to compare with.
        images: how many images; on few of them one image may be more than `tolerance` allows.
    """
    if not math.isfinite(measured):
        return Verdict.ERROR
    if target is None:
        return Verdict.UNPRINTED
    width = max(tolerance.width(Printed(str(target))), 100 / images)
    if abs(measured - target) <= width + 1e-9:  # one image is one image, whatever its rounding
        return Verdict.MATCH
    return Verdict.BETTER if measured > target else Verdict.WORSE
