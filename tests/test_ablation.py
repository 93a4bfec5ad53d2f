"""Ablations: claims and studies as data, judging, paired runs, and studies that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import stats

from datasets.imagenet import load
from reproduce import paper
from reproduce.ablation import rendering
from reproduce.ablation.execution import Execution
from reproduce.ablation.judging import DesignVerdict, holm, judge, resolvable
from reproduce.ablation.outcomes import (
    CurveLine,
    Outcomes,
    RunLine,
    TimeLine,
    VariantLine,
    load_outcomes,
)
from reproduce.ablation.single_run import SingleRun, carry_out
from reproduce.ablation.study import (
    STUDIES,
    Design,
    DesignClaim,
    Study,
    load_design_claims,
    load_study,
)
from reproduce.audit.expressions import evaluate
from reproduce.base.folders import ABLATIONS
from reproduce.base.terminal import as_text
from reproduce.evaluate import records
from reproduce.judge.cells import load_results
from reproduce.report import page
from reproduce.report.studies import load_studies
from reproduce.train.classifier_steps import build
from reproduce.train.images import TrainingImages
from reproduce.train.recipes import recipe_for
from reproduce.train.weights_file import to_bytes

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
# Data


def test_the_claims_print_what_the_tables_do():
    tables = {number: paper.load_table(number) for number in paper.TABLES}
    claims = load_design_claims()
    assert len(claims) == 7
    for one in claims:
        if one.cells:
            assert float(evaluate(one.cells, tables).value) == float(one.paper), one.name
        else:
            assert not one.paper and one.note


@pytest.mark.parametrize('name', [path.stem for path in STUDIES.glob('*.toml')])
def test_every_variant_of_a_study_can_be_built_and_differs(name, tmp_path):
    study = load_study(name)
    networks = [(study.network(v), v.seed_offset) for v in study.variant]
    assert all(networks.count(one) == 1 for one in networks)
    execution = Execution(study, tmp_path)
    if name != 'paper':
        for variant in study.variant:
            build(execution.recipe(variant, 0), 10)


def test_a_study_that_is_written_down_is_the_same(tmp_path):
    study = load_study('micro')
    path = tmp_path / 'study.toml'
    path.write_text(study.to_toml())
    again = load_study(str(path))
    assert again.identity == study.identity
    assert (again.claim, again.seeds) == (study.claim, study.seeds)
    assert load_study('micro', 2).seeds == (10, 11)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('worse = "twin"', 'worse = "other"'), 'compares other, which is no variant'),
        (('seeds = [0, 1]', 'seeds = [1, 1]'), 'a seed occurs twice'),
        (('spread = 3.0', 'spread = 0'), 'spread: Input should be greater than 0'),
        (('name = "twin"', 'name = "plain"'), 'the variant plain is defined twice'),
    ],
)
def test_a_wrong_study_is_explained(tiny, run, change, message):
    tiny.write_text(tiny.read_text().replace(*change, 1))
    code, _, error = run('ablation', tiny, '--dry-run')
    assert code == 2
    assert message in error


def test_wrong_options_are_explained(run, tiny, tmp_path):
    for arguments, message in (
        (('mikro',), "no study 'mikro': expected micro, medium or a TOML file"),
        (('small',), 'the study small needs data: name its folder with --data. CIFAR-10'),
        (('micro', '--data', tmp_path), 'draws its own images: leave out --data'),
        (('paper', '--data', tmp_path), "name the folder of the annotator's label maps"),
        (('micro', '--seeds', '0'), '--seeds 0 trains nothing'),
        (('micro', '--jobs', '0'), '--jobs 0 runs nothing'),
        (('micro', '--workers', '-1'), '--workers -1 is no number of processes'),
        (('paper', '--dry-run', '--on', 'abacus'), "the device 'abacus' is unknown"),
    ):
        code, _, error = run('ablation', *arguments)
        assert (code, message in error) == (2, True), error


def test_a_dry_run_of_the_paper_s_size_needs_no_data(run):
    code, out, _ = run('ablation', 'paper', '--dry-run', '--on', '8xV100', '--format', 'json')
    assert code == 0
    budget = json.loads(out)
    assert budget['train_images'] == 1_281_167
    assert budget['runs'] == 45
    flops = {v['variant']: v['total_flops'] for v in budget['variants']}
    # Three passes over the training images in each of 310 epochs, and one over the validation's.
    multiply_adds = flops['maformer'] * (3 * 310 * 1_281_167 + 50_000)
    assert budget['seconds']['maformer'] == pytest.approx(
        multiply_adds / budget['devices']['rate'], rel=1e-6
    )


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


def test_holm():
    """The example of Holm's method: each p value times the number of those that are left."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_claims_share_the_level_and_controls_do_not_take_of_it():
    top1 = {('a', s): 50 + s / 10 for s in range(4)} | {('b', s): 49.0 for s in range(4)}
    one, control = claim(), claim(name='control', control=True)
    alone = judge([one], top1)[0]
    several = judge([one, claim('b', 'a'), control], top1)
    assert several[0].p_holm == pytest.approx(2 * alone.p)
    assert several[2].p_holm == alone.p
    assert [j.verdict for j in several] == ['supported', 'contradicted', 'supported']
    assert several[0].resolvable > several[2].resolvable


def test_nothing_is_said_without_pairs():
    for top1 in ({}, {('a', 0): 50.0}, {('a', 0): 50.0, ('b', 0): 40.0}):
        (found,) = judge([claim()], top1)
        assert found.verdict is DesignVerdict.UNRESOLVED
        assert np.isnan(found.low) and np.isnan(found.resolvable)


def test_what_is_resolvable_is_found_in_four_of_five_studies():
    rng = np.random.default_rng(1)
    for pairs, claims in ((3, 1), (5, 7)):
        least = resolvable(2.0, pairs, claims)
        differences = rng.normal(least, 2.0, (40_000, pairs))
        p = stats.ttest_1samp(differences, 0, axis=1).pvalue
        assert (p < 0.05 / claims).mean() == pytest.approx(0.8, abs=0.01)


def test_seven_claims_without_an_effect_are_rarely_all_but_unresolved():
    """At most one study of twenty says anything where there is nothing to say."""
    rng = np.random.default_rng(2)
    claims = [claim('base', f'v{i}') for i in range(7)]
    names = ['base', *(f'v{i}' for i in range(7))]
    wrong = 0
    for _ in range(200):
        top1 = {(name, s): rng.normal(50, 1) for name in names for s in range(5)}
        wrong += any(j.verdict is not DesignVerdict.UNRESOLVED for j in judge(claims, top1))
    assert wrong <= 0.09 * 200


# ------------------------------------------------------------------------------------------------
# Pairing


def test_variants_begin_with_the_same_weights_where_shapes_agree(tmp_path):
    study = load_study('micro')
    execution = Execution(study, tmp_path)
    by_name = {v.name: v for v in study.variant}

    def weights(name, seed):
        torch.manual_seed(99)  # whatever was drawn before
        return build(execution.recipe(by_name[name], seed), 10).state_dict()

    first = weights('maformer', 3)
    for name in by_name:
        own = weights(name, 3)
        shared = [k for k in own if k in first and own[k].shape == first[k].shape]
        equal = [k for k in shared if torch.equal(own[k], first[k])]
        if name == 'again':
            assert set(own) == set(first) and len(equal) < len(shared) / 2 + 20
            assert not torch.equal(own['head.fc.weight'], first['head.fc.weight'])
        else:
            assert equal == shared
            assert name == 'reduced' or 'head.fc.weight' in equal
    assert not torch.equal(weights('maformer', 4)['head.fc.weight'], first['head.fc.weight'])


def test_the_recipe_is_the_same_but_for_the_network(tmp_path):
    study = load_study('micro')
    recipes = {v.name: Execution(study, tmp_path).recipe(v, 2) for v in study.variant}
    base = recipes['maformer'].model_dump()
    for name, recipe in recipes.items():
        differ = {k for k, v in recipe.model_dump().items() if v != base[k]}
        allowed = {
            'no_token_labeling': {'token_labeling', 'arguments'},
            'class_labels': {'arguments', 'token_loss_weight', 'true_class_share'},
            'again': {'seed'},
        }
        assert differ <= allowed.get(name, {'arguments'}), name


def test_weights_files_do_not_depend_on_the_order_of_the_metadata(tmp_path):
    weights = {'b': torch.arange(3.0), 'a': torch.ones(2, 2, dtype=torch.half)}
    keys = [f'key{i}' for i in range(20)]
    first = to_bytes(weights, {k: 'ü"' for k in keys})
    assert first == to_bytes(weights, {k: 'ü"' for k in reversed(keys)})
    path = tmp_path / 'w.safetensors'
    path.write_bytes(first)
    with safe_open(path, 'pt') as file:
        assert file.metadata() == {k: 'ü"' for k in keys}
        assert all(torch.equal(file.get_tensor(k), v) for k, v in weights.items())


# ------------------------------------------------------------------------------------------------
# Runs


def test_images_in_memory_are_the_same(embedded, tmp_path):
    data = load(embedded)
    recipe = recipe_for('maformer_micro').changed(img_size=32)
    config = {'mean': (0.5,) * 3, 'std': (0.5,) * 3}
    read, kept = (TrainingImages(data, recipe, config, None, kept) for kept in (False, True))
    for key in ((0, 3, 0), (1, 3, 0), (0, 3, 0)):
        assert torch.equal(read[key]['image'], kept[key]['image'])


def test_a_run_is_a_training_and_a_record(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    root = tmp_path / 'data'
    root.mkdir()
    for split in ('train', 'val'):
        (root / split).symlink_to(embedded / 'val')
    arguments = {'embed_dims': [8, 8, 8, 8], 'depths': [1] * 4, 'num_heads': [2] * 4}
    recipe = recipe_for('maformer_micro').changed(
        arguments=arguments, img_size=32, epochs=1, warmup_epochs=0, batch_size=16
    )
    single = SingleRun(recipe=recipe, data=root, arguments=arguments, train_images=20, val_images=9)
    carry_out(single, tmp_path / 'run')
    result = json.loads((tmp_path / 'run/result.json').read_text())
    record = records.load(tmp_path / f'run/evaluation/{result["run"]["record"]}.json')
    assert record.metrics['top1'] == result['run']['top1']
    assert result['run']['train_images'] == 20
    assert record.data.images == len(load(root).samples) == result['run']['val_images']
    assert '--model-kwargs embed_dims=[8,8,8,8]' in record.provenance.command.replace("'", '')
    assert [row['epoch'] for row in result['curve']] == [1]


def study_process(tiny, folder, *arguments):
    command = [sys.executable, '-m', 'reproduce', 'ablation', tiny, '--jobs', '1']
    command += ['--work', folder / 'work', '--output', folder / 'out', *arguments]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


COMPARED = ('study.toml', 'runs.csv', 'curves.csv', 'variants.csv', 'claims.csv', 'claims.tex')


@pytest.mark.slow
def test_identical_variants_are_unresolved_and_a_killed_study_gives_the_same_files(tiny, tmp_path):
    whole = study_process(tiny, tmp_path / 'whole')
    out, _ = whole.communicate()
    assert whole.returncode == 0, out
    outcomes = load_outcomes(tmp_path / 'whole/out')
    (twins,) = outcomes.judgements
    assert (twins.mean, twins.verdict) == (0.0, DesignVerdict.UNRESOLVED)
    hashes = {(r.variant, r.seed): r.weights for r in outcomes.runs}
    assert hashes['plain', 0] != hashes['plain', 1]

    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = study_process(tiny, tmp_path / 'killed')
        while '1 of ' not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)  # the next one has begun
        process.send_signal(number)
        process.communicate()
        assert process.returncode == status
        time.sleep(1)
    last = study_process(tiny, tmp_path / 'killed')
    out, _ = last.communicate()
    assert last.returncode == 0, out
    for name in COMPARED[:-1]:
        of = [(tmp_path / folder / 'out' / name).read_bytes() for folder in ('whole', 'killed')]
        assert of[0] == of[1], name

    tiny.write_text(tiny.read_text().replace('epochs = 2', 'epochs = 3'))
    other = study_process(tiny, tmp_path / 'whole')
    out, _ = other.communicate()
    assert other.returncode == 2
    assert 'has the runs of a study with another settings' in out


@pytest.mark.parametrize('folder', sorted((ROOT / ABLATIONS).glob('*')), ids=lambda p: p.name)
def test_what_is_committed_fits_together(folder, tmp_path):
    """The judged claims follow from the runs, and the tables from both."""
    outcomes = load_outcomes(folder)
    known = load_study(folder.name)
    if outcomes.study.seeds != known.seeds:
        pytest.skip('it is run again with other seeds')
    assert outcomes.study.identity == known.identity
    runs = {(run.variant, run.seed) for run in outcomes.runs}
    assert runs == {(v.name, s) for v in outcomes.study.variant for s in outcomes.study.seeds}
    outcomes.save(tmp_path)
    for name in ('runs.csv', 'curves.csv', 'variants.csv', 'times.csv', 'claims.csv'):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert (folder / 'claims.md').read_text() == rendering.markdown(outcomes)
    assert (folder / 'claims.tex').read_text() == rendering.latex(outcomes)
    assert outcomes.study.limits.strip() in as_text(*rendering.text(outcomes))


def test_the_report_has_a_section_for_each_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what the page looks up is kept below the folder at hand
    top1 = {('a', 0): 52.0, ('a', 1): 53.5, ('b', 0): 50.0, ('b', 1): 51.0}
    outcomes = made_up(top1)
    outcomes.save(tmp_path / 'ablations/small')
    (loaded,) = load_studies(tmp_path)
    assert loaded == outcomes
    text = page.render(load_results(ROOT / 'results'), studies=[loaded])
    assert 'One over the other: +2.25 (−0.93 to +5.43) over 2 seeds (paper +0.30)' in text
    assert 'It shows &lt;nothing&gt;.' in text
    assert text.count('aria-label="Study small: ') >= 2
    assert 'href="#ablations"' in text
    assert 'href="#ablations"' not in page.render(load_results(ROOT / 'results'))


def test_tables_of_a_study():
    outcomes = made_up({('a', s): 52.0 + s for s in range(3)} | {('b', s): 50.0 for s in range(3)})
    for drawn in (rendering.markdown(outcomes), as_text(*rendering.text(outcomes))):
        assert 'It shows <nothing>.' in drawn
        assert '+3.00' in drawn
    listed = rendering.as_dict(outcomes)
    assert listed['limits'] == 'It shows <nothing>.'
    assert json.loads(json.dumps(listed))['claims'][0]['mean'] == 3.0
    table = rendering.latex(outcomes)
    assert r'95 \% interval' in table and r'\toprule' in table
    assert '$-$' not in table.split(r'\midrule')[0].split('caption')[0]
    cells = rendering.markdown(outcomes).split('| one over the other')[1].split('|')
    assert [cells[i].strip() for i in (1, 2, 6)] == ['+0.30', '+3.00', '3']
    assert cells[7].strip() == '1.00 / 2.00'


def made_up(top1):
    """Outcomes of a study of two variants with these accuracies, by variant and seed."""
    seeds = sorted({seed for _, seed in top1})
    study = Study(
        name='small',
        about='A try.',
        limits='It shows <nothing>.',
        model='maformer_micro',
        recipe='maformer_micro',
        seeds=seeds,
        spread=1.0,
        paper_claims=False,
        variant=[Design(name='a', says='one'), Design(name='b', says='other')],
        claim=[claim(paper='0.3')],
    )
    fields = {'top5': 90.0, 'epochs': 1, 'train_images': 10, 'train_data': 'f', 'val_images': 9}
    fields |= {'val_data': 'g', 'labels': '', 'weights': 'w', 'record': 'r'}
    times = {'train_cpu_seconds': 9.0, 'train_seconds': 10.0, 'evaluation_seconds': 1.0}
    times |= {'threads': 1, 'device': 'CPU', 'date': '2026-01-01'}
    return Outcomes(
        study,
        tuple(RunLine(variant=v, seed=s, top1=x, **fields) for (v, s), x in top1.items()),
        tuple(
            CurveLine(variant=v, seed=s, epoch=1, loss=2.0, top1=x) for (v, s), x in top1.items()
        ),
        tuple(
            VariantLine(variant=v, says=v, params=n, layer_flops=n, total_flops=n)
            for v, n in (('a', 10**6), ('b', 2 * 10**6))
        ),
        tuple(TimeLine(variant=v, seed=s, **times) for v, s in top1),
    )
