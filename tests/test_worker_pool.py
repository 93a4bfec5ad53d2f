"""Computations divided among processes, of which some fail or are killed."""

import os
import signal

import pytest

from reproduce.base.errors import UserError
from reproduce.base.worker_pool import in_processes


def divided(a, b):
    if b is None:
        raise UserError('b is missing: give a number.')
    return {'ratio': a / b}


def test_one_that_fails_among_others(capsys):
    results = in_processes(divided, {'half': (1, 2), 'none': (1, 0)}, 'dividing')
    assert results == {'half': {'ratio': 0.5}, 'none': 'ZeroDivisionError: division by zero'}
    err = capsys.readouterr().err
    assert err.startswith('dividing: 2 to do\n')
    assert 'dividing: 2/2' in err


def test_what_the_user_can_mend_ends_all():
    with pytest.raises(UserError, match='b is missing'):
        in_processes(divided, {'half': (1, 2), 'none': (1, None)}, 'dividing')


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_sentence():
    with pytest.raises(UserError, match=r'^a process .* was killed, as when .*: .* again\.$'):
        in_processes(killed, {'a': (), 'b': ()}, 'ending')
