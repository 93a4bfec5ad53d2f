"""Training from shards that are read in order, through a shuffle buffer."""

import json
import pickle

import forms
import numpy as np
import pytest
from ranks import in_ranks

from datasets import imagenet, shapes, shards
from reproduce.base.errors import UserError
from reproduce.train.classifier import TrainingJob, train
from reproduce.train.images import TrainingBatches
from reproduce.train.recipes import recipe_for
from reproduce.train.shuffle_buffer import buffered_order, shards_of


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp('places')
    shapes.write(root / 'shapes', train=60, val=10)
    for name in ('webdataset', 'parquet', 'released'):
        if name == 'parquet':
            pytest.importorskip('pyarrow')
        (root / name).mkdir()
        forms.FORMS[name](root / 'shapes/imagenet', root / name)
    return root


SHARDS = [np.arange(0, 300), np.arange(300, 450), np.arange(450, 1000)]


def order(buffer, seed=0):
    return buffered_order(SHARDS, buffer, np.random.default_rng(seed))


def test_every_image_comes_once_and_none_before_the_buffer_reaches_it():
    for buffer in (1, 7, 100, 999, 1000, 5000):
        found = order(buffer)
        assert sorted(found) == list(range(1000))
        assert np.array_equal(found, order(buffer))
    # What no buffer shuffles is the shards, one after the other in a random order.
    stream = order(1)
    begins = [int(shard[0]) for shard in SHARDS]
    assert stream[0] in begins
    assert np.count_nonzero(np.diff(stream) != 1) <= 2
    place = np.empty(1000, int)
    for buffer in (7, 100):
        found = order(buffer)
        place[found] = np.arange(1000)
        early = np.arange(1000) - place[stream]
        assert 0 < early.max() < buffer
        # The wait in a buffer is geometric: its mean is the buffer's length.
        late = -early[: 1000 - 5 * buffer] + buffer - 1
        assert 0.7 * buffer < late.mean() < 1.3 * buffer
    firsts = {int(order(1, seed)[0]) for seed in range(20)}
    assert firsts == set(begins)


def test_batches_are_the_same_on_any_number_of_processes_and_after_an_interruption():
    def batches(rank=0, size=1, epoch=0, first=0):
        made = TrainingBatches(1000, 8, rank, size, seed=1, shards=SHARDS, buffer=50)
        made.epoch, made.first = epoch, first
        return list(made)

    whole = batches()
    for batch, *parts in zip(whole, *(batches(rank, 2) for rank in range(2)), strict=True):
        assert sorted(batch) == sorted(parts[0] + parts[1])
    assert batches(first=100) == whole[100:]
    assert [key[1] for b in batches(epoch=1) for key in b] != [key[1] for b in whole for key in b]


@pytest.mark.parametrize('form', ['webdataset', 'parquet'])
def test_the_shards_are_those_that_lie_there(places, form):
    data = imagenet.load(places / form, 'train')
    shards = shards_of(data, 20)
    assert len(shards) == {'webdataset': 3, 'parquet': 2}[form]
    names = [path.name for _, path in sorted((i, p) for i, (p, _) in enumerate(data.samples))]
    drawn = forms.shuffled(places / 'shapes/imagenet', 'train')
    for number, shard in enumerate(shards):
        written = [name for _, name, _ in drawn[number :: len(shards)]]
        assert [names[index] for index in shard] == written


def test_row_groups_are_kept(places, monkeypatch):
    data = imagenet.load(places / 'parquet', 'train')
    samples = pickle.loads(pickle.dumps(data.samples))
    read = []
    monkeypatch.setattr(
        shards, '_row_group', lambda *a, group=shards._row_group: read.append(a[1:3]) or group(*a)
    )
    for _ in range(2):
        for path, _ in samples[:20]:
            path.read_bytes()
    assert len(read) == len(set(read)) >= 6  # row groups of 7 images, each read once


def test_what_is_not_shuffled_or_not_in_shards_is_refused(places):
    with pytest.raises(UserError, match='holds files in folders'):
        shards_of(imagenet.load(places / 'shapes', 'train'), 20)
    with pytest.raises(
        UserError, match=r'lie class by class: a buffer of 6 has images of \d classes'
    ):
        shards_of(imagenet.load(places / 'released', 'train'), 6)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['webdataset', 'parquet'])
def test_a_training_is_reproducible_and_says_what_it_is(places, tmp_path, form):
    small = {'img_size': 32, 'epochs': 2, 'warmup_epochs': 1, 'batch_size': 16, 'ema_decay': 0.9}
    # What is random in a step differs between processes, so there is none of it.
    small |= {'cooldown_epochs': 0, 'mix_prob': 0, 'drop_path': 0}
    recipe = recipe_for('maformer_micro', False).changed(**small)

    def curve(output, processes=1, buffer=20, **options):
        changed = recipe.changed(shuffle_buffer=buffer)
        options = {'workers': 1, 'device': 'cpu', **options}
        job = TrainingJob(changed, places / form, tmp_path / output, **options)
        rows = in_ranks(processes, train, job)
        return [(row['epoch'], row['loss'], row['ema_top1']) for row in rows]

    whole = curve('whole')
    assert curve('permuted', buffer=0) != whole
    curve('cut', until=1)
    with pytest.raises(UserError, match='was trained with shuffle_buffer = 20, not 0'):
        curve('cut', buffer=0, resume=True)
    assert curve('cut', resume=True) == whole
    two = curve('two', processes=2)
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in whole], rel=1e-4)
    assert 'not the permutation of a training without' in (tmp_path / 'whole/train.log').read_text()
    kept = json.loads((tmp_path / 'whole/recipe.json').read_text())
    assert kept['recipe']['shuffle_buffer'] == 20
