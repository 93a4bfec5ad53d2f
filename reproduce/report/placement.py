"""Labels of the points of a scatter plot, none of which covers another or a point."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

# Where a label is tried: distances from its point in points (1/72 inch), and directions.
_DISTANCES = np.array([4, 7, 11, 16, 22, 30, 40, 52, 66, 82, 100])
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_LEADER = 8  # points; a label that is farther away is connected with its point
_MARKER = 4  # points; half the side of a marker


def place(
    axes: Axes,
    texts: Sequence[Text],
    spots: Sequence[tuple[float, float]],
    lines: Sequence[np.ndarray] = (),
    colour: str = 'grey',
) -> None:
    """Move each label from its point to the nearest free place, the crowded ones first.

    The limits and the layout of `axes` must be final. `adjustText` was tried: it left labels over
    markers and over each other, and took ten times as long.

    Args:
        spots: the positions of all markers, in data coordinates.
        lines: the vertices (N, 2) of lines that labels avoid if they can.
        colour: of the lines from labels that are far away to their points.
    """
    if not texts:
        return
    scale = axes.figure.dpi / 72
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    frame = axes.get_window_extent(renderer).extents
    anchors = axes.transData.transform([text.get_position() for text in texts])
    sizes = np.array([text.get_window_extent(renderer).size for text in texts]) + 2 * scale
    dots = axes.transData.transform(list(spots))
    markers = _boxes(dots, 2 * _MARKER * scale)
    on_lines = np.concatenate([np.empty((0, 2)), *(_along(axes, line) for line in lines)])
    crowd = (np.linalg.norm(anchors[:, None] - anchors, axis=-1) < 60 * scale).sum(1)
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
    offsets = np.tile(directions, (len(_DISTANCES), 1))
    distances = np.repeat(_DISTANCES, len(_ANGLES))
    placed: dict[int, np.ndarray] = {}
    for i in [*np.argsort(-crowd, kind='stable')] * 2:  # again, with all others in their places
        placed.pop(i, None)
        centres = anchors[i] + offsets * (distances[:, None] * scale + sizes[i] / 2)
        boxes = _boxes(centres, sizes[i])
        others = np.concatenate([markers, *(box[None] for box in placed.values())])
        outside = (boxes[:, :2] < frame[:2]).any(1) | (boxes[:, 2:] > frame[2:]).any(1)
        crossed = _overlaps(boxes, np.tile(on_lines, 2)).sum(1)
        cost = (
            distances
            + np.minimum(2 * crossed, 30)
            + 1000 * (_overlaps(boxes, others).sum(1) + outside)
        )
        # A leader must not pass through a marker, nor a label without one be closer to another.
        foreign = dots[np.linalg.norm(dots - anchors[i], axis=1) > _MARKER * scale]
        through, closer = _misleading(anchors[i], boxes, foreign, _MARKER * scale)
        cost += np.where(distances > _LEADER, 300 * through, 20 * closer)
        best = np.argmin(cost)
        placed[i] = boxes[best]
        position = axes.transData.inverted().transform(centres[best])
        texts[i].set(ha='center', va='center', position=position)
    for i, box in sorted(placed.items()):
        end = np.clip(anchors[i], box[:2], box[2:])
        if np.linalg.norm(end - anchors[i]) > _LEADER * scale:
            ends = axes.transData.inverted().transform([anchors[i], end])
            axes.plot(*ends.T, color=colour, lw=0.5, zorder=0)


def _misleading(
    anchor: np.ndarray, boxes: np.ndarray, others: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return for which boxes (N, 4) the way from the anchor passes through another point (N,).

    And which boxes are closer to another point than to the anchor (N,).
    """
    ways = np.clip(anchor, boxes[:, :2], boxes[:, 2:]) - anchor
    lengths = np.maximum(np.linalg.norm(ways, axis=1), 1e-6)[:, None]
    along = np.clip((others - anchor) @ ways.T / lengths.T**2, 0, 1).T[:, :, None]
    gaps = np.linalg.norm(anchor + along * ways[:, None] - others, axis=-1)
    nearest = np.clip(others, boxes[:, None, :2], boxes[:, None, 2:])
    closer = np.linalg.norm(nearest - others, axis=-1) < lengths
    return (gaps < radius).any(1), closer.any(1)


def _along(axes: Axes, line: np.ndarray) -> np.ndarray:
    """Return points (N, 2) along a line, in pixels, a few pixels apart."""
    vertices = axes.transData.transform(line)
    pieces = pairwise(vertices)
    return np.concatenate(
        [np.empty((0, 2)), *(a + np.linspace(0, 1, 30)[:, None] * (b - a) for a, b in pieces)]
    )


def _boxes(centres: np.ndarray, sizes: np.ndarray | float) -> np.ndarray:
    """Return boxes (N, 4): left, bottom, right, top."""
    return np.concatenate([centres - np.divide(sizes, 2), centres + np.divide(sizes, 2)], 1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of (N, 4) boxes overlap which of (M, 4) boxes: (N, M)."""
    (left, low, right, high), (x, y, to_x, to_y) = boxes.T[:, :, None], others.T
    return (left < to_x) & (x < right) & (low < to_y) & (y < high)
