"""What torchrun and srun say in the environment of the processes that they start.

Nothing here needs torch, so that the command line can ask before it imports anything.
"""

import os
import re

from reproduce.base.errors import UserError

_TORCHRUN = 'TORCHELASTIC_RUN_ID'


def in_group() -> bool:
    """Return whether torchrun, srun (with more than one task) or `run` started this process."""
    return by_torchrun() or by_slurm()


def by_torchrun() -> bool:
    """Return whether torchrun, or its launcher in `distributed.run`, started this process."""
    return _TORCHRUN in os.environ


def by_slurm() -> bool:
    """Return whether srun started this process as one of several."""
    # An interactive shell under srun is one task, and starts its processes itself.
    return 'SLURM_PROCID' in os.environ and int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1


def rank() -> int:
    """Return the number of this process among those of the launcher; 0 where there is none."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0)))


def attempt() -> str:
    """Return what tells this start of the processes from others that may use the same port."""
    if by_torchrun():
        return f'{os.environ[_TORCHRUN]}/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}'
    return f'{os.environ["SLURM_JOB_ID"]}/{_step()}'


def set_torchrun_variables() -> None:
    """Set the environment variables of torchrun from those of srun; those that are set stay."""
    step = os.environ['SLURM_STEP_NODELIST']
    # The first of 'node[03-05,08]' or 'node03,node08'.
    first = re.sub(r'\[(\d+)[^\]]*\]', r'\1', step).split(',')[0]
    # Below the ports that Linux gives to connections. Up to 31 steps of a job, which may run side
    # by side, have ports of their own.
    port = 20_000 + (31 * int(os.environ['SLURM_JOB_ID']) + _step()) % 12_000
    for name, value in {
        'RANK': os.environ['SLURM_PROCID'],
        'WORLD_SIZE': os.environ['SLURM_STEP_NUM_TASKS'],
        'LOCAL_RANK': os.environ['SLURM_LOCALID'],
        'LOCAL_WORLD_SIZE': re.match(r'\d+', os.environ['SLURM_STEP_TASKS_PER_NODE'])[0],
        'MASTER_ADDR': first,
        'MASTER_PORT': str(port),
    }.items():
        os.environ.setdefault(name, value)


def _step() -> int:
    return int(os.environ.get('SLURM_STEP_ID') or os.environ.get('SLURM_STEPID') or 0)


def check_alone() -> None:
    """Check that no launcher started this process: it will start processes, again and again.

    Raises:
        UserError: if one did.
    """
    if in_group():
        raise UserError(
            'this evaluates several models, one after the other: start it once and give '
            '--processes; under torchrun or srun, evaluate one model at a time.'
        )
