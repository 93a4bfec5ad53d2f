"""The metrics that the paper's tables print."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric of the paper's tables.

    Attributes:
        name: as in records and CSVs.
        heading: of its column.
        is_complexity: whether it is counted from the network alone, without weights and data. Then
            fewer than printed is another model, not a better one.
    """

    name: str
    heading: str
    is_complexity: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric('params_m', 'Params (M)', is_complexity=True),
        Metric('flops_g', 'FLOPs (G)', is_complexity=True),
        Metric('top1', 'Top-1 (%)'),
        Metric('box_ap', 'APᵇ'),
        Metric('box_ap50', 'APᵇ₅₀'),
        Metric('box_ap75', 'APᵇ₇₅'),
        Metric('mask_ap', 'APᵐ'),
        Metric('mask_ap50', 'APᵐ₅₀'),
        Metric('mask_ap75', 'APᵐ₇₅'),
        Metric('miou', 'mIoU (%)'),
        Metric('ms_miou', 'MS mIoU (%)'),
    )
}
