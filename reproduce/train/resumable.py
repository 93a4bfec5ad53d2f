"""Data of mmengine's trainings that is the same after a resumption, in the middle of an epoch too.

mmengine resumes at the beginning of an epoch, and draws augmentations from generators that its
workers seed when they start. Here each item is augmented from a seed of its own, made of the number
of the iteration that it belongs to and of its index; and a batch sampler can leave out the batches
that a resumed training has done.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from torch.utils.data import BatchSampler, Dataset, Sampler

from reproduce.train.seeds import seeded
from reproduce.train.stopping import survive_signals

FUNCTIONS.register_module(module=survive_signals)


@DATA_SAMPLERS.register_module()
class NumberedBatches:
    """The batches of another sampler, as lists of (number of the iteration, index).

    Args:
        sampler: of the indices.
        batch_size: indices of a batch.
        batches: the config of the batch sampler; None cuts the indices as they come.
        drop_last: leave out a last batch that is not full; without `batches` only.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batches: dict[str, Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        if batches is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            arguments = {'sampler': sampler, 'batch_size': batch_size}
            self.batches = DATA_SAMPLERS.build(batches, default_args=arguments)
        self.sampler, self.batch_size = sampler, batch_size
        self.number = self.done = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        done, self.done = self.done, 0
        for i, batch in enumerate(self.batches):
            if i >= done:
                yield [(self.number, index) for index in batch]
            self.number += 1

    def go_to(self, begin: int, iteration: int) -> None:
        """Let the next pass over the batches be the one that began at iteration `begin`.

        Those before `iteration` are left out of it.
        """
        self.number, self.done = begin, iteration - begin


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose item (number, index) is drawn from the seed (seed, number, index).

    Args:
        dataset: the config of the data set.
        seed: decides all of the augmentation.
    """

    def __init__(self, dataset: dict[str, Any], seed: int) -> None:
        self.dataset, self.seed = DATASETS.build(dataset), seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        number, index = key
        with seeded(self.seed, number, index):
            return self.dataset[index]

    def full_init(self) -> None:
        """Read the annotations, as mmengine asks for."""
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Return what is known of an image before it is read, as batch samplers ask for."""
        return self.dataset.get_data_info(index)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The classes, and what else the data set says of itself."""
        return self.dataset.metainfo


def make_resumable(config: Config) -> None:
    """Let the data loaders of a config serve a training that may be stopped and resumed.

    The training loader gives `NumberedBatches` of a `SeededDataset`.

    Args:
        config: changed in place; its `randomness` has a seed.
    """
    loader = config.train_dataloader
    loader.dataset = {
        'type': SeededDataset.__name__,
        'dataset': loader.dataset,
        'seed': config.randomness.seed,
    }
    loader.batch_sampler = {
        'type': NumberedBatches.__name__,
        'batches': loader.get('batch_sampler'),
        'drop_last': loader.pop('drop_last', False),
    }
    for loader in (config.train_dataloader, config.get('val_dataloader')):
        if loader is not None:
            loader.persistent_workers = loader.get('num_workers', 0) > 0
            loader.worker_init_fn = {'type': survive_signals.__name__}
