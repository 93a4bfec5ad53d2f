"""Labels beside the points of a scatter plot that cover neither each other nor a point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

# Where a label may stand: so many points (1/72 inch) from its own, in so many directions.
_DISTANCES = (5, 8, 12, 17, 23, 30, 38, 48, 60, 74, 90, 110)
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_MARKER = 4.5  # half the side of the square that no label may enter, in points
_CORE = 4  # the same for leaders
_BLOCKED = 500  # what it costs that a leader passes through a marker or a label
_TRIES = 12  # how many orders are tried where one leaves a label without a free place


def place(
    axes: Axes,
    texts: Sequence[Text],
    points: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[tuple[float, float]]],
    colour: str,
    apart: float = 2,
) -> None:
    """Move each text from the point where it stands to the nearest free place in `axes`.

    The densest points choose first; where that leaves one without a free place, other orders are
    tried, always the same ones, so the outcome depends on nothing but the figure. A text that moves
    far gets a leader of `colour`. The limits and the layout of `axes` have to be final.

    Args:
        points: all markers in the axes, in data coordinates; no label covers one.
        lines: the vertices of lines that labels keep clear of if they can.
        apart: how far labels in a row are from each other at least, in points.
    """
    if not texts:
        return
    scale = axes.figure.dpi / 72
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    anchors = axes.transData.transform([text.get_position() for text in texts])
    sizes = np.array([text.get_window_extent(renderer).size for text in texts])
    sizes += np.array([apart, 2]) * scale
    surroundings = _Surroundings(
        scale,
        axes.get_window_extent(renderer).extents,
        axes.transData.transform(points),
        np.concatenate([np.empty((0, 2)), *_along(axes, lines, 3 * scale)]),
    )
    nearness = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1)
    order = np.argsort(-(nearness < 60 * scale).sum(1), kind='stable')
    shuffled = np.random.default_rng(0)
    candidates = [surroundings.candidates(*label) for label in zip(anchors, sizes, strict=True)]
    best = _layout(candidates, order)
    for _ in range(_TRIES):
        if best.worst < _BLOCKED:
            break
        other = _layout(candidates, shuffled.permutation(order))
        best = min(best, other, key=lambda layout: layout.total)
    to_data = axes.transData.inverted().transform
    for index, text in enumerate(texts):
        text.set(ha='center', va='center', position=to_data(best.centres[index]))
    for index, leader in sorted(best.leaders.items()):
        axes.plot(*to_data([anchors[index], leader[-1]]).T, color=colour, lw=0.5, zorder=0)


@dataclass
class _Layout:
    """Where labels stand, in pixels, by their index: boxes (4,), centres (2,), leaders (24, 2)."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    centres: dict[int, np.ndarray] = field(default_factory=dict)
    leaders: dict[int, np.ndarray] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        return max(self.costs.values())

    @property
    def total(self) -> float:
        return sum(self.costs.values())


@dataclass(frozen=True)
class _Surroundings:
    """What labels have to keep clear of, in pixels: the frame (4,), markers and lines (N, 2)."""

    scale: float
    frame: np.ndarray
    dots: np.ndarray
    on_line: np.ndarray

    def candidates(self, anchor: np.ndarray, size: np.ndarray) -> '_Candidates':
        """Return where a label of `size` (2,) may stand, and what each place costs by itself."""
        reach = (np.abs(self.dots - anchor) < _DISTANCES[-1] * self.scale + size).all(1)
        near, own = self.dots[reach], np.isclose(self.dots[reach], anchor).all(1)
        centres, distances = _around(anchor, size, self.scale)
        places = _boxes(centres, np.broadcast_to(size, centres.shape))
        cost = distances / self.scale
        cost += 1000 * _overlaps(places, _squares(near, _MARKER * self.scale)).sum(1)
        cost += 1000 * ((places[:, :2] < self.frame[:2]) | (places[:, 2:] > self.frame[2:])).any(1)
        cost += 2 * _contain(places, self.on_line).sum(1)
        # Without a leader, a label that is nearer to another point reads as that one's.
        led = distances > _DISTANCES[1] * self.scale
        cost += 20 * ((_gaps(places, near[~own]) < distances[:, None]).any(1) & ~led)
        cores = _squares(near[~own], _CORE * self.scale)
        return _Candidates(anchor, centres, places, cost, led, cores, _CORE * self.scale)


@dataclass(frozen=True)
class _Candidates:
    """Places (N,) for one label: boxes, costs, which have a leader; and what is in its way.

    Attributes:
        radius: of the label's own marker, inside which a leader cannot be seen.
    """

    anchor: np.ndarray
    centres: np.ndarray
    boxes: np.ndarray
    costs: np.ndarray
    led: np.ndarray
    cores: np.ndarray
    radius: float

    def choose(self, made: _Layout, index: int) -> None:
        """Give the label its best place beside the others of `made`."""
        others = np.array(list(made.boxes.values())).reshape(-1, 4)
        cost = self.costs + 1000 * _overlaps(self.boxes, others).sum(1)
        for leader in made.leaders.values():
            cost += 200 * _contain(self.boxes, leader).any(1)
        # A leader through something costs as well; it is looked for where it may decide.
        obstacles = np.concatenate([self.cores, others])
        least, best, way = np.inf, 0, None
        for i in np.argsort(cost, kind='stable'):
            if cost[i] >= least:
                break
            leader = _leader(self.anchor, self.boxes[i]) if self.led[i] else None
            blocked = leader is not None and self._passes_through(leader, obstacles)
            if cost[i] + _BLOCKED * blocked < least:
                least, best, way = cost[i] + _BLOCKED * blocked, i, leader
        made.boxes[index], made.centres[index] = self.boxes[best], self.centres[best]
        made.costs[index] = float(least)
        if way is not None:
            made.leaders[index] = way

    def _passes_through(self, leader: np.ndarray, obstacles: np.ndarray) -> bool:
        seen = leader[np.linalg.norm(leader - self.anchor, axis=1) > self.radius]
        return bool(_contain(obstacles, seen).any())


def _layout(candidates: Sequence[_Candidates], order: np.ndarray) -> _Layout:
    """Place labels one after the other."""
    made = _Layout()
    # What stands far off tries again once everything has its place.
    for index in map(int, [*order, *order, *order]):
        if index not in made.boxes or index in made.leaders:
            made.boxes.pop(index, None)
            made.leaders.pop(index, None)
            candidates[index].choose(made, index)
    return made


def _along(
    axes: Axes, lines: Sequence[Sequence[tuple[float, float]]], step: float
) -> Iterator[np.ndarray]:
    """Points (N, 2) along each piece of the lines, about `step` pixels apart."""
    for line in lines:
        for a, b in pairwise(axes.transData.transform(line) if line else []):
            yield np.linspace(a, b, 2 + int(np.linalg.norm(b - a) / step))


def _around(anchor: np.ndarray, size: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) and distances (N,) of the places around a point, in pixels."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
    distances = np.repeat(np.array(_DISTANCES) * scale, len(_ANGLES))
    directions = np.tile(directions, (len(_DISTANCES), 1))
    return anchor + directions * (distances[:, None] + size / 2), distances


def _leader(anchor: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Points (24, 2) along the shortest line from a point to a box."""
    end = np.clip(anchor, box[:2], box[2:])
    return anchor + np.linspace(0, 1, 24)[:, None] * (end - anchor)


def _squares(centres: np.ndarray, half: float) -> np.ndarray:
    return np.concatenate([centres - half, centres + half], axis=1)


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
