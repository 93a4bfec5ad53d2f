"""Random numbers that depend on where a training is, and on nothing that came before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices, from the numbers in `key`."""
    first, second, third = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed everything from the numbers in `key`, and restore the CPU's generators afterwards."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        seed_everything(*key)
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
