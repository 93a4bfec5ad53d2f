"""Signs that a classifier's classes are numbered in another way than the data's."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from reproduce.tasks.evidence import far_more

# The assignment takes the square of their number in memory.
_MOST_CLASSES = 3000

_SHIFTS = {
    1: 'the classes look counted from 1 rather than from 0',
    -1: 'the classes look one too low, as where a first class was taken for the background',
}


def order_warnings(predicted: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Return a sentence if the classes look numbered in another way than the labels.

    Classes in another order are recognised by assigning them one to one to the labels on one half
    of the images, and by counting on the other half.

    Args:
        predicted: (N,) the best class of each image, counted from 0.
        labels: (N,) its right class.
    """
    for shift, phrase in _SHIFTS.items():
        if far_more((predicted == labels + shift).sum(), (predicted == labels).sum()):
            top1 = 100 * (predicted == labels + shift).mean()
            return (f'{phrase}: Top-1 would be {top1:.2f} % otherwise; number them as the data.',)
    n = int(max(predicted.max(initial=0), labels.max(initial=0))) + 1
    if n > _MOST_CLASSES:
        return ()
    # Images lie in the order of their classes: each half has about as many of every class.
    learned, held_out = slice(0, None, 2), slice(1, None, 2)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (labels[learned], predicted[learned]), 1)
    assigned = linear_sum_assignment(counts, maximize=True)[1]
    otherwise = predicted[held_out] == assigned[labels[held_out]]
    if far_more(otherwise.sum(), (predicted[held_out] == labels[held_out]).sum()):
        return (
            'the classes look numbered in another order than the data, whose class i is the i-th '
            f'class folder in sorted order: assigned one to one, {100 * otherwise.mean():.2f} % of '
            'held-out images would be right; number them as the data.',
        )
    return ()
