"""The time to score predictions, by the reference scorer and by the fast one.

One run on drawn predictions of the size of the real data set, each scorer in turn; reading files is
not counted. The run fails if the two disagree.
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
from pycocotools import mask as run_lengths
from tabulate import tabulate

from datasets import ade20k as ade20k_data
from datasets.coco_annotations import CATEGORY_IDS, NUM_ANNOTATIONS, NUM_IMAGES, Annotations
from reproduce.statistics.pixel_counts import means
from reproduce.tasks.detection_scores import evaluated
from reproduce.tasks.segmentation_scores import class_pixels

app = typer.Typer(pretty_exceptions_enable=False)
HEIGHT, WIDTH = 480, 640  # of the images of COCO that are drawn


@app.callback()
def _main() -> None:
    """Time the scoring of one task's predictions."""


def draw(images: int, detections: int, seed: int = 0) -> tuple[Annotations, list[dict]]:
    """Return as many objects an image as COCO has, and detections, a third of them near one.

    Objects are ellipses with rough outlines, log-uniform in size.
    """
    rng = np.random.default_rng(seed)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)

    def ellipse() -> np.ndarray:
        """Return centre and radii in pixels."""
        radius = np.exp(rng.uniform(np.log(8), np.log(HEIGHT / 2)))
        return np.array([*rng.uniform(0, (WIDTH, HEIGHT)), *(radius * rng.uniform(0.6, 1.4, 2))])

    def instance(shape: np.ndarray, category: int) -> dict:
        radii = shape[2:, None] * rng.uniform(0.85, 1.15, turn.size)
        points = shape[:2, None] + radii * np.stack([np.cos(turn), np.sin(turn)])
        points = points.clip(0, [[WIDTH], [HEIGHT]]).T
        mask = run_lengths.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0]
        return {
            'image_id': image_id,
            'category_id': category,
            'bbox': run_lengths.toBbox(mask).tolist(),
            'area': float(run_lengths.area(mask)),
            'segmentation': {**mask, 'counts': mask['counts'].decode()},
        }

    infos, objects, results = [], [], []
    mean = NUM_ANNOTATIONS['val'] / NUM_IMAGES['val']
    for image_id in range(images):
        infos.append({'id': image_id, 'file_name': '', 'height': HEIGHT, 'width': WIDTH})
        truth = [(ellipse(), int(rng.choice(CATEGORY_IDS))) for _ in range(rng.poisson(mean))]
        for one in truth:
            crowd = {'id': len(objects) + 1, 'iscrowd': int(rng.random() < 0.01)}
            objects.append(instance(*one) | crowd)
        for _ in range(detections):
            shape, category, score = ellipse(), int(rng.choice(CATEGORY_IDS)), rng.beta(2, 5)
            if truth and rng.random() < 1 / 3:
                shape, category = truth[rng.integers(len(truth))]
                shape, score = shape * rng.normal(1, 0.05, 4), rng.beta(2, 2)
            results.append(instance(shape, category) | {'score': float(score)})
    categories = tuple({'id': i, 'name': str(i)} for i in CATEGORY_IDS)
    return Annotations(Path('drawn'), tuple(infos), tuple(objects), categories), results


@app.command()
def coco(
    images: Annotated[int, typer.Option(help='Number of images.')] = NUM_IMAGES['val'],
    detections: Annotated[int, typer.Option(help='Detections an image, with masks.')] = 100,
) -> None:
    """Compare pycocotools and hotcoco."""
    annotations, results = draw(images, detections)
    rows = []
    for kind in ('box', 'mask'):
        seconds, stats = [], []
        for fast in (False, True):
            start = time.perf_counter()
            stats.append(evaluated(results, annotations, kind, fast).stats)
            seconds.append(time.perf_counter() - start)
        if not np.array_equal(*stats):
            raise RuntimeError(f'the scorers disagree: {stats}')
        rows.append([f'{kind} AP', 100 * stats[0][0], *seconds, seconds[0] / seconds[1]])
    print(f'{images:,} images, {len(results):,} detections, {len(annotations.instances):,} objects')
    heads = ['', 'AP', 'pycocotools, s', 'hotcoco, s', 'times as fast']
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.1f', '.1f', '.1f')))


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


@app.command()
def ade20k(
    maps: Annotated[int, typer.Option(help='Number of maps.')] = ade20k_data.NUM_IMAGES['val'],
    distinct: Annotated[int, typer.Option(help='Number of different maps, taken in turn.')] = 40,
) -> None:
    """Compare this project's confusion matrix and mmseg's IoUMetric."""
    classes = ade20k_data.class_names(Path())
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
    app()
