"""The time to score predicted label maps, by this project's confusion matrix and by mmseg's.

One run on drawn label maps, as many as ADE20K's validation set has; reading files is not counted.
The run fails if the two disagree.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from PIL import Image
from tabulate import tabulate

from datasets.ade20k import NUM_IMAGES, class_names
from reproduce.statistics import means
from reproduce.tasks.segmentation_scores import class_pixels


def label_maps(n: int, classes: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `n` predictions with their labels, (512, 683) in uint8: patches with rough borders."""
    rng, (height, width) = np.random.default_rng(seed), (512, 683)
    rows, columns = np.mgrid[:height, :width]

    def rough(patches: np.ndarray) -> np.ndarray:
        y, x = (np.rint(a + rng.normal(0, 2, a.shape)).astype(int) for a in (rows, columns))
        large = Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(large)[y.clip(0, height - 1), x.clip(0, width - 1)]

    pairs = []
    for _ in range(n):
        label = rng.integers(0, classes + 1, (6, 8), np.uint8)
        other = rng.integers(1, classes + 1, label.shape, np.uint8)
        prediction = np.where((rng.random(label.shape) < 0.3) | (label == 0), other, label)
        pairs.append((rough(prediction), rough(label)))
    return pairs


def main(
    maps: Annotated[int, typer.Option(help='Number of maps.')] = NUM_IMAGES['val'],
    distinct: Annotated[int, typer.Option(help='Number of different maps, taken in turn.')] = 40,
) -> None:
    """Compare this project's confusion matrix and mmseg's IoUMetric."""
    classes = class_names(Path())
    pairs = label_maps(distinct, len(classes))
    MMLogger.get_instance('scoring', log_level='ERROR')  # it would print a table of all classes
    metric = IoUMetric()
    metric.dataset_meta = {'classes': classes}
    total = np.zeros((3, len(classes)), np.int64)
    ours, theirs = 0.0, 0.0
    for i in range(maps):
        prediction, label = pairs[i % distinct]
        # IoUMetric takes int64, classes from 0, and 255 for no class.
        sample = {
            name: {'data': torch.from_numpy(one - np.uint8(1)).long()[None]}
            for name, one in (('pred_sem_seg', prediction), ('gt_sem_seg', label))
        }
        start = time.perf_counter()
        total += class_pixels(prediction, label, len(classes))
        middle = time.perf_counter()
        metric.process({}, [sample])
        ours, theirs = ours + middle - start, theirs + time.perf_counter() - middle
    miou, expected = (
        means(total)['miou'],
        metric.compute_metrics(metric.results)['mIoU'],
    )
    if abs(miou - expected) > 0.00501:
        raise RuntimeError(f'the scorers disagree: {miou} and {expected}')
    print(f'{maps:,} label maps of {len(classes)} classes, {torch.get_num_threads()} threads')
    rows = [['mIoU', miou, theirs, ours, theirs / ours]]
    heads = ['', '%', 'IoUMetric, s', 'ours, s', 'times as fast']
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.1f', '.1f', '.1f')))


if __name__ == '__main__':
    typer.run(main)
