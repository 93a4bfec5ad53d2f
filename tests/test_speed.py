"""The speed benchmark: what it times and prints."""

import re

import pytest
import torch

from benchmarks import speed

MICRO = 'maformer_micro'


def test_a_run_measures_speed_and_memory(capsys, monkeypatch):
    monkeypatch.setattr(speed, 'MATRIX', {'cpu': 256})
    speed.main([MICRO], batch_size=2, rounds=2, threads=1)
    text = capsys.readouterr().out
    row = text.splitlines()[2].split()
    # The share of the peak follows from the printed rates.
    peak = float(re.search(r'peak ([0-9,]+) G', text)[1].replace(',', ''))
    flops = speed.subject(MICRO).flops() / 1e9
    assert float(row[4]) == pytest.approx(flops, abs=0.01)
    share = float(row[5]) * flops / peak
    assert float(row[6].rstrip('%')) / 100 == pytest.approx(share, abs=0.02)
    assert ', 1 thread (CPU time)' in text
    assert 0 < float(row[8]) < 200


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
