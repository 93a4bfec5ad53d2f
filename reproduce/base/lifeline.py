"""Connections between the processes of a job that break when one of them ends.

Every process keeps a connection to the first one. Whatever ends a process, the kernel closes its
connection, so the others learn of it at once, also while they compute and where no message could
be sent any more. The first failure that the first process hears of is sent to all of them.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

# A process that does not look at a failure of others within so many seconds is ended: it waits in a
# collective operation that never comes back. One that knows has longer, to end its workers.
GRACE, GRACE_TO_END = 10.0, 60.0

# An unplugged machine closes nothing: it is asked for a sign of life after so many idle seconds,
# three times.
_IDLE, _INTERVAL, _TIMES = 10, 5, 3


@dataclass(frozen=True)
class Failure:
    """What ended a job.

    Attributes:
        rank: the process that says it.
        message: one sentence.
        lost: whether a process ended without saying why.
    """

    rank: int
    message: str
    lost: bool = False


class Lifeline:
    """The connections of one process.

    Args:
        rank, size: which of how many processes this one is.
        token: what the processes of this job know, and nobody else.

    Attributes:
        port: of the first process, where the others connect to.
        failed: set once there is a failure.
        known: whether this process's own work has taken notice of it, and is ending.
    """

    def __init__(self, rank: int, size: int, token: str) -> None:
        self.rank, self.size, self.token = rank, size, token
        self.first: Failure | None = None
        self.failed = threading.Event()
        self.closing = self.known = False
        self.port = 0
        self._lock = threading.RLock()
        # Of the first process: the connection and the machine of each other one. Of the others: the
        # connection to the first one.
        self._connections: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {0: socket.gethostname()}
        self._left: set[int] = set()
        self._listening: socket.socket | None = None
        os.register_at_fork(after_in_child=self._forget)

    def listen(self) -> int:
        """Let the other processes connect to this first one; return the port."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._listening = socket.create_server(
            ('', 0), family=family, dualstack_ipv6=dual, backlog=max(128, self.size)
        )
        self.port = self._listening.getsockname()[1]
        _in_background(self._accept)
        return self.port

    def connect(self, address: str, port: int, host: str, timeout: float) -> None:
        """Connect to the first process, which runs on the machine `host`.

        Raises:
            OSError: if it cannot be reached.
        """
        connection = socket.create_connection((address, port), timeout)
        connection.settimeout(None)
        _keep_alive(connection)
        self._hosts[0] = host
        self._connections[0] = connection
        me = {'rank': self.rank, 'host': socket.gethostname(), 'token': self.token}
        _send(connection, me)
        _in_background(self._listen_to, 0, connection)

    def missing(self) -> list[int]:
        """Return the processes that have not connected to this first one."""
        with self._lock:
            return [rank for rank in range(self.size) if rank not in self._hosts]

    def fail(self, message: str) -> Failure:
        """Say why this process fails; return the first failure of all processes."""
        self.known = True
        mine = Failure(self.rank, message)
        if self.rank == 0:
            self._declare(mine)
        elif not self.failed.is_set():
            try:
                _send(self._connections[0], {'failure': [mine.rank, mine.message, mine.lost]})
            except OSError:
                self._declare(mine)
            if not self.failed.wait(GRACE / 2):
                self._declare(mine)
        return self.first

    def close(self) -> None:
        """Take leave: the end of this process will be no failure."""
        with self._lock:
            self.closing = True
            connections = list(self._connections.values())
            if self._listening is not None:
                self._listening.close()
        for connection in connections:
            try:
                _send(connection, {'left': True})
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other one has ended already

    def described(self, rank: int) -> str:
        """Return which process that is, and on which machine."""
        host = self._hosts.get(rank)
        return f'process {rank} of {self.size}' + (f' on {host}' if host else '')

    def _forget(self) -> None:
        """Close the connections in a forked process: they break when their own process ends."""
        for connection in (self._listening, *self._connections.values()):
            if connection is not None and (descriptor := connection.detach()) >= 0:
                os.close(descriptor)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # this process has taken leave
            _keep_alive(connection)
            _in_background(self._welcome, connection)

    def _welcome(self, connection: socket.socket) -> None:
        """Listen to another process, if it is one of this job."""
        with connection.makefile('rb') as lines:
            try:
                hello = json.loads(lines.readline(4096))
                rank = int(hello['rank']) if hello['token'] == self.token else None
            except (OSError, ValueError, KeyError, TypeError):
                rank = None
            if rank is None:
                connection.close()
                return
            with self._lock:
                self._hosts[rank] = hello['host']
                self._connections[rank] = connection
                if self.first is not None:
                    self._tell(rank)
            self._follow(rank, lines)

    def _listen_to(self, rank: int, connection: socket.socket) -> None:
        with connection.makefile('rb') as lines:
            self._follow(rank, lines)

    def _follow(self, rank: int, lines: socket.SocketIO) -> None:
        """Hear what another process says, until it ends."""
        try:
            for line in lines:
                said = json.loads(line)
                if 'left' in said:
                    self._left.add(rank)
                elif 'failure' in said:
                    self._declare(Failure(*said['failure']))
        except (OSError, ValueError):
            pass  # its machine is gone, or it was killed within a line
        if rank in self._left or self.closing:
            return
        self._declare(
            Failure(
                self._speaker(),
                f'{self.described(rank)} ended without an error, as when it is killed or the '
                'memory of its machine is full: look for its end in the log of its machine.',
                lost=True,
            )
        )

    def _speaker(self) -> int:
        """Return the process that reports a loss; without the first one, one on each machine."""
        if self.rank == 0:
            return 0
        with_the_first = self.rank < int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        speaks = self.rank == 1 if with_the_first else os.environ.get('LOCAL_RANK') == '0'
        return self.rank if speaks else -1

    def _declare(self, failure: Failure) -> None:
        """Keep the first failure, and tell the others."""
        with self._lock:
            if self.first is not None:
                return
            self.first = failure
            if self.rank == 0:
                for rank in self._connections:
                    self._tell(rank)
            self.failed.set()
        _in_background(self._end_in_time)

    def _tell(self, rank: int) -> None:
        first = self.first
        with suppress(OSError):  # it has ended, too
            _send(self._connections[rank], {'failure': [first.rank, first.message, first.lost]})

    def _end_in_time(self) -> None:
        """End this process if it does not end by itself."""
        time.sleep(GRACE)
        if self.known:
            time.sleep(GRACE_TO_END)
        if self.closing:
            return
        if self.first.rank == self.rank:
            print(f'error: {self.first.message}', file=sys.stderr, flush=True)
        os._exit(2)


def _in_background(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _send(connection: socket.socket, content: dict[str, object]) -> None:
    connection.sendall(json.dumps(content).encode() + b'\n')


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TIMES)


def wait_until(condition: Callable[[], bool], seconds: float, poll: float = 0.02) -> bool:
    """Return whether the condition holds within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(poll)
    return True
