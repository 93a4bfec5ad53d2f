"""Curves of a training: what was measured over epochs or iterations."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from reproduce.base.files import write_atomically

# The metrics of mmengine's logs that are drawn: mmdet's and mmseg's names, and ours.
_METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU (%)'}


@dataclass(frozen=True)
class Panel:
    """A set of axes, with a line (x values, y values) for every name in `lines`."""

    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw `panels` side by side into the PNG at `path`."""
    figure = Figure(figsize=(4 * len(panels), 3), layout='constrained')
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, (x, y) in panel.lines.items():
            axes.plot(x, y, marker='.' if len(x) < 50 else None, label=label)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        if len(panel.lines) > 1:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    write_atomically(path, buffer.getvalue())


def read_logged(folder: Path) -> list[dict[str, float]]:
    """Return the rows that mmengine logged into `folder`, validations last.

    Of two rows for one step, as after a resumption, the later one counts.
    """
    rows = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the training was killed within the line
                row = json.loads(line)
                rows['loss' not in row, row['step']] = row
    return [rows[key] for key in sorted(rows)]


def draw_logged(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses and the validations that mmengine logged into the PNG at `path`."""

    def line(name: str) -> tuple[list[float], list[float]]:
        found = [row for row in rows if name in row]
        return [row['step'] for row in found], [row[name] for row in found]

    metrics = {label: line(name) for name, label in _METRICS.items() if line(name)[0]}
    panels = [Panel('iteration', 'training loss', {'loss': line('loss')})]
    if metrics:
        panels.append(Panel('epoch or iteration', ', '.join(metrics), metrics))
    draw(panels, path)
