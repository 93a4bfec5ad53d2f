"""The metrics that the paper's tables print."""

from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """Which measured values are better than their target."""

    HIGHER = 'higher'
    NEITHER = 'neither'  # fewer parameters than printed are another model, not a better one


@dataclass(frozen=True)
class Metric:
    """A metric of the paper's tables.

    Attributes:
        name: as in records and CSVs.
        heading, latex_heading: of its column in plain text and in LaTeX.
        is_complexity: whether it is counted from the network alone, without weights and data.
    """

    name: str
    heading: str
    latex_heading: str
    is_complexity: bool = False

    @property
    def direction(self) -> Direction:
        return Direction.NEITHER if self.is_complexity else Direction.HIGHER


METRICS = {
    metric.name: metric
    for metric in (
        Metric('params_m', 'Params (M)', 'Params (M)', is_complexity=True),
        Metric('flops_g', 'FLOPs (G)', 'FLOPs (G)', is_complexity=True),
        Metric('top1', 'Top-1 (%)', r'Top-1 (\%)'),
        Metric('box_ap', 'APᵇ', 'AP$^{b}$'),
        Metric('box_ap50', 'APᵇ₅₀', 'AP$^{b}_{50}$'),
        Metric('box_ap75', 'APᵇ₇₅', 'AP$^{b}_{75}$'),
        Metric('mask_ap', 'APᵐ', 'AP$^{m}$'),
        Metric('mask_ap50', 'APᵐ₅₀', 'AP$^{m}_{50}$'),
        Metric('mask_ap75', 'APᵐ₇₅', 'AP$^{m}_{75}$'),
        Metric('miou', 'mIoU (%)', r'mIoU (\%)'),
        Metric('ms_miou', 'MS mIoU (%)', r'MS mIoU (\%)'),
    )
}
