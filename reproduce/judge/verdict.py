"""What decides pass or fail: one measured value against one target."""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from reproduce.paper import Metric, Printed, Tolerance


class Verdict(StrEnum):
    """The verdict on a cell; every cell has one."""

    MATCH = 'match'  # within the tolerance of the target
    BETTER = 'better'  # beyond the tolerance, on the good side (accuracies only)
    WORSE = 'worse'  # outside the tolerance
    KNOWN = 'known'  # outside the tolerance, for a registered reason
    UNRESOLVED = 'unresolved'  # outside the tolerance, registered, and nobody knows the reason
    UNPRINTED = 'unprinted'  # measured; there is no value to compare it with
    NOT_RUN = 'not-run'  # not measured yet
    CITED = 'cited'  # no implementation here, the printed value is carried
    ERROR = 'error'  # should have been measured, and failed

    @property
    def about(self) -> 'About':
        """How it is shown, and what it makes of the exit status."""
        return _ABOUT[self]


# Of cells that are outside their tolerance and registered, with or without a reason.
REGISTERED = (Verdict.KNOWN, Verdict.UNRESOLVED)


class About(NamedTuple):
    """How a verdict is shown, and what it makes of the exit status."""

    phrase: str = ''  # what a number of such cells do; '' where sentences do not count them
    symbol: str = ''  # next to a number
    colour: str = ''  # in a terminal, and on the page the one of that name in its palette
    status: int = 0  # the exit status of a command that judges a cell so


_ABOUT = {
    Verdict.MATCH: About('match the paper', '✓', 'green'),
    Verdict.BETTER: About('are better', '▲', 'blue'),
    Verdict.WORSE: About('are worse', '✗', 'red', status=1),
    Verdict.KNOWN: About('deviate for a registered reason', '≈', 'yellow'),
    Verdict.UNRESOLVED: About('deviate for no reason that was found', '?', 'yellow'),
    Verdict.UNPRINTED: About('have no printed value', '', 'cyan'),
    Verdict.NOT_RUN: About(colour='white'),
    Verdict.CITED: About(symbol='◦'),
    Verdict.ERROR: About('could not be measured', '!', 'magenta', status=2),
}


class Agreement(StrEnum):
    """How a value that a publisher states compares with the one that the paper prints."""

    SAME = 'same'  # it rounds to the printed value
    CLOSE = 'close'  # as close as another training with the same recipe may be
    HIGHER = 'higher'
    LOWER = 'lower'

    @property
    def agrees(self) -> bool:
        """Whether rounding or another seed explains the difference."""
        return self in (Agreement.SAME, Agreement.CLOSE)

    @property
    def symbol(self) -> str:
        """The symbol next to a number."""
        return {'same': '=', 'close': '~', 'higher': '↑', 'lower': '↓'}[self]

    @property
    def meaning(self) -> str:
        """What it says of a published value."""
        as_close = 'as close to the paper as another seed may be'
        return {'same': 'the same as in the paper', 'close': as_close}.get(
            self, f'{self} than in the paper'
        )


def exit_status(verdicts: Iterable[Verdict], strict: bool = False) -> int:
    """Return the highest exit status of the verdicts; with `strict` at least 1 for a `not-run`."""
    return max(
        (max(v.about.status, int(strict and v is Verdict.NOT_RUN)) for v in verdicts), default=0
    )


def compare_published(published: float, printed: Printed, tolerance: Tolerance) -> Agreement:
    """Compare the value that a publisher states with the `printed` one.

    Both were measured on the same images, so that these add no difference.
    """
    difference = published - printed.value
    # Both have few decimals: what is a binary fraction beyond a limit is on it.
    distance = abs(difference) - 1e-9
    if distance <= printed.half_unit:
        return Agreement.SAME
    if distance <= tolerance.width_of_seeds(printed):
        return Agreement.CLOSE
    return Agreement.HIGHER if difference > 0 else Agreement.LOWER


def judge(
    metric: Metric,
    measured: float,
    target: Printed | None,
    tolerance: Tolerance,
    registered: Verdict | None = None,
) -> Verdict:
    """Compare `measured` with the printed `target`.

    Args:
        registered: the verdict on a cell that is registered as deviating. One that matches all the
            same is an error, so that the register stays true.
    """
    if not math.isfinite(measured):
        return Verdict.ERROR
    if target is None:
        return Verdict.UNPRINTED
    difference = measured - target.value
    if abs(difference) <= tolerance.width(target):
        return Verdict.ERROR if registered else Verdict.MATCH
    if difference > 0 and not metric.is_complexity:
        return Verdict.BETTER
    return registered or Verdict.WORSE


def judge_reference(measured: float, target: float, images: int, tolerance: Tolerance) -> Verdict:
    """Compare an accuracy with what the same weights scored on the same images, both in percent.

    Args:
        images: how many images; on few of them one image may be more than `tolerance` allows.
    """
    if not math.isfinite(measured):
        return Verdict.ERROR
    width = max(tolerance.width(Printed(str(target))), 100 / images)
    if abs(measured - target) <= width + 1e-9:  # one image is one image, whatever its rounding
        return Verdict.MATCH
    return Verdict.BETTER if measured > target else Verdict.WORSE
