"""The tasks behind one interface: everything that differs between them is found here.

The facts about a task are here and need no torch. How its data lie on a disk is in `datasets.NAME`.
How models of its kind are evaluated is in `reproduce.tasks.KIND`, and what their predictions score
in `reproduce.tasks.KIND_scores`; both are imported when they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from datasets.subset import Split
    from reproduce.tasks.job import Job, Prepared
    from reproduce.tasks.scores import Scores


@dataclass(frozen=True)
class Kind:
    """What tasks have in common whose models are of one kind."""

    name: str  # of the modules of this kind in `reproduce.tasks`
    headlines: tuple[str, ...]  # the metrics that say which of two models is better
    suffixes: tuple[str, ...]  # of files of predictions
    batch_size: int = 1  # images a batch in an evaluation, unless an option names another number
    options: tuple[str, ...] = ()  # the fields of a `Job` that only some kinds have
    # Whether images of a batch are padded to the largest, which changes what is predicted for them.
    padded_batches: bool = False
    scope: str = ''  # the `default_scope` of the OpenMMLab configs of its models


CLASSIFICATION = Kind(
    'classification',
    headlines=('top1',),
    suffixes=('.csv.gz', '.csv'),
    batch_size=64,
    options=('preprocessing',),
)
DETECTION = Kind(
    'detection',
    headlines=('box_ap', 'mask_ap'),
    suffixes=('.json.gz', '.json'),
    padded_batches=True,
    scope='mmdet',
)
SEGMENTATION = Kind(
    'segmentation',
    headlines=('miou', 'ms_miou'),
    suffixes=('.zip',),
    options=('multi_scale',),
    scope='mmseg',
)


@dataclass(frozen=True)
class Task:
    """A task: a data set, and the kind of model that is evaluated on it."""

    name: str  # of the task, and of its module in `datasets`
    kind: Kind
    complete_data: str  # what the complete validation set is called, with a place for its size
    # The types of data set that OpenMMLab configs test on, by which tasks of one scope differ.
    datasets: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """See `Kind.scope`."""
        return self.kind.scope

    @property
    def images(self) -> int:
        """The number of images of the complete validation set."""
        return import_module(f'datasets.{self.name}').NUM_IMAGES['val']

    @property
    def validation_set(self) -> str:
        """What the complete validation set is called in messages."""
        return self.complete_data.format(self.images)

    def load_data(self, root: Path, split: str = 'val', limit: int | None = None) -> Any:
        """Return the task's data set under `root`, a `Split`; see `datasets.NAME.load`.

        Raises:
            DataNotFound: if it is not there.
            UserError: if it is not what it should be.
        """
        return import_module(f'datasets.{self.name}').load(root, split, limit)

    def load_part(self, root: Path, images: int) -> 'Split':
        """Return the data set under `root`, or the part of it with that many images."""
        data = self.load_data(root)
        return data if len(data.samples) <= images else self.load_data(root, limit=images)

    def score_file(self, path: Path, data: 'Split') -> 'Scores':
        """Score the predictions of `data` in a file.

        Raises:
            UserError: if it is missing, malformed or damaged, or does not fit the images.
        """
        return import_module(f'reproduce.tasks.{self.kind.name}_scores').score_file(path, data)

    def differing(self, path: Path, data: 'Split', again: Mapping[int, Any]) -> list[int]:
        """Return the images whose predictions in a file are not those `again`, by their places."""
        scores = import_module(f'reproduce.tasks.{self.kind.name}_scores')
        return scores.differing(path, data, again)

    def prepare(self, job: 'Job', device: 'torch.device') -> 'Prepared':
        """Find and check what a job needs, and build its model on `device`, with its weights.

        Raises:
            UserError: if the checkpoint, the data or an option is not what it should be.
        """
        return import_module(f'reproduce.tasks.{self.kind.name}').prepare(job, device)

    def point_dataset(self, dataset: Any, data: 'Split') -> None:
        """Let the dataset of a loader of an OpenMMLab config read `data` and its class names."""
        import_module(f'reproduce.tasks.{self.kind.name}').point_dataset(dataset, data)


TASKS = {
    task.name: task
    for task in (
        Task('imagenet', CLASSIFICATION, "ImageNet-1K's {:,} validation images"),
        Task('coco', DETECTION, "COCO's {:,} images of val2017", ('CocoDataset',)),
        Task(
            'ade20k',
            SEGMENTATION,
            "ADE20K's {:,} validation images",
            ('ADE20KDataset', 'BaseSegDataset'),
        ),
    )
}


def known_task(name: str) -> str:
    """Return the name, if it is that of a task; else raise a `ValueError`."""
    if name not in TASKS:
        raise ValueError(f'{name!r}; expected one of {", ".join(TASKS)}')
    return name
