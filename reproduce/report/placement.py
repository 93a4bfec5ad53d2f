"""Labels beside the points of a scatter plot that cover neither each other nor a point."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

# Where a label may stand: so many points (1/72 inch) from its own, in so many directions.
_DISTANCES = (5, 8, 12, 17, 23, 30, 38, 48, 60, 74, 90, 110)
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_MARKER = 4.5  # half the side of the square that no label may enter, in points


def place(
    axes: Axes,
    texts: Sequence[Text],
    points: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    colour: str,
) -> None:
    """Move each text from the point where it stands to the nearest free place in `axes`.

    The densest points choose first, so the outcome depends on nothing but the figure. A text that
    moves far gets a leader of `colour`. The limits and the layout of `axes` have to be final.

    Args:
        points: all markers in the axes, in data coordinates; no label covers one.
        line: the vertices of a line that labels keep clear of if they can.
    """
    if not texts:
        return
    scale = axes.figure.dpi / 72
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    anchors = axes.transData.transform([text.get_position() for text in texts])
    sizes = np.array([text.get_window_extent(renderer).size for text in texts]) + 2 * scale
    dots = axes.transData.transform(points)
    markers = _boxes(dots, np.full(dots.shape, 2 * _MARKER * scale))
    cores = _boxes(dots, np.full(dots.shape, _MARKER * scale))
    frame = axes.get_window_extent(renderer).extents
    vertices = axes.transData.transform(line) if line else []
    pieces = [np.linspace(a, b, 50) for a, b in pairwise(vertices)]
    on_line = np.concatenate([np.empty((0, 2)), *pieces])
    nearness = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1)
    order = np.argsort(-(nearness < 60 * scale).sum(1), kind='stable')
    boxes: dict[int, np.ndarray] = {}  # of the labels that have their place
    leaders: dict[int, np.ndarray] = {}  # points along the leaders of those that have one
    moved: dict[int, np.ndarray] = {}
    # What stands far off tries again once everything has its place.
    for index in [*order, *order, *order]:
        if index in boxes and index not in leaders:
            continue
        boxes.pop(index, None)
        leaders.pop(index, None)
        anchor = anchors[index]
        near = (np.abs(dots - anchor) < _DISTANCES[-1] * scale + sizes[index]).all(1)
        centres, distances = _candidates(anchor, sizes[index], scale)
        places = _boxes(centres, np.broadcast_to(sizes[index], centres.shape))
        cost = distances / scale
        cost += 1000 * _overlaps(places, np.array([*markers[near], *boxes.values()])).sum(1)
        cost += 1000 * ((places[:, :2] < frame[:2]) | (places[:, 2:] > frame[2:])).any(1)
        cost += 4 * _contain(places, on_line).sum(1)
        for leader in leaders.values():
            cost += 200 * _contain(places, leader).any(1)
        ends = np.clip(anchor, places[:, :2], places[:, 2:])
        steps = anchor + np.linspace(0, 1, 12)[:, None, None] * (ends - anchor)
        own = np.isclose(dots, anchor).all(1)
        others = np.array([*cores[near & ~own], *boxes.values()]).reshape(-1, 4)
        cost += 50 * sum(_contain(others, step).any(0) for step in steps)
        # Without a leader, a label that is nearer to another point reads as that one's.
        led = distances > _DISTANCES[1] * scale
        cost += 20 * ((_gaps(places, dots[near & ~own]) < distances[:, None]).any(1) & ~led)
        best = int(np.argmin(cost))
        boxes[index], moved[index] = places[best], centres[best]
        if led[best]:
            leaders[index] = steps[:, best]
    to_data = axes.transData.inverted().transform
    for index, text in enumerate(texts):
        text.set(ha='center', va='center', position=to_data(moved[index]))
    for index, leader in sorted(leaders.items()):
        axes.plot(*to_data([anchors[index], leader[-1]]).T, color=colour, lw=0.5, zorder=0)


def _candidates(
    anchor: np.ndarray, size: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) and distances (N,) of the places around a point, in pixels."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
    distances = np.repeat(np.array(_DISTANCES) * scale, len(_ANGLES))
    directions = np.tile(directions, (len(_DISTANCES), 1))
    return anchor + directions * (distances[:, None] + size / 2), distances


def _boxes(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of (N, 4) boxes overlap which of (M, 4): (N, M)."""
    (left, low, right, high), (x, y, to_x, to_y) = boxes.T[:, :, None], others.T
    return (left < to_x) & (x < right) & (low < to_y) & (y < high)


def _contain(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which of (N, 4) boxes contain which of (M, 2) points: (N, M)."""
    (left, low, right, high), (x, y) = boxes.T[:, :, None], points.T
    return (left < x) & (x < right) & (low < y) & (y < high)


def _gaps(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how far (N, 4) boxes are from (M, 2) points: (N, M)."""
    nearest = np.clip(points[None], boxes[:, None, :2], boxes[:, None, 2:])
    return np.hypot(*np.moveaxis(nearest - points[None], -1, 0))
