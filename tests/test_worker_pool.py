"""Computations divided among processes, of which some fail or are killed."""

import os
import signal

import pytest

from reproduce.base.errors import UserError
from reproduce.base.worker_pool import in_processes


def divided(a, b):
    if b is None:
        raise UserError('b is missing: give a number.')
    if b == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    return {'ratio': a / b}


def test_one_that_fails_among_others(capsys):
    results = in_processes(divided, {'half': (1, 2), 'none': (1, 0)}, 'dividing')
    assert results == {'half': {'ratio': 0.5}, 'none': 'ZeroDivisionError: division by zero'}
    assert 'dividing: 2/2' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('b', 'message'), [(None, 'b is missing'), ('killed', r'^a worker process was killed')]
)
def test_an_error_that_the_user_can_fix_ends_all(b, message):
    with pytest.raises(UserError, match=message):
        in_processes(divided, {'half': (1, 2), 'other': (1, b)}, 'dividing')
