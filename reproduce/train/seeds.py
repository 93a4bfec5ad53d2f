"""Random numbers that depend on where a training is, and on nothing that came before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices, from the numbers in `key`."""
    torch.manual_seed(_seed_cpu(*key))


def _seed_cpu(*key: int) -> int:
    """Seed the generators of the CPU from the numbers in `key`; return the seed of torch's."""
    first, second, third = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    return third


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU's generators from the numbers in `key`, and restore them afterwards.

    Those of other devices are left alone, as reaching them takes as long as augmenting an image.
    """
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        _seed_cpu(*key)
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
