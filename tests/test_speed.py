"""The speed benchmark: what it times, what it writes, and what it says became slower."""

import re

import pytest
import torch

from benchmarks import history, speed, subjects, timing
from reproduce.base.errors import UserError
from reproduce.commands.options import DeviceKind
from reproduce.report.speeds import Speed, conditions, keep_speeds, load_speeds

MICRO = 'maformer_micro'


@pytest.fixture
def few_products(monkeypatch):
    monkeypatch.setattr(timing, 'MATRIX', {'cpu': 256})


@pytest.mark.parametrize('train', [False, True])
def test_a_run_writes_what_the_tables_read_and_the_past_runs(
    train, few_products, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(speed, '_in_a_process', lambda *_: 12.5)
    speed.main([MICRO], train=train, batch_size=2, rounds=2, threads=1, output=tmp_path)
    text = capsys.readouterr().out
    (run,) = history.load(tmp_path)
    assert (run.model, run.batch_size, run.work) == (MICRO, 2, 'training' if train else 'inference')
    assert run.machine.endswith(', 1 thread (CPU time)') and run.machine in text
    # The share of the peak is what the printed rates say: a step has three forward passes' FLOPs.
    peak = float(re.search(r'peak ([0-9,]+) G', text)[1].replace(',', ''))
    flops = subjects.named(MICRO).flops() / 1e9 * (3 if train else 1)
    assert run.peak_share == pytest.approx(run.images_per_s * flops / peak, rel=0.05)
    found = load_speeds(tmp_path)
    assert list(found) == ([] if train else [MICRO])
    if not train:
        assert found[MICRO].images_per_s == run.images_per_s
        assert run.machine in conditions(found.values())


@pytest.mark.slow
def test_the_memory_of_a_pass():
    """One map of the first stage alone has 32 channels at 200 x 320, in four bytes each."""
    added = speed._in_a_process(MICRO, False, 'cpu', None, 16, None, 1)
    assert 32 * 200 * 320 * 4 / 2**20 < added < 200


def test_a_training_step_changes_the_weights():
    subject = subjects.named(MICRO)
    built = []
    kept = subjects.Subject.build

    def build(self, device):
        built.append(kept(self, device))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects.Subject, 'build', build)
        step = speed.passes(subject, 2, True, 'bf16', False, 'cpu')
    before = [p.detach().clone() for p in built[0].parameters()]
    step()
    changed = [not torch.equal(p, q) for p, q in zip(built[0].parameters(), before, strict=True)]
    assert all(changed)


def test_detectors_and_segmenters_are_measured_at_their_published_size():
    sizes = {table: {s.size for s in subjects.of_table(table)} for table in (5, 7)}
    assert sizes == {5: {(800, 1280)}, 7: {(512, 2048)}}
    names = [s.name for s in subjects.of_table(5)]
    assert subjects.baseline(subjects.of_table(5), None) == 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco'
    assert 'mask-rcnn_maformer-small_fpn_1x_coco' in names


def test_the_pass_of_a_detector_runs_on_real_numbers():
    subject = subjects.named('cascade-mask-rcnn_maformer-micro_fpn_shapes.py', (64, 96))
    network = subject.build('cpu')
    with torch.inference_mode():
        subject.forward(network, torch.randn(1, 3, 64, 96))
    assert not subject.is_classifier


@pytest.mark.parametrize(
    ('models', 'options', 'message'),
    [
        (['swin_tiny_patch4_window7'], {}, "there is no model 'swin_tiny_patch4_window7'"),
        (['mask-rcnn_maformer-base_fpn_1x_coco'], {'train': True}, '--train measures classifiers'),
        ([MICRO], {'compared_with': 'resnet50'}, "--baseline 'resnet50' is not measured"),
        ([MICRO], {'device': DeviceKind.CUDA}, 'there is no GPU here'),
    ],
)
def test_mistakes_are_one_sentence(models, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        speed.main(models, output=tmp_path, threads=1, **options)
    assert not list(tmp_path.iterdir())


RUN = history.PastRun(
    date='2026-01-02T03:04:05+00:00',
    machine='A CPU, 2 threads',
    model=MICRO,
    work='inference',
    size='224 x 224',
    batch_size=16,
    precision='fp32',
    compiled=False,
    torch='2.14',
    images_per_s=100.0,
    noise=0.01,
    peak_share=0.5,
)


def changed(**fields):
    return RUN.model_copy(update=fields)


@pytest.mark.parametrize(
    ('past', 'now', 'named'),
    [
        ([RUN], changed(peak_share=0.4), True),
        ([RUN], changed(peak_share=0.49), False),  # within the noise
        ([RUN], changed(peak_share=0.4, noise=0.3), False),
        ([RUN], changed(images_per_s=50.0), False),  # the machine was slower, the network was not
        ([RUN, changed(peak_share=0.4)], changed(peak_share=0.4), False),  # as it was last
        ([RUN], changed(peak_share=0.4, machine='Another'), False),
        ([], RUN, False),
    ],
)
def test_what_became_slower(past, now, named):
    sentences = history.slower(past, [now])
    assert len(sentences) == named
    assert not named or (sentences[0].startswith(f'{MICRO}: ') and '20%' in sentences[0])


def test_past_runs_are_kept_in_order_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(history, 'KEPT', 2)
    for share in (0.1, 0.2, 0.3):
        history.add(tmp_path, [changed(peak_share=share), changed(model='other')])
    runs = history.load(tmp_path)
    assert [run.peak_share for run in runs if run.model == MICRO] == [0.2, 0.3]
    assert len(runs) == 4


def test_the_noise_is_that_of_the_median():
    """Against the standard error of a normal sample's median, sqrt(pi / 2 / n) sigma."""
    rounds = torch.distributions.Normal(10, 1).icdf(torch.arange(1, 1000) / 1000).tolist()
    found = timing.timed(rounds)
    assert found.seconds == pytest.approx(10)
    assert found.noise * 10 == pytest.approx(1.96 * (torch.pi / 2 / 999) ** 0.5, rel=0.2)
    assert timing.timed([3.0]) == timing.Timed(3.0, 0.0)


@pytest.mark.parametrize(('most', 'found'), [(1, 1), (6, 4), (1000, 512)])
def test_the_largest_batch_that_fits(most, found):
    def fits(size):
        if size > most:
            raise torch.OutOfMemoryError

    assert timing.largest_batch(fits) == found


def test_speeds_of_another_size_stay_where_they_compare(tmp_path):
    line = Speed(
        model='a',
        images_per_s=1,
        peak_memory_mib=1,
        device='A',
        precision='fp32',
        batch_size=1,
        torch='2',
    )
    other = line.model_copy(update={'model': 'b', 'size': '800 x 1280', 'batch_size': 2})
    keep_speeds(tmp_path, [line])
    keep_speeds(tmp_path, [other])
    assert set(load_speeds(tmp_path)) == {'a', 'b'}
    assert '224 x 224 in batches of 1 and 800 x 1280 in batches of 2' in conditions([line, other])
    keep_speeds(tmp_path, [other.model_copy(update={'device': 'B'})])
    assert set(load_speeds(tmp_path)) == {'b'}
