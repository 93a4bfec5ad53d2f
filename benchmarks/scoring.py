"""The time to score predictions, by the metric of record and by the fast one.

One run on made predictions of the size that the real data set has, each scorer in turn, reading of
files not counted. The two must agree to the digit, or the run fails.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from PIL import Image
from pycocotools import mask as run_lengths
from tabulate import tabulate

from datasets import ade20k as ade20k_data
from datasets.coco import CATEGORY_IDS, NUM_ANNOTATIONS, NUM_IMAGES, Annotations
from reproduce.tasks.detection_scores import evaluated
from reproduce.tasks.segmentation_scores import class_pixels, confusion, means

app = typer.Typer(pretty_exceptions_enable=False)


@app.callback()
def _main() -> None:
    """Time the scoring of one task's predictions."""


def blob(rng: np.random.Generator, height: int, width: int) -> tuple[float, ...]:
    """Return centre and radii of an object in pixels, log-uniform in size, roughly as in COCO."""
    radius = np.exp(rng.uniform(np.log(8), np.log(height / 2)))
    return (*rng.uniform(0, (width, height)), *(radius * rng.uniform(0.6, 1.4, 2)))


def outlined(
    rng: np.random.Generator, shape: tuple[float, ...], height: int, width: int
) -> tuple[dict[str, Any], list[float]]:
    """Return a wobbly ellipse as run lengths, and its box."""
    x, y, right, down = shape
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    wobble = rng.uniform(0.85, 1.15, turn.size)
    points = np.stack([x + right * wobble * np.cos(turn), y + down * wobble * np.sin(turn)], 1)
    points = points.clip(0, (width, height))
    mask = run_lengths.frPyObjects([points.ravel().tolist()], height, width)[0]
    return {**mask, 'counts': mask['counts'].decode()}, run_lengths.toBbox(mask).tolist()


def made(images: int, detections: int, seed: int = 0) -> tuple[Annotations, list[dict[str, Any]]]:
    """Return as many objects an image as COCO has, and detections, a third of them near one."""
    rng = np.random.default_rng(seed)
    infos, objects, results = [], [], []
    for image_id in range(images):
        height, width = ((480, 640), (640, 480), (427, 640))[rng.integers(3)]
        infos.append({'id': image_id, 'file_name': '', 'height': height, 'width': width})
        truth = [
            (blob(rng, height, width), int(rng.choice(CATEGORY_IDS)))
            for _ in range(rng.poisson(NUM_ANNOTATIONS['val'] / NUM_IMAGES['val']))
        ]
        for shape, category in truth:
            mask, box = outlined(rng, shape, height, width)
            objects.append(
                {
                    **{'id': len(objects) + 1, 'image_id': image_id, 'category_id': category},
                    **{'bbox': box, 'area': float(run_lengths.area(mask)), 'segmentation': mask},
                    'iscrowd': int(rng.random() < 0.01),
                }
            )
        for _ in range(detections):
            shape, category = blob(rng, height, width), int(rng.choice(CATEGORY_IDS))
            near = bool(truth) and rng.random() < 1 / 3
            if near:
                found, category = truth[rng.integers(len(truth))]
                shape = tuple(np.multiply(found, rng.normal(1, 0.05, 4)))
            mask, box = outlined(rng, shape, height, width)
            results.append(
                {
                    **{'image_id': image_id, 'category_id': category, 'bbox': box},
                    **{'score': float(rng.beta(2, 2 if near else 5)), 'segmentation': mask},
                }
            )
    categories = tuple({'id': i, 'name': str(i)} for i in CATEGORY_IDS)
    return Annotations(Path('made'), tuple(infos), tuple(objects), categories), results


@app.command()
def coco(
    images: Annotated[int, typer.Option(help='How many images.')] = NUM_IMAGES['val'],
    detections: Annotated[int, typer.Option(help='Detections an image, with masks.')] = 100,
) -> None:
    """Compare pycocotools and hotcoco."""
    annotations, results = made(images, detections)
    rows = []
    for kind in ('box', 'mask'):
        taken, stats = [], []
        for fast in (False, True):
            start = time.perf_counter()
            stats.append(evaluated(results, annotations, kind, fast).stats)
            taken.append(time.perf_counter() - start)
        if not np.array_equal(*stats):
            raise RuntimeError(f'the scorers disagree: {stats}')
        rows.append([f'{kind} AP', 100 * stats[0][0], *taken, taken[0] / taken[1]])
    rows.append(['both', None, *(sum(row[i] for row in rows) for i in (2, 3))])
    rows[-1].append(rows[-1][2] / rows[-1][3])
    print(f'{images:,} images, {len(results):,} detections, {len(annotations.instances):,} objects')
    heads = ['', 'AP', 'pycocotools, s', 'hotcoco, s', 'times as fast']
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.1f', '.1f', '.1f')))


def label_maps(
    n: int, height: int, width: int, classes: int, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `n` predictions with their labels, (H, W) in uint8: patches with rough borders."""
    rng = np.random.default_rng(seed)
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


def mmseg_sample(prediction: np.ndarray, label: np.ndarray) -> dict[str, dict[str, torch.Tensor]]:
    """Return both as IoUMetric takes them: int64, classes from 0, and 255 where there is none."""
    maps = {'pred_sem_seg': prediction, 'gt_sem_seg': label}
    return {k: {'data': torch.from_numpy(m - np.uint8(1)).long()[None]} for k, m in maps.items()}


@app.command()
def ade20k(
    maps: Annotated[int, typer.Option(help='How many.')] = ade20k_data.NUM_IMAGES['val'],
    size: Annotated[tuple[int, int], typer.Option(help='Height and width, pixels.')] = (512, 683),
    distinct: Annotated[int, typer.Option(help='So many are made, and taken in turn.')] = 40,
) -> None:
    """Compare our confusion matrix and mmseg's IoUMetric."""
    classes = ade20k_data.class_names(Path())
    made = label_maps(distinct, *size, len(classes))
    samples = [mmseg_sample(*pair) for pair in made]
    MMLogger.get_instance('scoring', log_level='ERROR')  # it would print a table of all classes
    metric = IoUMetric()
    metric.dataset_meta = {'classes': classes}
    total = np.zeros((len(classes), len(classes) + 1), np.int64)
    ours, theirs = 0.0, 0.0
    # In turn, so that a slow moment of the machine hits both.
    for i in range(maps):
        start = time.perf_counter()
        total += confusion(*made[i % distinct], len(classes))
        middle = time.perf_counter()
        metric.process({}, [samples[i % distinct]])
        ours, theirs = ours + middle - start, theirs + time.perf_counter() - middle
    start = time.perf_counter()
    miou = means(class_pixels(total))[0]['miou']
    middle = time.perf_counter()
    expected = metric.compute_metrics(metric.results)['mIoU']
    ours, theirs = ours + middle - start, theirs + time.perf_counter() - middle
    if abs(miou - expected) > 0.00501:
        raise RuntimeError(f'the scorers disagree: {miou} and {expected}')
    print(
        f'{maps:,} label maps of {size[0]} x {size[1]} pixels, {len(classes)} classes, '
        f'{torch.get_num_threads()} threads of torch {torch.__version__}'
    )
    rows = [['mIoU', miou, theirs, ours, theirs / ours]]
    heads = ['', '%', 'IoUMetric, s', 'ours, s', 'times as fast']
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.1f', '.1f', '.1f')))


if __name__ == '__main__':
    app()
