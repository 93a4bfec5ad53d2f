"""The metrics that the paper's tables print."""

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """What a metric is about."""

    COMPLEXITY = 'complexity'  # parameters and FLOPs, which take neither weights nor data
    ACCURACY = 'accuracy'  # takes an evaluation


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
        kind, direction: see there.
    """

    name: str
    heading: str
    latex_heading: str
    kind: MetricKind = MetricKind.ACCURACY
    direction: Direction = Direction.HIGHER

    @property
    def is_complexity(self) -> bool:
        """Whether it is counted from the network alone."""
        return self.kind is MetricKind.COMPLEXITY


def _complexity(name: str, heading: str) -> Metric:
    return Metric(name, heading, heading, MetricKind.COMPLEXITY, Direction.NEITHER)


METRICS = {
    metric.name: metric
    for metric in (
        _complexity('params_m', 'Params (M)'),
        _complexity('flops_g', 'FLOPs (G)'),
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
