"""When another convention explains predictions better than the one that is expected."""

import math

# It makes so many times as many right.
_FACTOR = 2


def far_more(otherwise: int, now: int, deviations: float = 4) -> bool:
    """Whether `otherwise` right ones are so many more than `now` that chance cannot explain it.

    Args:
        deviations: how many standard deviations of the difference it has to be.
    """
    return otherwise > _FACTOR * now and otherwise - now > deviations * math.sqrt(otherwise + now)
