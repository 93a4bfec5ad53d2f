"""What the steps of a training take: time, waiting for data, memory."""

import json
import resource
import time
from pathlib import Path

import torch

from reproduce.base.files import write_atomically

# What a training with `--max-steps` writes into its output folder.
FILE = 'steps.json'


class MaxStepsReached(Exception):
    """Ends a training whose `max_steps` are done."""


class StepMeter:
    """Measures the steps of one process, which waits for its device before and after each.

    Args:
        device: what the steps are computed on.
        images: images of a step in all processes.
    """

    def __init__(self, device: torch.device, images: int) -> None:
        self.device, self.images = device, images
        self.waited: list[float] = []
        self.computed: list[float] = []
        self.loss = float('nan')
        self.last = time.perf_counter()

    def begin(self) -> None:
        """Note that the batch of a step has been read."""
        self.waited.append(self._elapsed())

    def end(self, loss: torch.Tensor) -> None:
        """Note that a step has been computed, with its loss."""
        self.computed.append(self._elapsed())
        self.loss = loss.item()

    def write(self, folder: Path) -> None:
        """Write means over the steps but the first, in which workers and devices start.

        The file has the seconds of a step and those of them spent waiting for data, images of a
        step in all processes, the peak memory of this process in bytes, and the last loss.
        """
        first = min(1, len(self.computed) - 1)
        steps = len(self.computed) - first
        waited, computed = sum(self.waited[first:]) / steps, sum(self.computed[first:]) / steps
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_reserved(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = {
            'images': self.images,
            'seconds': waited + computed,
            'waiting_seconds': waited,
            'peak_bytes': peak,
            'loss': self.loss,
        }
        write_atomically(folder / FILE, json.dumps(measured, indent=2) + '\n')

    def _elapsed(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        before, self.last = self.last, time.perf_counter()
        return self.last - before
