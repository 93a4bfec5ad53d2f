"""Calls of a function in several ranks, as the tests of several processes make them.

Run as a program it is one of the ranks.
"""

import pickle
import sys
import tempfile
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.base.processes import rank, speaks, start, start_again


def in_ranks(processes, function, *arguments):
    """Return what `function(*arguments)` returns in the first rank, or raise its error."""
    if processes == 1:
        return function(*arguments)
    with tempfile.TemporaryDirectory() as folder:
        call, answer = Path(folder, 'call'), Path(folder, 'answer')
        # The paths come first: the function is found on one of them.
        call.write_bytes(pickle.dumps((sys.path, pickle.dumps((function, arguments)))))
        status = start(processes, __file__, str(call), str(answer))
        assert answer.exists(), status
        result, error = pickle.loads(answer.read_bytes())
    if error is not None:
        raise error
    return result


if __name__ == '__main__':
    start_again(2)
    sys.path, call = pickle.loads(Path(sys.argv[1]).read_bytes())
    function, arguments = pickle.loads(call)
    try:
        result, error = function(*arguments), None
    except UserError as failure:
        result, error = None, failure
    if rank() == 0 if error is None else speaks(error):
        Path(sys.argv[2]).write_bytes(pickle.dumps((result, error)))
    sys.exit(0 if error is None else error.status)
