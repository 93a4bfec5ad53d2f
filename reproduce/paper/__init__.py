"""What the paper prints: its seven tables, tolerances for them, its claims and its misprints."""

from reproduce.paper.metrics import METRICS, Metric
from reproduce.paper.printed import (
    FOLDER,
    FRAMEWORKS,
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

# Height and width in pixels of the images that the FLOPs of detectors and of segmenters count.
DETECTION_SIZE = FRAMEWORKS['mask_rcnn'].image
SEGMENTATION_SIZE = FRAMEWORKS['sem_fpn'].image

__all__ = [
    'DETECTION_SIZE',
    'FOLDER',
    'FRAMEWORKS',
    'METRICS',
    'SEGMENTATION_SIZE',
    'TABLES',
    'Column',
    'Framework',
    'Metric',
    'Printed',
    'Row',
    'Table',
    'Tolerance',
    'load_table',
    'load_tolerances',
    'table_numbers',
]
