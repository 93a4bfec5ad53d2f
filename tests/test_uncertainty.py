"""How far metrics move by chance, against SciPy, statsmodels and pycocotools itself."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from test_coco import hard_case

from benchmarks.interval_coverage import coverage
from datasets.coco import Annotations
from reproduce.statistics import bootstrap
from reproduce.statistics.matched_detections import METRICS
from reproduce.statistics.pixel_counts import PixelCounts
from reproduce.statistics.significance import wilson
from reproduce.tasks.detection_scores import DetectionScorer, evaluated, of_images
from reproduce.tasks.segmentation_scores import class_pixels, confusion, means


@pytest.mark.parametrize(('count', 'n'), [(0, 10), (10, 10), (3, 7), (41_500, 50_000)])
def test_wilson_interval(count, n):
    low, high = proportion_confint(count, n, method='wilson')
    assert wilson(count, n) == pytest.approx((100 * low, 100 * high), abs=1e-9)
    low, high = stats.binomtest(count, n).proportion_ci(0.95, 'wilson')
    assert wilson(count, n) == pytest.approx((100 * low, 100 * high), abs=1e-9)


def scored(seed):
    """Made detections with scores that all differ, scored."""
    content, results = hard_case(seed)
    scores = np.random.default_rng(seed).permutation(len(results)) / (len(results) + 1)
    results = [{**r, 'score': float(s)} for r, s in zip(results, scores, strict=True)]
    truth = Annotations(
        Path('made'), *(tuple(content[key]) for key in ('images', 'annotations', 'categories'))
    )
    scorer = DetectionScorer(truth)
    scorer.update(range(len(truth.images)), of_images(results, truth))
    return truth, results, scorer.compute()


def repeated(truth, results, times):
    """The images, each as often as `times` says, with what is on them."""
    images, objects, found = [], [], []
    for image, n in zip(truth.images, times, strict=True):
        for _ in range(n):
            copy = {'image_id': len(images)}
            images.append({**image, 'id': copy['image_id']})
            objects += [{**o, **copy} for o in truth.instances if o['image_id'] == image['id']]
            found += [{**r, **copy} for r in results if r['image_id'] == image['id']]
    return Annotations(Path('made'), tuple(images), tuple(objects), truth.categories), found


@pytest.mark.parametrize('seed', range(4))
def test_ap_of_resampled_images_is_that_of_pycocotools(seed):
    truth, results, scores = scored(seed)
    statistics = scores.statistics
    times = bootstrap(len(truth.images), 2, seed)
    metrics, _ = statistics.compute(times)
    for kind in ('box', 'mask'):
        ours = [metrics[f'{kind}_{name}'] for name in METRICS]
        for i, row in enumerate(times):
            images, found = repeated(truth, results, row)
            theirs = evaluated(found, images, kind).stats
            expected = np.where(theirs < 0, np.nan, 100 * theirs)
            np.testing.assert_allclose([of[i] for of in ours], expected, rtol=0, atol=1e-10)


def test_intervals_of_ap_are_those_of_scipys_bootstrap():
    _, _, scores = scored(2)
    n = scores.statistics.images

    def box_ap(drawn):
        times = np.bincount(drawn, minlength=n).astype(np.int32)
        return scores.statistics.compute(times[None])[0]['box_ap'][0]

    found = scores.statistics.intervals(resamples=100)
    check_against_scipy(found['box_ap'], n, box_ap, 100)
    low, high = scores.intervals['box_ap']
    assert low < scores.metrics['box_ap'] < high
    assert scores.intervals.keys() == scores.metrics.keys()


def check_against_scipy(interval, n, statistic, resamples=1000):
    theirs = stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=resamples,
        method='basic',
        vectorized=False,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_intervals_of_miou_are_those_of_scipys_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (30, 8, 9), np.uint8)
    wrong = rng.random(labels.shape) < rng.random((30, 1, 1))
    predictions = np.where(wrong, rng.integers(1, 6, labels.shape, np.uint8), labels)
    confusions = [confusion(p, t, 5) for p, t in zip(predictions, labels, strict=True)]
    counts = np.stack([class_pixels(c) for c in confusions])[None]
    found = PixelCounts(counts).intervals()

    def miou(drawn):
        return means(class_pixels(sum(confusions[i] for i in drawn)))[0]['miou']

    check_against_scipy(found['miou'], 30, miou)
    assert found.keys() == {'miou', 'macc', 'aacc'}


@pytest.mark.parametrize(('metric', 'sets'), [('top1', 1000), ('miou', 100), ('box_ap', 20)])
def test_intervals_hold_the_truth_as_often_as_they_say(metric, sets):
    """A small version of the benchmark: within three standard errors of 95 %, or above."""
    _, width, share = coverage(metric, sets, resamples=200)
    assert share >= 95 - 300 * (0.05 * 0.95 / sets) ** 0.5
    assert share < 100 or sets < 200
    assert 0 < width < 6
