"""How far metrics move by chance, against closed forms, simulations, SciPy and pycocotools."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hotcoco.metrics import calibration_error
from scipy import stats
from simulated import coverage
from test_coco import hard_case

from datasets.coco_annotations import Annotations
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.detection_errors import ERRORS
from reproduce.statistics.detection_metrics import METRICS
from reproduce.statistics.paired import paired
from reproduce.statistics.per_image import bootstrap
from reproduce.statistics.segmentation_metrics import PixelCounts, means
from reproduce.statistics.significance import holm, mcnemar, paired_interval, resolvable, wilson
from reproduce.tasks.detection_scores import evaluated, score

# ------------------------------------------------------------------------------------------------
# Proportions, several tests, power


@pytest.mark.parametrize(('count', 'n'), [(0, 10), (3, 7), (41_500, 50_000)])
def test_the_wilson_interval_ends_where_the_score_test_rejects(count, n):
    """Its limits are the proportions p with |count / n - p| = 1.96 sqrt(p (1 - p) / n)."""
    z = stats.norm.ppf(0.975)
    for limit in wilson(count, n):
        p = limit / 100
        assert abs(count / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-9)
    assert all(0 <= limit <= 100 for limit in wilson(count, n))


@pytest.mark.parametrize(('lost', 'won'), [(0, 0), (3, 11), (120, 163)])
def test_mcnemars_p_value_is_twice_the_smaller_binomial_tail(lost, won):
    n, tail = lost + won, sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
    assert mcnemar(lost, won) == pytest.approx(min(1.0, 2 * tail / 2**n))


def test_holms_correction_multiplies_by_the_number_of_hypotheses_left():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_the_paired_interval_contains_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, shares = 200, (0.1, 0.06, 0.84)  # lost, won, neither
    held = 0
    for lost, won, _ in rng.multinomial(n, shares, 2000):
        low, high = paired_interval(int(lost), int(won), n)
        held += low <= 100 * (shares[1] - shares[0]) <= high
    assert 0.94 <= held / 2000 <= 0.97


@pytest.mark.parametrize(('pairs', 'tests'), [(3, 4), (200, 1)])
def test_a_resolvable_difference_is_found_in_four_of_five_cases(pairs, tests):
    least = resolvable(2.0, pairs, tests)
    differences = np.random.default_rng(1).normal(least, 2.0, (8_000, pairs))
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert (p < 0.05 / tests).mean() == pytest.approx(0.8, abs=0.015)


def confident(rng, n, too_much, least=0.2, most=1.0):
    """Predictions that are right less often than their confidence says."""
    confidence = rng.uniform(least, most, n).round(6)
    right = rng.random(n) < confidence - too_much
    return ImageHits(np.zeros(n, int), right[:, None], confidence)


def test_the_calibration_error_is_that_of_hotcoco():
    hits = confident(np.random.default_rng(0), 300, 0.1)
    for times, found in zip(ones := bootstrap(300, 2), hits.compute(ones)['ece'], strict=True):
        scores, right = (np.repeat(of, times) for of in (hits.confidence, hits.hits[:, 0]))
        assert found == pytest.approx(100 * calibration_error(scores, right, 15)[0], abs=1e-9)


def test_a_calibration_error_of_100_is_a_percentage():
    for n in range(1, 60):  # the sum of 49 times 100 / 49 is more than 100
        wrong = ImageHits(np.zeros(n, int), np.zeros((n, 1), bool), np.ones(n))
        assert wrong.metrics()['ece'] == pytest.approx(100) and wrong.metrics()['ece'] <= 100
        assert wrong.intervals(20)['ece'] == pytest.approx((100, 100))


@pytest.mark.parametrize(
    ('too_much', 'least', 'most'),
    # With one bin, the error is that of a single difference, and of either sign.
    [(0, 0.2, 1), (0.15, 0.2, 1), (0.02, 0.35, 0.35), (0.15, 0.35, 0.35)],
)
def test_the_interval_of_the_calibration_error_contains_the_planted_one(too_much, least, most):
    rng = np.random.default_rng(0)
    hits = [confident(rng, 500, too_much, least, most) for _ in range(60)]
    found = [of.intervals(200, i)['ece'] for i, of in enumerate(hits)]
    assert sum(low <= 100 * too_much <= high for low, high in found) >= 53
    assert all(of.metrics()['ece'] <= high for of, (_, high) in zip(hits, found, strict=True))
    assert max(high - low for low, high in found) < 12


# ------------------------------------------------------------------------------------------------
# The bootstrap over images


def scored(seed):
    """Simulated detections with scores that all differ, scored."""
    content, results = hard_case(seed)
    scores = np.random.default_rng(seed).permutation(len(results)) / (len(results) + 1)
    results = [{**r, 'score': float(s)} for r, s in zip(results, scores, strict=True)]
    truth = Annotations(
        Path('made'), *(tuple(content[key]) for key in ('images', 'annotations', 'categories'))
    )
    return truth, results, score(results, truth)


def repeated(truth, results, times):
    """The images, each `times` times, with what is on them."""
    images, objects, found = [], [], []
    for image, n in zip(truth.images, times, strict=True):
        for _ in range(n):
            copy = {'image_id': len(images)}
            images.append({**image, 'id': copy['image_id']})
            objects += [{**o, **copy} for o in truth.instances if o['image_id'] == image['id']]
            found += [{**r, **copy} for r in results if r['image_id'] == image['id']]
    return Annotations(Path('made'), tuple(images), tuple(objects), truth.categories), found


@pytest.mark.parametrize('seed', range(2))
def test_ap_of_resampled_images_is_that_of_pycocotools(seed):
    truth, results, scores = scored(seed)
    times = bootstrap(len(truth.images), 2, seed)
    metrics = scores.statistics.compute(times)
    for kind in ('box', 'mask'):
        ours = [metrics[f'{kind}_{name}'] for name in METRICS]
        for i, row in enumerate(times):
            images, found = repeated(truth, results, row)
            theirs = evaluated(found, images, kind).stats
            expected = np.where(theirs < 0, np.nan, 100 * theirs)
            np.testing.assert_allclose([of[i] for of in ours], expected, rtol=0, atol=1e-10)


def cost_by_hotcoco(truth, results, kind):
    """What errors cost, in percent, by hotcoco, which is as tidecv where there is no crowd."""
    key = {'box': 'bbox', 'mask': 'segmentation'}[kind]
    parts = {'images': truth.images, 'categories': truth.categories}
    objects = [{**one, 'id': i} for i, one in enumerate(truth.instances, 1)]
    data = hotcoco.COCO({k: list(v) for k, v in parts.items()} | {'annotations': objects})
    found = [{k: r[k] for k in ('image_id', 'category_id', 'score', key)} for r in results]
    evaluation = hotcoco.COCOeval(data, data.load_res(found), {'box': 'bbox', 'mask': 'segm'}[kind])
    evaluation.evaluate()
    cost = evaluation.tide_errors()['delta_ap']
    return [100 * cost[name] for name in ('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss')]


@pytest.mark.parametrize('seed', range(2))
def test_what_errors_cost_on_resampled_images_is_that_of_hotcoco(seed):
    truth, results, _ = scored(seed)
    truth = replace(truth, instances=tuple(o | {'iscrowd': 0} for o in truth.instances))
    errors = score(results, truth).statistics.errors
    times = bootstrap(len(truth.images), 2, seed)
    cost = errors.compute(times)
    for kind in ('box', 'mask'):
        ours = np.stack([cost[f'{kind}_{error}'] for error in ERRORS], 1)
        assert (ours > 0).any(0).all()
        for i, row in enumerate(times):
            images, found = repeated(truth, results, row)
            theirs = cost_by_hotcoco(images, found, kind)
            np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=1e-9)


def test_what_errors_cost_is_what_tidecv_prints():
    """`fix_main_errors` of tidecv 1.0.1, with crowds as ignored regions and no limit of detections.

    It counts classes without an object in its mean; these are its numbers over the others. It is
    no dependency, because it needs OpenCV with a display.
    """
    truth, results, _ = scored(1)
    number = Counter(result['image_id'] for result in results)
    few = [result for result in results if number[result['image_id']] <= 100]
    assert any(instance['iscrowd'] for instance in truth.instances)
    cost = score(few, truth).statistics.errors.metrics()
    printed = {
        'box': [1.617162, 3.171984, 0.693069, 1.728457, 6.974465, 22.039082],
        'mask': [1.617162, 7.469747, 0.693069, 1.068391, 6.734441, 20.820499],
    }
    for kind, values in printed.items():
        assert [cost[f'{kind}_{error}'] for error in ERRORS] == pytest.approx(values, abs=1e-6)


# By error, the class, the box and the score of the detection of the first object, and of another.
OBJECT, SHIFTED, NOWHERE = [10, 10, 40, 40], [30, 10, 40, 40], [10, 150, 9, 9]
PLANTED = {
    'none': [(1, OBJECT, 0.9)],
    'class': [(2, OBJECT, 0.9)],
    'place': [(1, SHIFTED, 0.9)],
    'both': [(1, OBJECT, 0.9), (2, SHIFTED, 0.9)],
    'duplicate': [(1, OBJECT, 0.9), (1, OBJECT, 0.8)],
    'background': [(1, OBJECT, 0.9), (1, NOWHERE, 0.9)],
    'missed': [],
}


def planted(error):
    """A detector of two objects on each of 40 images, on half of which it makes an error."""
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': 200, 'width': 200} for i in range(40)]
    categories = [{'id': 1, 'name': 'one'}, {'id': 2, 'name': 'two'}]
    objects, results = [], []
    for i in range(40):
        for found in ((1, OBJECT), (2, [120, 120, 40, 40])):
            one = dict(zip(('category_id', 'bbox'), found, strict=True), image_id=i, iscrowd=0)
            objects.append(one | {'id': len(objects), 'area': 1600.0})
        for found in [(2, [120, 120, 40, 40], 0.7), *PLANTED[error if i % 2 else 'none']]:
            one = dict(zip(('category_id', 'bbox', 'score'), found, strict=True), image_id=i)
            results.append(one | {'score': one['score'] - i / 100})
    return score(results, Annotations(Path('made'), images, objects, categories)).statistics


@pytest.mark.parametrize('error', ERRORS)
def test_a_planted_error_explains_the_difference(error):
    differences = paired(planted('none').errors, planted(error).errors, 200)
    assert {name for name, d in differences.items() if d.difference} == {f'box_{error}'}
    found = differences[f'box_{error}']
    assert 0 < found.interval[0] <= found.difference <= found.interval[1]
    assert found.significant
    assert {d.first for d in differences.values()} == {0.0}


def interval_of_scipy(n, statistic, method, resamples=1000):
    found = stats.bootstrap(
        *((np.arange(n),), statistic),
        n_resamples=resamples,
        method=method,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    return pytest.approx(tuple(found.confidence_interval), abs=1e-9)


def test_intervals_of_ap_are_those_of_scipys_bootstrap():
    _, _, scores = scored(2)
    n = scores.statistics.images

    def box_ap(drawn):
        times = np.bincount(drawn, minlength=n).astype(np.int32)
        return scores.statistics.compute(times[None])['box_ap'][0]

    found = scores.statistics.intervals(resamples=100)
    assert found['box_ap'] == interval_of_scipy(n, box_ap, 'basic', 100)
    assert scores.intervals.keys() == scores.metrics.keys()


def counted(rng, labels, error):
    """Label maps with that share of wrong pixels, as `PixelCounts`."""
    wrong = rng.random(labels.shape) < error
    predictions = np.where(wrong, rng.integers(0, 5, labels.shape), labels)
    rows = []
    for p, t in zip(predictions, labels, strict=True):
        right, labelled, predicted = (np.bincount(a, minlength=5) for a in (t[p == t], t, p))
        rows.append([right, labelled, predicted])
    return PixelCounts(np.array(rows, np.int64)[None])


@pytest.fixture
def segmented():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (40, 60))
    return [counted(rng, labels, error) for error in (0.30, 0.33, 0.6)]


def test_intervals_of_miou_are_those_of_scipys_bootstrap(segmented):
    first, second, _ = segmented

    def miou(system, drawn):
        return means(system.counts[0, drawn].sum(0))['miou']

    found = first.intervals()
    assert found.keys() == {'miou', 'macc', 'aacc'}
    assert found['miou'] == interval_of_scipy(40, lambda drawn: miou(first, drawn), 'basic')

    def difference(drawn):
        return miou(second, drawn) - miou(first, drawn)

    found = paired(first, second)['miou']
    assert found.interval == interval_of_scipy(40, difference, 'percentile')
    assert found.difference == pytest.approx(difference(np.arange(40)), abs=1e-9)
    assert found.significant == (found.interval[1] < 0 or found.interval[0] > 0)


def test_equal_systems_do_not_differ_and_very_different_ones_do(segmented):
    first, _, bad = segmented
    found = paired(first, first)
    same = [(d.difference, d.interval, d.p) for d in found.values()]
    assert same == [(0.0, (0.0, 0.0), 1.0)] * 3
    worse = paired(first, bad)
    assert worse['miou'].interval[1] < 0
    assert worse['miou'].p == pytest.approx(2 / 1001)


def test_only_systems_of_the_same_images_are_paired():
    hits = np.ones((5, 1), bool)
    systems = [ImageHits(np.zeros(n, int), hits[:n]) for n in (5, 2)]
    with pytest.raises(ValueError, match='5 image hits and 2 image hits'):
        paired(*systems)


@pytest.mark.parametrize(
    ('metric', 'sets'),
    [('top1', 500), ('miou', 60), pytest.param('box_ap', 20, marks=pytest.mark.slow)],
)
def test_intervals_contain_the_truth_as_often_as_they_say(metric, sets):
    """In fewer data sets than documented: within three standard errors of 95 %, or above."""
    _, width, share = coverage(metric, sets, resamples=200)
    assert share >= 95 - 300 * (0.05 * 0.95 / sets) ** 0.5
    assert share < 100 or sets < 200
    assert 0 < width < 6
