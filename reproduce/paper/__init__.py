"""What the paper prints: its tables, and the tolerances for them.

Each paper is a folder of data here, or elsewhere; `maformer` has every kind of file.
"""

from reproduce.paper.metrics import METRICS, Metric
from reproduce.paper.printed import (
    FOLDER,
    FRAMEWORKS,
    PAPER,
    TABLES,
    Column,
    Framework,
    Printed,
    Row,
    Table,
    comparisons,
    lines_of,
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
    'PAPER',
    'SEGMENTATION_SIZE',
    'TABLES',
    'Column',
    'Framework',
    'Metric',
    'Printed',
    'Row',
    'Table',
    'Tolerance',
    'comparisons',
    'lines_of',
    'load_table',
    'load_tolerances',
    'table_numbers',
]
