"""COCO's masks: decoded as pycocotools decodes them, and refused where that would go wrong."""

import json
import re

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from datasets.coco_annotations import check_polygons, sound_run_lengths

HEIGHT, WIDTH = 100, 120
SIZE = [HEIGHT, WIDTH]
PIXELS = HEIGHT * WIDTH


def compressed(counts):
    """COCO's run lengths as characters, written after the description in maskApi.c."""
    text = ''
    for i, count in enumerate(counts):
        x, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def mask(counts, size=SIZE):
    return {'size': list(size), 'counts': compressed(counts) if counts else ''}


def random_masks(rng, n):
    """Masks with runs of all lengths, some with pixels of 1 first, some with none."""
    masks = []
    for _ in range(n):
        height, width = (int(side) for side in rng.integers(1, 900, 2))
        cuts = np.sort(rng.integers(0, height * width + 1, int(rng.integers(0, 40))))
        runs = np.diff([0, *cuts, height * width])
        runs = [int(runs[0]), *runs[1:][runs[1:] > 0].tolist()]
        masks.append((mask(runs, (height, width)), runs))
    return masks


def test_sound_masks_of_any_kind_are_sound():
    for one, runs in random_masks(np.random.default_rng(0), 300):
        plain = {**one, 'counts': runs}
        expected = run_lengths.frPyObjects(plain, *one['size'])
        assert one['counts'].encode() == expected['counts']
        assert sound_run_lengths(one) == one
        assert sound_run_lengths(plain) == plain


def test_runs_of_no_pixels_are_encoded_again():
    rng = np.random.default_rng(1)
    for one, runs in random_masks(rng, 50):
        at = int(rng.integers(1, len(runs) + 1))
        for longer in ([*runs[:at], 0, 0, *runs[at:]], [*runs, 0], [*runs, 0, 0]):
            for counts in (compressed(longer), longer):
                assert sound_run_lengths({**one, 'counts': counts}) == one
        pixels = np.repeat(np.arange(len(runs)) % 2, runs).reshape(one['size'], order='F')
        assert np.array_equal(run_lengths.decode(one), pixels)


UNSOUND = {
    'short': mask([5, 10]),
    'long': mask([5, 10, PIXELS]),
    'negative': mask([PIXELS + 10, -10]),
    'huge': mask([2**28, 2**28]),
    'beyond 32 bits': {'size': SIZE, 'counts': compressed([0, 2**29 - 1]) + 'oooooO' * 8},
    'truncated': {'size': SIZE, 'counts': mask([5, 11_000, 995])['counts'][:-2] + 'o'},
    'endless': {'size': SIZE, 'counts': 'o' * 200 + '0'},
    'foreign': {'size': SIZE, 'counts': 'no run lengths: ~'},
    'not ASCII': {'size': SIZE, 'counts': 'd\u00e9f\U0001f600'},
    'not Unicode': {'size': SIZE, 'counts': '\ud800'},
}


def test_unsound_run_lengths(run, files):
    for unsound in UNSOUND.values():
        with pytest.raises(ValueError, match=r'be decoded|do not cover'):
            sound_run_lengths(unsound)
    for place, who in (('result', 'detection 3, on the image 2,'), ('truth', 'annotation 11')):
        code, out, err = run(*files(**{place: UNSOUND['short']}))
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert f'the segmentation of the {who} ' in err


def test_the_length_of_polygons_and_where_they_are():
    triangle = [0.0, 0.0, 9.5, 0.0, 9.5, 20.0]
    check_polygons([triangle, [-3.0, -2.0, 125.0, 0, 3, 101]], *SIZE)
    check_polygons([], *SIZE)
    for polygon, problem in (
        ([10, 12, 35, 42], 'has a polygon of 4 numbers: expected 6, 8, ...'),
        ([*triangle, 5, -1e9], r'has a polygon with the coordinate -1e+09, far outside'),
        ([*triangle, 241, 5], 'the coordinate 241, far outside its image of 120 x 100 pixels'),
    ):
        with pytest.raises(ValueError, match=re.escape(problem)):
            check_polygons([triangle, polygon], *SIZE)


@pytest.fixture
def files(tmp_path):
    """Write annotations of one object in three images, and a detection of it in each."""
    square = [[10.0, 12.0, 35.0, 12.0, 35.0, 42.0, 10.0, 42.0]]
    found = run_lengths.frPyObjects(square, HEIGHT, WIDTH)[0]
    found = {'size': SIZE, 'counts': found['counts'].decode()}

    def write(truth=square, result=found):
        masks = [square, truth, square]
        content = {
            'images': [
                {'id': i, 'file_name': f'{i}.jpg', 'height': HEIGHT, 'width': WIDTH}
                for i in range(3)
            ],
            'annotations': [
                {
                    **{'id': 10 + i, 'image_id': i, 'category_id': 1, 'bbox': [10, 12, 25, 30]},
                    **{'area': 750, 'iscrowd': 0, 'segmentation': masks[i]},
                }
                for i in range(3)
            ],
            'categories': [{'id': 1, 'name': 'a'}],
        }
        results = [
            {
                **{'image_id': i, 'category_id': 1, 'bbox': [10, 12, 25, 30], 'score': 0.5},
                'segmentation': [found, found, result][i],
            }
            for i in range(3)
        ]
        (tmp_path / 'gt.json').write_text(json.dumps(content))
        (tmp_path / 'dt.json').write_text(json.dumps(results))
        return ('score', 'coco', tmp_path / 'dt.json', '--annotations', tmp_path / 'gt.json')

    return write


@pytest.mark.parametrize(
    ('truth', 'message'),
    [
        ([[10, 12, 35, 42]], 'the annotation 11 has a polygon of 4 numbers'),
        ({'size': SIZE, 'counts': [5, 10**20]}, 'has run lengths that do not cover'),
        ([], 'has no segmentation for 1 of its 3 objects'),
    ],
)
def test_an_unsound_mask_of_an_object_is_one_sentence(run, files, truth, message):
    code, out, err = run(*files(truth=truth))
    assert (code, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1
