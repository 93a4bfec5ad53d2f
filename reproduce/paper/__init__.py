"""What the paper prints: its seven tables, tolerances for them, its claims and its misprints."""

from reproduce.paper.metrics import METRICS, Direction, Metric, MetricKind
from reproduce.paper.printed import (
    DETECTION_SIZE,
    FOLDER,
    FRAMEWORKS,
    SEGMENTATION_SIZE,
    TABLES,
    Column,
    Framework,
    Printed,
    Row,
    Table,
    load_table,
    table_numbers,
)
from reproduce.paper.tolerances import Tolerance, load_tolerances

__all__ = [
    'DETECTION_SIZE',
    'FOLDER',
    'FRAMEWORKS',
    'METRICS',
    'SEGMENTATION_SIZE',
    'TABLES',
    'Column',
    'Direction',
    'Framework',
    'Metric',
    'MetricKind',
    'Printed',
    'Row',
    'Table',
    'Tolerance',
    'load_table',
    'load_tolerances',
    'table_numbers',
]
