"""The tasks behind one interface: everything that differs between them is found here.

The facts about a task are here and need no torch. How its data lie on a disk is in `datasets.NAME`.
How models of its kind are evaluated is in `reproduce.tasks.KIND`, and what their predictions score
in `reproduce.tasks.KIND_scores`; both are imported when they are needed.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from reproduce.tasks.job import Job, Prepared
    from reproduce.tasks.scores import Scores


@dataclass(frozen=True)
class Task:
    """A task: a data set, and the kind of model that is evaluated on it.

    Attributes:
        name: of the task, and of its module in `datasets`.
        kind: 'classification', 'detection' or 'segmentation'.
        complete_data: what the complete validation set is called, with a place for its size.
        batch_size: images a batch in an evaluation, unless an option names another number.
        options: the fields of a `Job` that only some tasks have, and this one has.
        padded_batches: whether images of a batch are padded to the largest of them, which changes
            what is predicted for them.
        scope: the `default_scope` of the OpenMMLab configs of its models; '' if they have none.
        datasets: the types of data set that such configs test on, by which tasks of one scope are
            told apart.
    """

    name: str
    kind: str
    complete_data: str
    batch_size: int
    options: tuple[str, ...] = ()
    scope: str = ''
    datasets: tuple[str, ...] = ()
    padded_batches: bool = False

    @property
    def images(self) -> int:
        """The number of images of the complete validation set."""
        return import_module(f'datasets.{self.name}').NUM_IMAGES['val']

    @property
    def validation_set(self) -> str:
        """What the complete validation set is called in messages."""
        return self.complete_data.format(self.images)

    def load_data(self, root: Path, split: str = 'val', limit: int | None = None) -> Any:
        """Return the task's data set under `root`; see `datasets.NAME.load`.

        Raises:
            DataNotFound: if it is not there.
            UserError: if it is not what it should be.
        """
        return import_module(f'datasets.{self.name}').load(root, split, limit)

    def load_part(self, root: Path, images: int) -> Any:
        """Return the data set under `root`, or the part of so many of its images.

        Raises:
            DataNotFound, UserError: as `load_data` does.
        """
        data = self.load_data(root)
        return data if len(data.samples) <= images else self.load_data(root, limit=images)

    def score_file(self, path: Path, data: Any) -> 'Scores':
        """Score predictions of `data`, as `load_data` returns it; see `score_file` of its kind.

        Raises:
            UserError: if they are no predictions of that data.
        """
        return import_module(f'reproduce.tasks.{self.kind}_scores').score_file(path, data)

    def prepare(self, job: 'Job', device: 'torch.device') -> 'Prepared':
        """Find and check what a job needs, and build its model on `device`, with its weights.

        Raises:
            UserError: if the checkpoint, the data or an option is not what it should be.
        """
        return self._module.prepare(job, device)

    def identify(
        self, model: str, arguments: dict[str, Any], preprocessing: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what a record says of such an evaluation: model, arguments, preprocessing.

        Only what follows from the arguments of this method is in it.

        Raises:
            UserError: if there is no such model.
        """
        return self._module.identify(model, arguments, preprocessing)

    def point_dataset(self, dataset: Any, data: Any) -> None:
        """Let a dataset of an OpenMMLab config read `data`, and call its classes by name.

        Args:
            dataset: the dataset of one of the config's loaders; changed in place.
            data: as `load_data` returns it.
        """
        self._module.point_dataset(dataset, data)

    @property
    def _module(self) -> Any:
        return import_module(f'reproduce.tasks.{self.kind}')


TASKS = {
    task.name: task
    for task in (
        Task(
            'imagenet',
            'classification',
            "ImageNet-1K's {:,} validation images",
            batch_size=64,
            options=('preprocessing', 'compiled'),
        ),
        Task(
            'coco',
            'detection',
            "COCO's {:,} images of val2017",
            batch_size=1,
            scope='mmdet',
            datasets=('CocoDataset',),
            padded_batches=True,
        ),
        Task(
            'ade20k',
            'segmentation',
            "ADE20K's {:,} validation images",
            batch_size=1,
            options=('multi_scale',),
            scope='mmseg',
            datasets=('ADE20KDataset', 'BaseSegDataset'),
        ),
    )
}
