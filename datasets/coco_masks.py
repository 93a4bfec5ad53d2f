"""The content of COCO's masks, checked before it reaches pycocotools.

pycocotools trusts what it decodes: run lengths that do not cover the image give a wrong number or
never return, and a coordinate far outside the image ends the process. hotcoco checks run lengths
when it decodes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hotcoco import mask as run_lengths


def sound_run_lengths(mask: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mask; if it has runs of no pixels, encoded again without them.

    Libraries disagree about runs of no pixels other than the first.

    Args:
        mask: size (height, width) and counts, COCO's compressed run lengths or a list of numbers
            that are not negative.

    Raises:
        ValueError: if the run lengths do not cover the image.
    """
    (height, width), counts = mask['size'], mask['counts']
    try:
        if isinstance(counts, list):
            covers = sum(counts) == height * width
            if covers and 0 in counts[1:]:
                return _encoded_again(run_lengths.frPyObjects(dict(mask), height, width))
        else:
            again = _encoded_again(mask)
            covers = _longer_than(counts, height * width - 1)
            if covers and again['counts'] != counts:
                return again
    except (ValueError, TypeError) as error:  # TypeError: not text in UTF-8
        raise ValueError(f'cannot be decoded ({error})') from error
    if not covers:
        raise ValueError(f'has run lengths that do not cover its {height} x {width} pixels')
    return mask


def check_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Check that polygons have three points or more, and are not far outside of their image.

    Args:
        polygons: each as x1, y1, x2, y2, ... in pixels.
        height, width: of the image in pixels.

    Raises:
        ValueError: for the first polygon that is unsound.
    """
    beyond = max(height, width)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f'has a polygon of {len(polygon)} numbers: expected x and y of three points or more'
            )
        low, right, bottom = min(polygon), max(polygon[::2]), max(polygon[1::2])
        if low < -beyond or right > width + beyond or bottom > height + beyond:
            raise ValueError(
                f'has a polygon with the coordinate {max(polygon, key=abs):g}, far outside its '
                f'image of {width} x {height} pixels'
            )


def _encoded_again(mask: Any) -> dict[str, Any]:
    """Return the union of a mask with itself, which has no runs without pixels."""
    merged = run_lengths.merge([mask, mask])
    return {'size': list(merged['size']), 'counts': merged['counts'].decode()}


def _longer_than(counts: str, pixels: int) -> bool:
    """Return whether run lengths that can be decoded have more than `pixels` pixels."""
    try:
        run_lengths.rle_from_string(counts, 1, pixels)
    except ValueError:
        return True
    return False
