"""What commands print fits the terminal, and nothing of it is cut."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_rehearse import trial

from reproduce.ablation import budget, rendering
from reproduce.ablation.outcomes import load_outcomes
from reproduce.audit import text as audit_text
from reproduce.audit.run import audit
from reproduce.base.folders import ABLATIONS
from reproduce.base.screen import Screen
from reproduce.compare import as_text
from reproduce.compare.candidates import Candidate
from reproduce.compare.results import compare, matrix
from reproduce.evaluate.devices import Devices
from reproduce.judge import regression
from reproduce.judge.verdict import Verdict
from reproduce.statistics.image_hits import ImageHits
from reproduce.statistics.kept import KeptImages
from reproduce.train import rehearsal_report
from reproduce.train.checks import ReadinessCheck
from reproduce.train.rehearsal import Machine, Rehearsal, RehearsalRequest, RehearsalRow

ROOT = Path(__file__).parents[1]
WIDTHS = (80, 120, 200)


def of_an_audit():
    found = audit(ROOT / 'results')
    return lambda screen: audit_text.render(found, screen)


def candidate(seed):
    """A classifier that is right on about nine images of ten."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 200)
    hits = ImageHits(labels, rng.random((200, 1)) < 0.9)
    images = KeptImages(hits, tuple(f'n0/{i}.JPEG' for i in range(200)), ('a', 'b', 'c', 'd'))
    name = f'imagenet-maformer_small_3383_{seed:064x}'
    return Candidate(name, 'imagenet', 'f', images, Path('p'), 'b' * 16)


def of_a_comparison():
    found = compare(candidate(0), candidate(1))
    return lambda screen: as_text.render(found, screen=screen)


def of_a_matrix():
    found = matrix([candidate(seed) for seed in range(11)])
    return lambda screen: as_text.render_matrix(found, screen=screen)


def of_a_study():
    outcomes = load_outcomes(ROOT / ABLATIONS / 'micro')
    return lambda screen: rendering.text(outcomes, screen)


def of_a_budget():
    outcomes = load_outcomes(ROOT / ABLATIONS / 'micro')
    study = outcomes.study
    found = budget.Budget(
        variants=outcomes.variants,
        seconds={variant.variant: 3e5 for variant in outcomes.variants},
        runs=len(outcomes.runs),
        train_images=1_281_167,
        val_images=50_000,
        total=1e7,
        devices=Devices('V100', 8, 1e13, 'half of its peak in fp16'),
        places=8,
        spread=0.14,
        spread_source='of the study',
        resolvable={claim.name: 0.3 for claim in study.claim},
    )
    return lambda screen: budget.render(study, found, screen)


def of_a_rehearsal():
    """With the longest name of a config."""
    name = 'cascade-mask-rcnn_maformer-small-3383_fpn_ms-crop-3x_coco'
    says = 'the shared memory has 64 MB, and four workers with batches of 64 images need more'
    machine = Machine('CPU', 'cpu', 1, (ReadinessCheck('shared memory', says, 'low', says),))
    rows = (
        RehearsalRow(name, trial(loader_images_per_s=4.0), True, advice='more --workers'),
        RehearsalRow('large', None, False, (says,), '--grad-checkpointing'),
    )
    found = Rehearsal(RehearsalRequest(), machine, (), rows, planned=3)
    return lambda screen: rehearsal_report.as_text(found, screen)


def of_a_gate():
    says = '50,000 images; the second is significantly worse than what was measured (p 0.001)'
    names = ('deit_small_patch16_224', 'mask_rcnn_swin_tiny')
    checks = [
        *(
            regression.Check(name, 'imagenet', 'top1', 79.86, 79.1, Verdict.WORSE, 'MIT', says)
            for name in names
        ),
        regression.Check('maformer_micro', 'shapes', 'top1', 88.0, None, Verdict.NOT_RUN, 'MIT'),
    ]
    return lambda screen: regression.render(checks, screen=screen)


@pytest.mark.parametrize(
    'made',
    [
        *(of_an_audit, of_a_comparison, of_a_matrix, of_a_study, of_a_budget),
        *(of_a_rehearsal, of_a_gate),
    ],
)
def test_what_is_printed_fits_the_terminal(made):
    render = made()
    # The first heading of the gate's table is left out where each row is an entry of its own.
    whole = Counter(render(Screen()).removeprefix('checkpoint'))
    for width in WIDTHS:
        text = render(Screen(width))
        assert max(map(len, text.splitlines())) <= width
        assert {c: n for c, n in (whole - Counter(text)).items() if c not in ' -\n'} == {}


def test_columns_give_way_before_words_are_broken():
    rows = [
        ['a few short words', 'x' * 20, 'a sentence that is a good deal longer than the others']
    ]
    heads = ['first', 'second', 'third']
    table = Screen(60).columns(rows, heads)
    assert 'x' * 20 in table
    assert max(map(len, table.splitlines())) <= 60
    assert len(Screen(20).columns(rows, heads).splitlines()[0]) <= 20
    assert Screen().columns(rows, heads).splitlines()[2].endswith(rows[0][2])
    assert Screen(60).columns([['a', 'b']]) == 'a  b'
