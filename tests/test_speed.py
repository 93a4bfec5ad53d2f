"""The speed benchmark: what it times, and what it writes."""

import re

import pytest
import torch

from benchmarks import speed
from reproduce.base.errors import UserError
from reproduce.report.speeds import Speed, conditions, keep_speeds, load_speeds

MICRO = 'maformer_micro'


def test_a_run_measures_speed_and_memory(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, 'MATRIX', {'cpu': 256})
    speed.main([MICRO], batch_size=2, rounds=2, threads=1, output=tmp_path)
    text = capsys.readouterr().out
    row = text.splitlines()[2].split()
    # The share of the peak follows from the printed rates.
    peak = float(re.search(r'peak ([0-9,]+) G', text)[1].replace(',', ''))
    flops = speed.subject(MICRO).flops() / 1e9
    assert float(row[4]) == pytest.approx(flops, abs=0.01)
    share = float(row[5]) * flops / peak
    assert float(row[7].rstrip('%')) / 100 == pytest.approx(share, abs=0.02)
    found = load_speeds(tmp_path)
    assert list(found) == [MICRO]
    assert found[MICRO].images_per_s == float(row[5])
    assert ', 1 thread (CPU time)' in conditions(found.values())
    # One map of the first stage alone has 32 channels at 200 x 320, in four bytes each.
    assert 32 * 200 * 320 * 4 / 2**20 < found[MICRO].peak_memory_mib < 200


def test_a_training_step_changes_the_weights(monkeypatch):
    built, build = [], speed.Subject.build
    monkeypatch.setattr(
        speed.Subject, 'build', lambda self, device: built.append(build(self, device)) or built[-1]
    )
    step = speed.passes(speed.subject(MICRO), 2, True, 'bf16', False, 'cpu')
    before = [p.detach().clone() for p in built[0].parameters()]
    step()
    changed = [not torch.equal(p, q) for p, q in zip(built[0].parameters(), before, strict=True)]
    assert all(changed)


def test_the_pass_of_a_detector():
    assert speed.subject('mask-rcnn_maformer-small_fpn_1x_coco').size == (800, 1280)
    subject = speed.subject('cascade-mask-rcnn_maformer-micro_fpn_shapes.py', (64, 96))
    assert not subject.is_classifier
    speed.passes(subject, 1, False, None, False, 'cpu')()


@pytest.mark.parametrize(
    ('models', 'options', 'message'),
    [
        (['swin_tiny_patch4_window7'], {}, "there is no model 'swin_tiny_patch4_window7'"),
        (['mask-rcnn_maformer-base_fpn_1x_coco'], {'train': True}, 'measures classifiers only'),
        ([MICRO], {'device': 'cuda'}, 'torch finds no GPU'),
    ],
)
def test_mistakes_are_one_sentence(models, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        speed.main(models, output=tmp_path, threads=1, **options)
    assert not list(tmp_path.iterdir())


def test_the_noise_is_that_of_the_median():
    """Against the standard error of a normal sample's median, sqrt(pi / 2 / n) sigma."""
    rounds = torch.distributions.Normal(10, 1).icdf(torch.arange(1, 1000) / 1000).tolist()
    assert speed.noise(rounds) * 10 == pytest.approx(1.96 * (torch.pi / 2 / 999) ** 0.5, rel=0.2)
    assert speed.noise([3.0]) == 0


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
