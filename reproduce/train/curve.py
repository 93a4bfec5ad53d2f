"""Curves of a training: what was measured over epochs or iterations."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from reproduce.base.files import write_atomically


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
