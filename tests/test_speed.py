"""The speed benchmark writes what the tables read."""

import pytest

from benchmarks import speed
from reproduce.report.speeds import conditions, load_speeds


@pytest.mark.slow
def test_the_benchmark_writes_what_the_tables_read(monkeypatch, tmp_path, capsys):
    micro = 'maformer_micro'
    for name in ('SWIN', 'DEIT'):
        monkeypatch.setattr(speed, name, micro)
    monkeypatch.setattr(speed, 'MAFORMERS', (micro,))
    speed.main(rounds=1, batch_size=2, threads=1, output=tmp_path)
    assert f'Written: {tmp_path}/speed.csv' in capsys.readouterr().out
    (found,) = load_speeds(tmp_path).values()
    assert (found.model, found.batch_size, found.precision) == (micro, 2, 'fp32')
    # One feature map of the first stage alone has 32 channels at 200 x 320, in four bytes each.
    assert found.peak_memory_mib > 32 * 200 * 320 * 4 / 2**20
    assert found.device.endswith(', 1 thread')
    assert found.device in conditions(found)
