"""The content of COCO's masks, checked before it reaches pycocotools.

pycocotools trusts what it decodes: run lengths that do not cover the image give a wrong number or
never return, and a coordinate far outside the image ends the process. hotcoco checks run lengths
when it decodes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hotcoco import mask as run_lengths


class UnsoundMaskError(ValueError):
    """One of several masks is unsound. Its text ends a sentence that begins with the mask's name.

    Attributes:
        index: which one.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


def sound_run_lengths(masks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the masks, those with runs of no pixels encoded again without them.

    Libraries disagree about runs of no pixels other than the first.

    Args:
        masks: dictionaries with size (height, width) and counts, COCO's compressed run lengths or a
            list of numbers that are not negative.

    Raises:
        UnsoundMaskError: for the first mask whose run lengths do not cover its image.
    """
    return [_sound(i, mask) for i, mask in enumerate(masks)]


def check_polygons(
    masks: Sequence[Sequence[Sequence[float]]], sizes: Sequence[tuple[int, int]]
) -> None:
    """Check that polygons have three points or more, and are not far outside of their images.

    Args:
        masks: for each, its polygons as x1, y1, x2, y2, ... in pixels.
        sizes: height and width of the image of each.

    Raises:
        UnsoundMaskError: for the first mask with a polygon that is unsound.
    """
    for i, (polygons, (height, width)) in enumerate(zip(masks, sizes, strict=True)):
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                raise UnsoundMaskError(
                    i,
                    f'has a polygon of {len(polygon)} numbers: expected x and y of three points '
                    'or more',
                )
            beyond = max(height, width)
            limits = (min(polygon) + beyond, width - max(polygon[::2]), height - max(polygon[1::2]))
            if limits[0] < 0 or min(limits[1:]) < -beyond:
                raise UnsoundMaskError(
                    i,
                    f'has a polygon with the coordinate {max(polygon, key=abs):g}, far outside its '
                    f'image of {width} x {height} pixels',
                )


def _sound(index: int, mask: Mapping[str, Any]) -> Mapping[str, Any]:
    (height, width), counts = mask['size'], mask['counts']
    if isinstance(counts, list):
        covers = sum(counts) == height * width
        if not covers or 0 not in counts[1:]:
            encoded = counts
        else:
            encoded = _merged(run_lengths.frPyObjects(dict(mask), height, width))
    else:
        try:
            encoded = _merged(mask)
            covers = _longer_than(counts, height * width - 1)
        except (ValueError, TypeError) as error:  # TypeError: not text in UTF-8
            raise UnsoundMaskError(index, f'cannot be decoded ({error})') from error
    if not covers:
        raise UnsoundMaskError(
            index, f'has run lengths that do not cover its {height} x {width} pixels'
        )
    return mask if encoded == counts else {'size': [height, width], 'counts': encoded}


def _merged(mask: Mapping[str, Any]) -> str:
    """Return the union of a mask with itself, which has no runs without pixels."""
    return run_lengths.merge([mask, mask])['counts'].decode()


def _longer_than(counts: str, pixels: int) -> bool:
    """Return whether run lengths that can be decoded have more than so many pixels."""
    try:
        run_lengths.rle_from_string(counts, 1, pixels)
    except ValueError:
        return True
    return False
