"""Random numbers that depend on where a training stands, and on nothing that came before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices, from the numbers in `key`."""
    first, second, third = _seeds(key)
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators from `key`, and restore them afterwards."""
    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = _seeds(key)
    try:
        random.seed(first)
        np.random.seed(second)
        torch.default_generator.manual_seed(third)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)


def _seeds(key: tuple[int, ...]) -> list[int]:
    return np.random.SeedSequence(key).generate_state(3).tolist()
