"""ImageNet-1K, COCO 2017 and ADE20K: where they lie, what they must contain, how they are read.

Each data set has a module, whose import needs neither torch nor timm. `datasets.shapes` writes
small embedded data in the formats of all three.
"""

from importlib import import_module
from pathlib import Path
from typing import Any


def load(task: str, root: Path, split: str = 'val', limit: int | None = None) -> Any:
    """Return a split of the data set `task` under `root`, as `load` of its module does.

    Args:
        task: 'imagenet', 'coco' or 'ade20k'.
        root: the folder of the data set, or one above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced.

    Raises:
        DataNotFound: if the folder does not hold the data set.
        UserError: if the data set is incomplete in a way that makes it unusable.
    """
    return import_module(f'datasets.{task}').load(root, split, limit)
