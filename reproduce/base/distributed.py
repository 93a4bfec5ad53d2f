"""Work on several processes, on one machine or many, that all succeed or all fail with one error.

`run` is the one way in: it starts the processes, or joins those that torchrun or srun started, and
calls a function with the `Group` in each of them. `joined` is around a whole command under torchrun
or srun, so that a failure before the work begins ends all processes, too.
"""

import ctypes
import gc
import json
import logging
import multiprocessing
import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import SignalException
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from reproduce.base import launcher
from reproduce.base.errors import OutOfMemory, UserError
from reproduce.base.files import write_atomically
from reproduce.base.launcher import in_group
from reproduce.base.lifeline import Lifeline, wait_until
from reproduce.base.versions import CHECKOUT
from reproduce.base.wording import by_number, shortened

# So many seconds are given to the process that failed first to say why.
_PATIENCE = 5.0

_POLL = 0.02

# A launcher starts all processes at once, and what delays one is reading Python and torch from its
# disk. So it is waited for ten times as long as that took here, and no less than these seconds;
# after the first number the first process says whom it waits for.
_SILENCE, _ARRIVAL = 15.0, 60.0
_IMPORTED = time.clock_gettime(time.CLOCK_BOOTTIME)

# torchrun keeps a store from before it starts the first process until after the last has ended.
_STORE_OF_TORCHRUN = 15.0

# One process may score all of COCO, which takes pycocotools minutes, while the others wait in a
# collective operation. NCCL's own limit is ten minutes.
_TIMEOUT = timedelta(hours=2)

# The environment variable that says how many seconds a process is waited for at the start instead.
START_SECONDS = 'REPRODUCE_START_SECONDS'

# The signals by which schedulers ask a job to end, or warn it that it will be.
_OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)

# The environment variables of the fork server, which imports this module before others are forked.
_ENVIRONMENT = dict(os.environ)

# Of prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


class ProcessLost(UserError):
    """The end of another process that did not say why it ended."""


def run(
    function: Callable[..., Any], *arguments: Any, processes: int = 1, device: str | None = None
) -> Any:
    """Call `function(group, *arguments)` in each of several processes.

    Under torchrun or srun these are the processes that it started, and this one is one of them;
    otherwise `processes` are started on this machine, and for one this process does the work.

    Args:
        function: an importable function; it and the arguments are pickled.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.

    Returns:
        what the function returned in the first process; None in the others of a launcher.

    Raises:
        UserError: if `processes` is not positive, or if any process fails in a way that its user
            can mend: the same sentence in all of them.
    """
    if processes < 1:
        raise UserError(f'{processes} processes can do no work: give 1 or more.')
    if processes > 1 and not in_group():
        return _launch(function, arguments, processes, device)
    return _work(function, arguments, device)


@dataclass(frozen=True)
class Group:
    """The processes that work on one job, seen from one of them.

    Attributes:
        rank, size: which of how many this one is.
        local_size: how many share this machine.
        device: what this one computes on.
        store: values that all processes read and write.
        lifeline: the connections to the other processes; None if there are none.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    store: dist.Store
    lifeline: Lifeline | None = None

    @property
    def failed(self) -> bool:
        """Whether one of the processes has failed."""
        return self.lifeline is not None and self.lifeline.failed.is_set()

    def agree(self) -> None:
        """Wait until every process has come here, however long one of them takes.

        Raises:
            UserError: if one of them has failed instead, with its sentence, or has ended its work.
        """
        if self.size == 1:
            return
        # The n-th arrival completes round n / size: nobody enters a round before the last is over.
        arrival = self._count('arrivals', 1)
        last = -(-arrival // self.size) * self.size
        while True:
            left = self._count('left', 0)
            if self._count('arrivals', 0) >= last:
                return  # also where one has come here and failed since
            if self.failed:
                raise self._first_failure()
            if left:
                raise self._first_failure(
                    UserError(
                        f'{left} of {self.size} processes ended their work while others wait for '
                        'them: start all of them with the same command.'
                    )
                )
            time.sleep(_POLL)

    def check_same(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all processes have the same facts: whatever decides the numbers.

        Args:
            facts: returns values by what they are called in the message, what explains most first.
                It is not called where there is one process: hashing weights and images takes time.

        Raises:
            UserError: if a value differs, in all processes.
        """
        if self.size == 1:
            return
        texts = {name: _text(value) for name, value in facts().items()}
        # The checks are numbered as the arrivals in `agree` are.
        place = f'facts/{-(-self._count("checks", 1) // self.size)}'
        self.store.set(f'{place}/{self.rank}', json.dumps(texts))
        self.agree()
        if self.rank == 0:
            found = [json.loads(self.store.get(f'{place}/{i}')) for i in range(self.size)]
            if sentence := _difference(found, self.lifeline):
                raise self._first_failure(UserError(sentence))
        self.agree()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let a failure of this process end the others, and one of theirs end this one.

        The processes that are not waiting for the one that failed find out when they look at
        `failed`, or call `agree`; those that do neither are ended some seconds later.

        Raises:
            UserError: if a process raised one, ran out of memory, or ended without a word: the same
                sentence in all processes.
        """
        try:
            yield
        except UserError as error:
            raise self._first_failure(error) from error.__cause__
        except torch.OutOfMemoryError:
            raise self._first_failure(
                OutOfMemory(
                    f'the memory of {self.device} does not hold a batch: lower the batch size.'
                )
            ) from None
        except Exception as error:
            if self.size == 1:
                raise
            if isinstance(error, RuntimeError) and wait_until(lambda: self.failed, _PATIENCE):
                raise self._first_failure() from None
            if _is_broken_connection(error):
                raise self._first_failure(
                    UserError(
                        f'{self.lifeline.described(self.rank)} lost its connection to another one: '
                        f'{error}'.splitlines()[0]
                    )
                ) from error
            self._first_failure(UserError(_described(self.rank, self.size, error)))
            raise

    def say_failed(self, what: str) -> None:
        """Tell the other processes that this one failed, if it is the first."""
        if self.lifeline is not None:
            self.lifeline.fail(f'{self.lifeline.described(self.rank)} {what}.')

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all processes, on the CPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor.cpu()

    def gather(self, part: list[Any]) -> list[Any] | None:
        """Return the parts of all processes in one list; None in all but the first of them."""
        if self.size == 1:
            return part
        parts = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts)
        return None if parts is None else [item for part in parts for item in part]

    def _count(self, name: str, step: int) -> int:
        """Add to a number that all processes share, and return it.

        Raises:
            UserError: if the process that keeps it has ended.
        """
        try:
            return self.store.add(name, step)
        except dist.DistError:
            wait_until(lambda: self.failed, _PATIENCE)
            raise self._first_failure(
                UserError(f'{self.lifeline.described(0)} ended while others wait for it.')
            ) from None

    def _first_failure(self, own: UserError | None = None) -> UserError:
        """Return the error of the process that failed first, which is this one if none did."""
        if self.lifeline is None:
            return own
        self.lifeline.known = True
        first = self.lifeline.first if own is None else self.lifeline.fail(str(own))
        if own is not None and str(own) == first.message:
            error = own
        else:
            error = ProcessLost(first.message) if first.lost else UserError(first.message)
        error.rank = first.rank
        return error


@contextmanager
def join(device: str | None = None) -> Iterator[Group]:
    """Join the group that torchrun, srun or `run` started this process in, or one of it alone.

    NCCL connects GPUs, gloo CPUs. Processes on CPUs share the cores of their machine.

    Args:
        device: 'cpu' or 'cuda'; None takes the GPUs where there are some.

    Raises:
        UserError: if there are fewer GPUs than processes on this machine.
    """
    with _connected() as link:
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        local_rank = int(os.environ.get('LOCAL_RANK', 0))
        local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        chosen = torch.device(device)
        if device == 'cuda':
            gpu = _gpu_of(local_rank, local_size, torch.cuda.device_count())
            chosen = torch.device(device, gpu)
            torch.cuda.set_device(chosen)
        if link is None:
            yield Group(0, 1, 1, chosen, dist.HashStore())
            return
        with _threads(device, local_size):
            dist.init_process_group(
                'nccl' if device == 'cuda' else 'gloo',
                store=dist.PrefixStore(f'group/{link.next_group()}', link.store),
                rank=link.rank,
                world_size=link.size,
                timeout=_TIMEOUT,
                device_id=chosen if device == 'cuda' else None,
            )
            try:
                yield Group(link.rank, link.size, local_size, chosen, link.job, link.lifeline)
            except BaseException:
                # NCCL takes its leave together with the others, who may never come.
                if device == 'cuda':
                    dist.group.WORLD.abort()
                else:
                    dist.destroy_process_group()
                raise
            dist.destroy_process_group()


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torchrun or srun, and let a failure of one of them end the others.

    Raises:
        UserError: the error of the process that failed first.
    """
    with _connected() as link:
        group = link.group()
        with group.failing_together():
            try:
                yield
            except SystemExit as stop:
                if stop.code not in (None, 0):
                    group.say_failed(f'ended with status {stop.code}: its own output says why')
                raise
            except KeyboardInterrupt:
                group.say_failed('was interrupted')
                raise


class _Link:
    """This process's connections to the other processes of torchrun, srun or `run`.

    Attributes:
        rank, size: which of how many this one is.
        store: the values of the launcher, by keys of this start of the processes only.
        job: of these, the ones that the processes share.
        lifeline: the connections that break when a process ends; None for a single process.
    """

    def __init__(self) -> None:
        if launcher.by_slurm():
            launcher.set_torchrun_variables()
        else:
            end_with_the_parent()
        self.rank, self.size = launcher.rank(), int(os.environ['WORLD_SIZE'])
        self.groups = 0
        root = _open_store(self.rank, self.size)
        self.store = dist.PrefixStore(launcher.attempt(), root)
        self.job = dist.PrefixStore('job', self.store)
        self.lifeline: Lifeline | None = None
        if self.size > 1:
            self._connect()
            self.group().agree()

    def group(self) -> Group:
        """Return the processes as a group without a device, for what comes before the work."""
        cpu = torch.device('cpu')
        return Group(self.rank, self.size, 1, cpu, self.job, self.lifeline)

    def next_group(self) -> int:
        """Return the number of the next process group; it is the same in all processes."""
        self.groups += 1
        return self.groups

    def close(self) -> None:
        """Take leave of the others."""
        if self.lifeline is not None:
            with suppress(dist.DistError):  # the process that kept it has left
                self.job.add('left', 1)
            self.lifeline.close()

    def _connect(self) -> None:
        """Connect the lifeline, and wait until all processes have.

        Raises:
            UserError: if one does not come.
        """
        if self.rank == 0:
            token = secrets.token_hex()
            self.lifeline = Lifeline(0, self.size, token)
            where = [self.lifeline.listen(), socket.gethostname(), token]
            self.job.set('lifeline', json.dumps(where))
            self._wait_for_all()
            return
        self._wait_for_the_first()
        port, host, token = json.loads(self.job.get('lifeline'))
        self.lifeline = Lifeline(self.rank, self.size, token)
        address = os.environ['MASTER_ADDR']
        try:
            self.lifeline.connect(address, port, host, _ARRIVAL)
        except OSError as error:
            raise UserError(
                f'process {self.rank} of {self.size} cannot connect to {address}:{port} of process '
                f'0 ({error.strerror or error}): let the machines of a job reach each other.'
            ) from error

    def _wait_for_the_first(self) -> None:
        begin = time.monotonic()
        try:
            while not self.job.check(['lifeline']):
                if time.monotonic() > begin + _arrival_limit():
                    raise _not_started([0], self.size)
                time.sleep(_POLL)
        except dist.DistError:
            raise _not_started([0], self.size) from None

    def _wait_for_all(self) -> None:
        lifeline, begin, silent = self.lifeline, time.monotonic(), True
        while (missing := lifeline.missing()) and not lifeline.failed.is_set():
            waited = time.monotonic() - begin
            if waited > _arrival_limit():
                error = _not_started(missing, self.size)
                error.rank = lifeline.fail(str(error)).rank
                raise error
            if silent and waited > _SILENCE:
                silent = False
                print(f'waiting for {_processes(missing, self.size)}', file=sys.stderr, flush=True)
            time.sleep(_POLL)


_link: _Link | None = None


@contextmanager
def _connected() -> Iterator[_Link | None]:
    """Connect this process to the others of its launcher, once; None if there is no launcher."""
    global _link
    if _link is not None or not in_group():
        yield _link
        return
    _link = _Link()
    try:
        yield _link
    finally:
        _link.close()
        _link = None


def _open_store(rank: int, size: int) -> dist.Store:
    """Return the store of torchrun's agent; under srun the first process keeps one.

    Raises:
        UserError: if it cannot be kept or reached.
    """
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    of_torchrun = os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
    keeps = rank == 0 and not of_torchrun
    limit = _STORE_OF_TORCHRUN if of_torchrun else _arrival_limit()
    try:
        return dist.TCPStore(
            address,
            port,
            size,
            keeps,
            timeout=timedelta(seconds=limit),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        if keeps:
            raise UserError(
                f'process 0 cannot use the port {port} of this machine: name a free one in '
                'MASTER_PORT, the same on all machines.'
            ) from error
        raise UserError(
            f'process {rank} of {size} does not reach process 0 at {address}:{port} within '
            f'{limit:.0f} s: it has ended, or is elsewhere; look at its log, or name its place in '
            'MASTER_ADDR and MASTER_PORT.'
        ) from error


def _processes(ranks: list[int], size: int) -> str:
    names = shortened([str(rank) for rank in ranks])
    return f'{by_number(ranks, "process", "processes")} {names} of {size}'


def _not_started(ranks: list[int], size: int) -> UserError:
    return UserError(
        f'{_processes(ranks, size)} did not start, or ended before joining the others: look for '
        'the reason in the log of that machine.'
    )


def _arrival_limit() -> float:
    """Return the seconds that another process is waited for."""
    if limit := os.environ.get(START_SECONDS):
        return float(limit)
    with open('/proc/self/stat') as file:
        ticks = int(file.read().rpartition(')')[2].split()[19])  # from the start of the machine
    began = ticks / os.sysconf('SC_CLK_TCK')
    return max(_ARRIVAL, 10 * (_IMPORTED - began))


def end_with_the_parent(with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Let this process get a signal when the one that started it ends, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, with_signal)
        return

    # For the kernel a fork server is the parent, and it outlives the process that it works for.
    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), with_signal)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _threads(device: str, local_size: int) -> Iterator[None]:
    """Share the cores of the machine among its processes, unless OMP_NUM_THREADS decides.

    The number of threads decides the order of sums, and with it the last digits.
    """
    if device != 'cpu' or 'OMP_NUM_THREADS' in os.environ:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _difference(found: list[dict[str, str]], lifeline: Lifeline) -> str:
    """Return a sentence on the first fact that not all processes share; '' if they share all.

    Args:
        found: the facts of each process.
    """
    names = list(dict.fromkeys(name for facts in found for name in facts))
    differing = [name for name in names if len({facts.get(name) for facts in found}) > 1]
    if not differing:
        return ''
    name, others = differing[0], differing[1:]
    ranks: dict[str, list[int]] = {}
    for rank, facts in enumerate(found):
        ranks.setdefault(facts.get(name, 'nothing'), []).append(rank)
    values = '; '.join(
        f'{_cut(value, list(ranks))} in {shortened([lifeline.described(rank) for rank in same])}'
        for value, same in ranks.items()
    )
    more = f' (and {", ".join(others)})' if others else ''
    return (
        f'the processes do not have the same {name}{more}: {values}; start all of them with the '
        'same code, command, weights and data.'
    )


def _same_characters(values: list[str]) -> int:
    """Return the number of characters that all values begin with."""
    columns = zip(*values, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _cut(value: str, values: list[str], most: int = 60) -> str:
    """Return at most so many characters of `value`, from shortly before it differs from others."""
    if len(value) <= most:
        return value
    begin = max(0, _same_characters(values) - 20)
    part = value[begin : begin + most]
    return ('...' if begin else '') + part + ('...' if begin + most < len(value) else '')


def _gpu_of(local_rank: int, local_size: int, gpus: int) -> int:
    """Return the index of a process's GPU among the `gpus` that it sees."""
    # With --gpus-per-task=1 a task of srun sees no GPU but its own. MMEngine reads LOCAL_RANK too.
    if launcher.by_slurm() and gpus == 1:
        os.environ['LOCAL_RANK'] = '0'
        return 0
    if local_size > gpus:
        raise UserError(
            f'{local_size} processes have {gpus} GPUs on this machine: expected one for each; '
            'start fewer, or take --device cpu.'
        )
    return local_rank


def _work(function: Callable[..., Any], arguments: tuple, device: str | None) -> Any:
    """Do the part of this process; return the first one's result, and None in the others."""
    try:
        with join(device) as group, group.failing_together():
            result = function(group, *arguments)
    except UserError as error:
        if _link is None:  # no command is around it that would do so
            give_way(error)
        raise
    return result if group.rank == 0 else None


def give_way(error: UserError) -> None:
    """Let the process that says why it failed end first: a launcher then ends all others."""
    if in_group() and error.rank not in (None, launcher.rank()):
        time.sleep(_PATIENCE)


def _launch(
    function: Callable[..., Any], arguments: tuple, processes: int, device: str | None
) -> Any:
    """Call `function` in `processes` processes that torchrun's own launcher starts."""
    with tempfile.TemporaryDirectory() as folder, _quiet_launcher():
        _start_fork_server(function.__module__)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend='c10d',
            rdzv_endpoint='localhost:0',
            run_id=uuid.uuid4().hex,
            max_restarts=0,
            start_method='forkserver',
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle='SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1',
        )
        reported = Path(folder) / 'error.pickle'
        try:
            return elastic_launch(config, _work_reporting)(
                function, arguments, device, reported, dict(os.environ)
            )[0]
        except (SignalException, ChildFailedError) as error:
            if reported.exists():
                failure = pickle.loads(reported.read_bytes())
                failure.rank = 0  # here it is this process that prints it
            elif isinstance(error, SignalException):
                failure = KeyboardInterrupt()
            else:
                failure = _unreported(*error.get_first_failure(), processes)
        finally:
            # The launcher's store joins its thread when it is deleted. Left to chance that could be
            # in a process forked from this one, which does not have the thread, and would crash.
            gc.collect()
    raise failure


def _start_fork_server(module: str) -> None:
    """Start the process that the others are forked from, once `module` and torch are imported.

    So libraries are imported once, and not by each process. It never computes, nor uses a GPU.
    """
    multiprocessing.set_forkserver_preload([__name__, 'timm', module])
    # A scheduler's signals reach every process of a job, and those that compute answer them. This
    # one, and the other helper of multiprocessing, would end, and take the processes with them.
    for number in _OF_SCHEDULERS:
        signal.signal(number, signal.SIG_IGN)
    with chdir(CHECKOUT):  # where it finds the modules
        forkserver.ensure_running()
    for number in _OF_SCHEDULERS:
        signal.signal(number, signal.SIG_DFL)


def _work_reporting(
    function: Callable[..., Any],
    arguments: tuple,
    device: str | None,
    reported: Path,
    environment: dict[str, str],
) -> Any:
    """Do the part of a process that `_launch` started; leave a `UserError` in a file for it."""
    for number in _OF_SCHEDULERS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher gets it too, and ends this process
    # Data-loading workers start as they do in a process of torchrun or srun.
    multiprocessing.set_start_method(None, force=True)
    # The fork server has the variables of when it was started; the launcher has added its own.
    added = {name: v for name, v in os.environ.items() if v != _ENVIRONMENT.get(name)}
    os.environ.clear()
    os.environ.update(environment | added)
    try:
        return _work(function, arguments, device)
    except ProcessLost as error:
        # The launcher knows better what ended a process, and ends this one now, if it was killed.
        time.sleep(_PATIENCE)
        if not reported.exists():
            write_atomically(reported, pickle.dumps(error))
    except UserError as error:
        if error.rank in (None, launcher.rank()) or not reported.exists():
            write_atomically(reported, pickle.dumps(error))
    sys.exit(2)  # then the launcher ends the others


def _unreported(rank: int, failure: ProcessFailure, processes: int) -> Exception:
    """Return the error for a process that a signal, or an error that is no `UserError`, ended."""
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        sentence = f'process {rank} of {processes} was ended by the signal {name}'
        if name == 'SIGKILL':
            return OutOfMemory(f'{sentence}, as when the memory of the machine is full.')
        return UserError(f'{sentence}.')
    if not isinstance(failure.message, dict):
        return UserError(f'process {rank} of {processes} ended with status {failure.exitcode}.')
    error = RuntimeError(f'process {rank} of {processes} failed: {failure.message["message"]}')
    error.add_note(failure.message['extraInfo']['py_callstack'])
    return error


def _is_broken_connection(error: Exception) -> bool:
    # gloo raises nothing more special, and names its source file.
    return isinstance(error, dist.DistError) or '/gloo/transport/' in str(error)


def _described(rank: int, size: int, error: Exception) -> str:
    return f'process {rank} of {size} failed: {type(error).__name__}: {error}'.splitlines()[0]


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in caught}
    try:
        yield
    finally:
        logging.disable(disabled)
        for number, handler in handlers.items():
            signal.signal(number, handler)
