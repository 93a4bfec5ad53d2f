"""How the classes of a classification data set are numbered, whatever form it is in."""

import re
from collections.abc import Collection

from reproduce.base.errors import UserError

NUM_CLASSES = 1000
# Labels are below this number, so that a wrong one does not decide how much memory is taken.
MOST_CLASSES = 100_000

WNID = re.compile(r'n\d{8}')
_NUMBER = re.compile(r'[0-9]{1,9}')


def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1K's classes, sorted."""
    # timm imports torch, which takes seconds; whoever only imports this module does not wait.
    from timm.data import ImageNetInfo

    return tuple(sorted(ImageNetInfo('imagenet-1k').label_names()))


def names_of_numbers(labels: Collection[int]) -> tuple[str, ...]:
    """Return the names of classes that only have numbers: the numbers, from 0 to the largest.

    The numbers 0 to 999 are the classes of ImageNet-1K.
    """
    if len(labels) == NUM_CLASSES == max(labels) + 1:
        return imagenet_classes()
    return tuple(str(label) for label in range(max(labels) + 1))


def number_classes(names: Collection[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes in their order, and the index of each of `names`.

    Names that are all whole numbers are the indices. If some are WordNet ids of ImageNet-1K, the
    classes are its 1,000 in sorted order, and other names have no index. All other names are
    numbered in sorted order.

    Raises:
        UserError: if a number is too large, or two names are the same number.
    """
    if all(map(_NUMBER.fullmatch, names)):
        index = {name: int(name) for name in names}
        if len(set(index.values())) < len(index) or max(index.values()) >= MOST_CLASSES:
            raise UserError(
                f'the class folders {min(names)} to {max(names)} are numbers: expected each once, '
                f'from 0 to {MOST_CLASSES - 1:,}.'
            )
        return names_of_numbers(index.values()), index
    classes = imagenet_classes()
    if set(names).isdisjoint(classes):
        classes = tuple(sorted(names))
    return classes, {name: i for i, name in enumerate(classes)}
