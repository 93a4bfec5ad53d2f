"""Seconds, peak memory and the device's own peak, as the speed benchmark measures them."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

MATRIX = {'cpu': 1024, 'cuda': 8192}  # side of the matrices whose product shows a device's peak
WARM_UP = {'cpu': 1, 'cuda': 5}


@dataclass(frozen=True)
class Timed:
    """The median of the rounds of one pass, in seconds.

    Attributes:
        noise: half of the 95 % interval of the median over the median, from the quartiles
            (McGill et al., 1978): 1.57 IQR / sqrt(n).
    """

    seconds: float
    noise: float


def timed(rounds: list[float]) -> Timed:
    """Return the median of `rounds` and its noise."""
    median = statistics.median(rounds)
    if len(rounds) < 2:
        return Timed(median, 0.0)
    lower, _, upper = statistics.quantiles(rounds, n=4, method='inclusive')
    return Timed(median, 1.57 * (upper - lower) / len(rounds) ** 0.5 / median)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call.

    On a GPU those between two events on its stream. On a CPU with one thread its CPU time, to which
    other programs on the machine add little; with several threads the time that passes.
    """
    if device.type == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


def in_turn(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Timed]:
    """Time all `works`, one round of all at a time, so that a slow moment of the machine hits all.

    Args:
        rounds: timed ones; some go before them, in which caches fill and kernels are chosen.
        after_round: called after each of the timed ones, such as to show the progress.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(WARM_UP[device.type]):
            work()
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds_of(work, device))
        after_round()
    return {name: timed(rounds) for name, rounds in taken.items()}


def matrix_product(
    device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], torch.Tensor], int]:
    """Return a product of two square matrices and its multiply-adds: what the device can reach."""
    side = MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, side**3


def peak_mib(device: torch.device) -> float:
    """Return the most memory in use so far, in MiB: on the GPU, or of this process on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    # getrusage would report the parent's peak where that was higher.
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


def largest_batch(fits: Callable[[int], object], most: int = 512) -> int:
    """Return the largest power of two up to `most` with which `fits` does not run out of memory.

    Raises:
        torch.OutOfMemoryError: if one image does not fit.
    """
    size = 1
    while True:
        try:
            fits(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            return size // 2
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if size >= most:
            return size
        size *= 2
