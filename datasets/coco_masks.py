"""The content of COCO's masks, checked before it reaches C: run lengths and polygons.

pycocotools trusts what it decodes: run lengths that do not cover the image give a wrong number or
never return, and a coordinate far outside the image ends the process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

# pycocotools decodes a run from at most six characters of five bits, the last of which has the
# sign.
_MOST_CHARACTERS = 6
_MOST_PIXELS = 2**29

# Characters that are decoded at once: the arrays of that many stay in the processor's cache.
_CHUNK = 2**17


@dataclass(frozen=True)
class UnsoundMask:
    """What is wrong with one of several masks.

    Attributes:
        index: which one.
        problem: the end of a sentence that begins with the name of the mask.
    """

    index: int
    problem: str


def unsound_run_lengths(
    masks: Sequence[Mapping[str, Any]],
) -> tuple[UnsoundMask | None, list[int]]:
    """Decode run lengths and look for the first that does not cover its image.

    Args:
        masks: dictionaries with size (height, width) and counts, COCO's compressed run lengths or a
            list of them.

    Returns:
        the first unsound mask, if there is one, and the indices of the sound ones before it that
        have a run of no pixels, other than the first: these are to be encoded again, since
        libraries disagree about them.
    """
    redundant: list[int] = []
    for start, stop in _chunks(masks):
        unsound, empty_runs = _examine(masks[start:stop])
        redundant += [start + i for i in empty_runs]
        if unsound is not None:
            return UnsoundMask(start + unsound.index, unsound.problem), redundant
    return None, redundant


def reencoded(mask: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same pixels as compressed run lengths of which only the first may be empty."""
    height, width = mask['size']
    kept = [0]  # the pixels of 0 and of 1 in turn
    for i, run in enumerate(_all_decoded([mask['counts']])[0].tolist()):
        if run and i % 2 == len(kept) % 2:
            kept.append(run)
        else:
            kept[-1] += run
    encoded = run_lengths.frPyObjects({'size': [height, width], 'counts': kept}, height, width)
    return {'size': [height, width], 'counts': encoded['counts'].decode()}


def unsound_polygons(
    masks: Sequence[Sequence[Sequence[float]]], sizes: Sequence[tuple[int, int]]
) -> UnsoundMask | None:
    """Return the first mask with a polygon that is none, or that is far outside its image.

    Args:
        masks: for each, its polygons as x1, y1, x2, y2, ... in pixels.
        sizes: height and width of the image of each.
    """
    for i, polygons in enumerate(masks):
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                return UnsoundMask(
                    i,
                    f'has a polygon of {len(polygon)} numbers: expected x and y of three points '
                    'or more',
                )
    owners = np.repeat(np.arange(len(masks)), [sum(map(len, polygons)) for polygons in masks])
    coordinates = np.fromiter(chain.from_iterable(chain.from_iterable(masks)), float, len(owners))
    sides = np.array(sizes, float).reshape(-1, 2)[owners]
    beyond = sides.max(1)  # what lies farther away is not of this image, or not of this scale
    limits = np.where(np.arange(len(owners)) % 2, sides[:, 0], sides[:, 1])
    far = np.flatnonzero((coordinates < -beyond) | (coordinates > limits + beyond))
    if not far.size:
        return None
    height, width = sizes[owners[far[0]]]
    return UnsoundMask(
        int(owners[far[0]]),
        f'has a polygon with the coordinate {coordinates[far[0]]:g}, far outside its image of '
        f'{width} x {height} pixels',
    )


def _chunks(masks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of parts of `masks` that have `_CHUNK` characters and not many more."""
    ends = np.cumsum([len(mask['counts']) for mask in masks])
    begin = 0
    while begin < len(masks):
        done = ends[begin - 1] if begin else 0
        end = int(np.searchsorted(ends, done + _CHUNK)) + 1
        yield begin, min(end, len(masks))
        begin = end


def _examine(masks: Sequence[Mapping[str, Any]]) -> tuple[UnsoundMask | None, list[int]]:
    """Do the part of `unsound_run_lengths` for a chunk."""
    runs, ends, undecodable = _all_decoded([mask['counts'] for mask in masks])
    starts = np.concatenate([[0], ends[:-1]])
    sizes = np.array([mask['size'] for mask in masks], float)
    filled = np.flatnonzero(starts < ends)
    covered = np.zeros(len(masks), np.int64)
    if filled.size:
        covered[filled] = np.add.reduceat(runs, starts[filled], dtype=np.int64)
    pixels = sizes.prod(1)
    wrong = undecodable | (covered != pixels) | (pixels >= _MOST_PIXELS)
    negative = np.zeros_like(wrong)
    redundant = np.zeros(0, np.int64)
    if runs.size and runs.min() <= 0:
        negative[np.searchsorted(ends, np.flatnonzero(runs < 0), 'right')] = True
        empty = np.flatnonzero(runs == 0)
        owners = np.searchsorted(ends, empty, 'right')
        redundant = np.unique(owners[empty > starts[owners]])
    wrong = np.flatnonzero(wrong | negative)
    if not wrong.size:
        return None, redundant.tolist()
    first = int(wrong[0])
    if undecodable[first]:
        problem = 'has counts that are no compressed run lengths'
    elif negative[first]:
        problem = 'has a run length below 0'
    else:
        height, width = masks[first]['size']
        problem = (
            f'has run lengths of {covered[first]:,} pixels together and the size {height} x '
            f'{width}: expected {height * width:,}'
        )
        if covered[first] == pixels[first]:
            problem = f'has {pixels[first]:,.0f} pixels: expected fewer than {_MOST_PIXELS:,}'
    return UnsoundMask(first, problem), redundant[redundant < first].tolist()


def _all_decoded(
    counts: Sequence[str | Sequence[int]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `_decode` does of M masks, some of which may be lists of run lengths."""
    if all(isinstance(of_mask, str) for of_mask in counts):
        return _decode(counts)
    each, undecodable = [], []
    for of_mask in counts:
        if isinstance(of_mask, str):
            runs, _, (bad,) = _decode([of_mask])
        else:
            # What is too long for an image may also be too long for the type.
            runs = np.array([min(run, _MOST_PIXELS) for run in of_mask], np.int32)
            bad = False
        each.append(runs)
        undecodable.append(bad)
    return np.concatenate(each), np.cumsum([len(runs) for runs in each]), np.array(undecodable)


def _decode(counts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode COCO's compressed run lengths of M masks.

    A run takes one character or more with five bits each, the lowest first; 32 in a character says
    that another follows, 16 in the last that the number is negative. From the fourth run on it is
    the difference from the last but one.

    Returns:
        the runs (N,) of all masks in turn, in int32, which overflows as pycocotools' own does; for
        each mask (M,) where its runs end among them, and whether its counts cannot be decoded.
    """
    text = ''.join(counts)
    ends = np.cumsum([len(of_mask) for of_mask in counts])
    starts = np.concatenate([[0], ends[:-1]])
    filled = starts < ends
    undecodable = np.zeros(len(counts), bool)
    if not text:
        return np.zeros(0, np.int32), ends, undecodable
    # A character outside ASCII becomes one outside the alphabet, which begins at 48.
    encoded = text.encode() if text.isascii() else bytes(min(ord(c), 255) for c in text)
    characters = np.frombuffer(encoded, np.uint8) - np.uint8(48)
    if characters.max() > 63:
        undecodable[np.searchsorted(ends, np.flatnonzero(characters > 63), 'right')] = True
        characters &= 63
    # The last character of a mask ends a run, or its neighbour's would be part of it.
    undecodable[filled] |= characters[ends[filled] - 1] >= 32
    characters[ends[filled] - 1] &= 31
    last = np.flatnonzero(characters < 32)
    run_ends = np.searchsorted(last, ends)
    numbers = characters[last].astype(np.int32)
    numbers -= (numbers & 16) << 1
    longer, before = np.arange(len(last)), last - 1
    for _ in range(_MOST_CHARACTERS - 1):
        bits = characters[before]
        more = np.flatnonzero(bits >= 32)
        longer, before = longer[more], before[more] - 1
        numbers[longer] = (numbers[longer] << 5) | (bits[more] & 31)
    endless = last[longer[characters[before] >= 32]]
    undecodable[np.searchsorted(ends, endless, 'right')] = True
    return _summed(numbers, run_ends), run_ends, undecodable


def _summed(numbers: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Add to each number of a mask but its first three the sum for the last but one."""
    starts = np.concatenate([[0], ends[:-1]])
    filled = starts < ends
    starts, ends = starts[filled], ends[filled]
    sums = np.empty_like(numbers)
    for lane in (0, 1):
        np.cumsum(numbers[lane::2], out=sums[lane::2], dtype=np.int32)
    # The sums of earlier masks, and that of the first number, which the third does not add.
    at_first, before = sums[starts], np.where(starts > 0, sums[starts - 1], 0)
    for lane in (0, 1):
        lengths = (ends + 1 - lane) // 2 - (starts + 1 - lane) // 2
        of_earlier = np.where(starts % 2 == lane, at_first, before).astype(np.int32)
        sums[lane::2] -= np.repeat(of_earlier, lengths)
    sums[starts] = numbers[starts]
    return sums
