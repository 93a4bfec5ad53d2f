"""Training images in the order of their shards, shuffled by a buffer.

Shards on a network are read best from begin to end. A buffer of images is filled in their order,
and each next image is drawn from it and replaced by the next one of the shards, as in WebDataset
and tf.data. The order of an epoch is decided beforehand, by (seed, epoch) alone: every image comes
once, and batches depend neither on the number of processes nor on an interruption.
"""

from collections.abc import Sequence

import numpy as np

from datasets.imagenet import ImageNet
from datasets.stores import StoredPath
from reproduce.base.errors import UserError

# Windows in which classes are counted, and the share of what random ones have that is enough.
_WINDOWS, _MIXED = 32, 0.5


def shards_of(data: ImageNet, buffer: int) -> list[np.ndarray]:
    """Return the indices of the images in each shard, as they lie there.

    Args:
        buffer: the number of images that a buffer is to hold.

    Raises:
        UserError: if the images are in no archive, or lie there class by class, so that a batch
            would have images of a few classes alone.
    """
    if not isinstance(data.samples[0][0], StoredPath):
        raise UserError(
            f'--shuffle-buffer is for shards, and {data.root} holds files in folders, which are '
            'read in any order: leave it out.'
        )
    part, offset = np.array([path.location for path, _ in data.samples]).T
    order = np.lexsort((offset, part))
    _check_mixed(data, np.array([label for _, label in data.samples])[order], buffer)
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)


def buffered_order(
    shards: Sequence[np.ndarray], buffer: int, generator: np.random.Generator
) -> np.ndarray:
    """Return all indices in `shards`: the shards in a random order, through a buffer.

    Args:
        buffer: the number of images that it holds.
        generator: draws the order.
    """
    stream = np.concatenate([shards[i] for i in generator.permutation(len(shards))])
    held, rest = stream[:buffer].tolist(), stream[buffer:].tolist()
    order = []
    for place, index in zip(generator.integers(buffer, size=len(rest)).tolist(), rest, strict=True):
        order.append(held[place])
        held[place] = index
    return np.concatenate([np.array(order, np.int64), generator.permutation(held)])


def _check_mixed(data: ImageNet, labels: np.ndarray, buffer: int) -> None:
    """Check that a buffer's images are of about as many classes as if they were drawn at random.

    Args:
        labels: of the images as they lie in the shards.
    """
    buffer = min(buffer, len(labels))
    begins = np.linspace(0, len(labels) - buffer, _WINDOWS, dtype=np.int64)
    found = np.mean([len(np.unique(labels[i : i + buffer])) for i in begins])
    shares = np.bincount(labels) / len(labels)
    expected = np.sum(1 - (1 - shares) ** buffer)
    if found < _MIXED * expected:
        raise UserError(
            f'the images of {data.root} lie class by class: a buffer of {buffer:,} has images of '
            f'{found:.0f} classes, and as many at random would be of {expected:.0f}; take shards '
            'that were written in random order, or leave out --shuffle-buffer.'
        )
