"""Ablations: studies as data, judging, paired runs, and studies that are killed."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from reproduce import paper
from reproduce.ablation import rendering
from reproduce.ablation.execution import measure_variants, plan_execution
from reproduce.ablation.outcomes import DesignVerdict, judge, load_outcomes
from reproduce.ablation.study import DesignClaim, load_study
from reproduce.audit.rows import printed_value
from reproduce.base.errors import UserError
from reproduce.base.folders import ABLATIONS
from reproduce.evaluate import records
from reproduce.report import plots
from reproduce.statistics.significance import resolvable
from reproduce.train.building import build

ROOT = Path(__file__).parents[1]

TINY = """
name = "tiny"
about = "A try."
limits = "It shows nothing."
model = "maformer_micro"
recipe = "maformer_micro"
seeds = [0, 1]
spread = 3.0
paper_claims = false
val_images = 30
settings = { img_size = 32, epochs = 2, warmup_epochs = 1, batch_size = 32 }
drawn = { train = 60, val = 60 }
[arguments]
embed_dims = [8, 16, 16, 16]
depths = [1, 1, 1, 1]
num_heads = [2, 2, 2, 2]
grid_size = 4
[[variant]]
name = "plain"
says = "as it is"
token_labeling = false
[[variant]]
name = "twin"
says = "the same under another name"
token_labeling = false
[[claim]]
name = "twins"
says = "one over its twin"
better = "plain"
worse = "twin"
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / 'tiny.toml'
    path.write_text(TINY)
    return path


def claim(better='a', worse='b', **changes):
    name = changes.pop('name', f'{better}_over_{worse}')
    return DesignClaim(name=name, says='one over the other', better=better, worse=worse, **changes)


# ------------------------------------------------------------------------------------------------
# Studies


def test_the_claims_print_what_the_tables_do():
    tables = {number: paper.load_table(number) for number in paper.TABLES}
    printed = [one for one in load_study('micro').claim if one.paper]
    assert len(printed) == 5
    for one in printed:
        assert float(printed_value(one.cells, {'': tables})) == float(one.paper), one.name


@pytest.mark.parametrize(
    'name',
    ['micro', *(pytest.param(n, marks=pytest.mark.slow) for n in ('small', 'medium', 'paper'))],
)
def test_the_variants_of_a_study_differ_and_controls_have_equal_size(name):
    study = load_study(name)
    networks = [(study.network(v), v.settings, v.seed_offset) for v in study.variant]
    assert all(networks.count(one) == 1 for one in networks)
    equal = [v for v in study.variant if v.name in ('maformer', 'wider', 'deeper')]
    lines = measure_variants(study.model_copy(update={'variant': equal}), 10)
    sizes = {line.variant: line for line in lines}
    ours, deeper, wider = sizes['maformer'], sizes['deeper'], sizes.get('wider', sizes['maformer'])
    assert wider.params == pytest.approx(ours.params, rel=0.005)
    assert deeper.params == pytest.approx(ours.params, rel=0.02)
    assert deeper.total_flops == pytest.approx(ours.total_flops, rel=0.02)


def test_a_wrong_study_is_explained(tiny):
    tiny.write_text(tiny.read_text().replace('worse = "twin"', 'worse = "other"'))
    with pytest.raises(UserError, match='compares other, which is not a variant'):
        load_study(str(tiny))


def test_a_dry_run_says_what_would_be_trained_and_resolved(run, embedded):
    for name, data in ('micro', ()), ('medium', ('--data', embedded)):
        code, out, _ = run('ablation', name, '--seeds', 5, '--dry-run', *data)
        study = load_study(name)
        # Those that were run have ten classes, too.
        for of in load_outcomes(ROOT / ABLATIONS / name).variants:
            assert re.search(rf'{of.variant} +\| +{of.params / 1e6:.2f} \|', out)
        assert code == 0
        assert f'{5 * len(study.variant)} runs with 5 seeds.' in out
        family = sum(not claim.control for claim in study.claim)
        assert out.count(f'{resolvable(study.spread, 5, family):.2f} |') == family


# ------------------------------------------------------------------------------------------------
# Judging


def test_a_judgement_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(60, 1, 6), rng.normal(59, 1, 6)
    top1 = {('a', s): a[s] for s in range(6)} | {('b', s): b[s] for s in range(6)}
    top1['a', 9] = 0.0  # without a partner
    (found,) = judge([claim()], top1)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.pairs == 6
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)


def test_claims_share_the_level_and_controls_do_not():
    top1 = {('a', s): 50 + s / 10 for s in range(4)} | {('b', s): 49.0 for s in range(4)}
    one, control = claim(), claim(name='control', control=True)
    alone = judge([one], top1)[0]
    several = judge([one, claim('b', 'a'), control], top1)
    assert several[0].p_holm == pytest.approx(2 * alone.p)
    assert several[2].p_holm == alone.p
    assert [j.verdict for j in several] == ['supported', 'contradicted', 'supported']
    assert several[0].resolvable > several[2].resolvable


# ------------------------------------------------------------------------------------------------
# Pairing


def test_variants_are_trained_alike_from_the_same_weights(tmp_path):
    execution = plan_execution(load_study('micro'), tmp_path)
    recipes = {v.name: execution.recipe(v, 13) for v in execution.study.variant}

    def weights(recipe):
        torch.manual_seed(99)  # whatever was drawn before
        return build(recipe, 10).state_dict()

    base, first = recipes['maformer'].model_dump(), weights(recipes['maformer'])
    different = {
        'no_token_labeling': {'token_labeling', 'arguments'},
        'class_labels': {'arguments', 'token_loss_weight', 'true_class_share'},
        'again': {'seed'},
    }
    for name, recipe in recipes.items():
        changed = {k for k, v in recipe.model_dump().items() if v != base[k]}
        assert changed <= different.get(name, {'arguments'}), name
        own = weights(recipe)
        shared = [k for k in own if k in first and own[k].shape == first[k].shape]
        equal = [k for k in shared if torch.equal(own[k], first[k])]
        if name == 'again':
            assert 'head.fc.weight' not in equal
        else:
            assert equal == shared
            assert name == 'reduced' or 'head.fc.weight' in equal


# ------------------------------------------------------------------------------------------------
# Runs


def study_process(tiny, folder, *options):
    command = [sys.executable, '-m', 'reproduce', 'ablation', tiny, '--jobs', '1', *options]
    return subprocess.Popen(
        [*command, '--work', folder / 'work', '--output', folder / 'out'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


@pytest.mark.slow
def test_a_killed_study_gives_the_same_files(tiny, tmp_path):
    whole = study_process(tiny, tmp_path / 'whole')
    out, _ = whole.communicate()
    assert whole.returncode == 0, out
    outcomes = load_outcomes(tmp_path / 'whole/out')
    (twins,) = outcomes.judgements
    assert (twins.mean, twins.verdict) == (0.0, DesignVerdict.UNRESOLVED)
    first, second = (next(r for r in outcomes.runs if r.seed == seed) for seed in (0, 1))
    assert first.weights != second.weights
    folder = tmp_path / 'whole/work/runs/plain/0'
    record = records.load(folder / f'evaluation/{first.record}.json')
    assert (record.metrics['top1'], record.checkpoint.sha256) == (first.top1, first.weights)

    process = study_process(tiny, tmp_path / 'killed')
    while ' done' not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(4)  # the next run has started
    process.kill()
    process.communicate()
    last = study_process(tiny, tmp_path / 'killed')
    out, _ = last.communicate()
    assert last.returncode == 0, out
    for name in ('study.toml', 'runs.csv', 'curves.csv', 'variants.csv', 'claims.csv'):
        of = [(tmp_path / folder / 'out' / name).read_bytes() for folder in ('whole', 'killed')]
        assert of[0] == of[1], name


@pytest.mark.slow
def test_a_study_continues_on_another_machine(tiny, tmp_path):
    """The seeds that another machine has measured are not run again."""
    there, here = tmp_path / 'there', tmp_path / 'here'
    out, _ = (first := study_process(tiny, there, '--seeds', '1')).communicate()
    assert first.returncode == 0, out
    out, _ = (second := study_process(tiny, here, '--earlier', there / 'out')).communicate()
    assert (second.returncode, '1 of 2 runs' in out) == (0, True), out
    runs = load_outcomes(here / 'out').runs
    assert [(run.variant, run.seed) for run in runs] == [
        (variant, seed) for seed in (0, 1) for variant in ('plain', 'twin')
    ]
    assert runs[:2] == load_outcomes(there / 'out').runs
    assert runs[2].top1 == runs[3].top1  # twins


# ------------------------------------------------------------------------------------------------
# Results


@pytest.mark.parametrize('folder', sorted((ROOT / ABLATIONS).glob('*')), ids=lambda p: p.name)
def test_committed_results_follow_from_the_runs(folder, tmp_path):
    outcomes, known = load_outcomes(folder), load_study(folder.name)
    assert outcomes.study.seeds == known.seeds
    assert outcomes.study.identity == known.identity
    outcomes.save(tmp_path)
    for name in ('runs.csv', 'curves.csv', 'variants.csv', 'times.csv', 'claims.csv'):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert (folder / 'claims.md').read_text() == rendering.markdown(outcomes)
    assert (folder / 'claims.tex').read_text() == rendering.latex(outcomes)


def test_the_figure_has_the_studies_side_by_side_and_what_became_of_each_difference():
    folders = sorted((ROOT / ABLATIONS).glob('*'), reverse=True)
    figure = plots.studies_figure([load_outcomes(folder) for folder in folders]).draw()
    titles = [axes.get_title().split()[0] for axes in figure.axes]
    assert titles == [study for study in ('micro', 'small', 'medium') if study in titles]
    axes, micro = figure.axes[0], ROOT / ABLATIONS / 'micro'
    rows = [label.get_text() for label in axes.get_yticklabels()]
    paths = {
        round(line.get_ydata().mean()): line for line in axes.lines if len(line.get_xdata()) > 2
    }
    curves = pd.read_csv(micro / 'curves.csv').pivot_table('top1', ['variant', 'epoch'])['top1']
    for claim in pd.read_csv(micro / 'claims.csv').itertuples():
        expected = curves[claim.better] - curves[claim.worse]
        np.testing.assert_allclose(paths[rows.index(claim.says)].get_xdata(), expected, atol=1e-9)
