"""ImageNet-1K, COCO 2017, ADE20K: where they lie, what they must contain, how they are read.

`datasets.shapes` writes small embedded data in the formats of all three.
"""

from importlib import import_module
from pathlib import Path
from typing import Any


def load(task: str, root: Path, split: str = 'val', limit: int | None = None) -> Any:
    """The data set of `task`, 'imagenet', 'coco' or 'ade20k', under `root`; see its own module.

    Raises:
        DataNotFound: if it is not there.
        UserError: if it is not what it should be.
    """
    return import_module(f'datasets.{task}').load(root, split, limit)
