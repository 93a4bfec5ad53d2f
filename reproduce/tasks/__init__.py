"""The three tasks behind one interface: everything that differs between them is found here.

The facts about a task are here and need no torch. How its models are evaluated is in the module of
its name, `reproduce.tasks.NAME`, which is imported when it is asked for; how its data lie on a disk
in `datasets.NAME`; what its predictions score in `reproduce.score.NAME`.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.evaluate.harness import Job


@dataclass(frozen=True)
class Task:
    """One of the three tasks.

    Attributes:
        name: 'imagenet', 'coco' or 'ade20k'.
        images: the number of images of the complete validation set.
        validation_set: what that set is called in messages.
        batch_size: images a batch in an evaluation, unless an option names another number.
    """

    name: str
    images: int
    validation_set: str
    batch_size: int

    def load_data(self, root: Path, split: str = 'val', limit: int | None = None) -> Any:
        """Return the task's data set under `root`; see `datasets.NAME.load`.

        Raises:
            DataNotFound: if it is not there.
            UserError: if it is not what it should be.
        """
        return import_module(f'datasets.{self.name}').load(root, split, limit)

    @property
    def job_class(self) -> 'type[Job]':
        """The job that evaluates a model of this task; imports torch and the task's libraries."""
        return import_module(f'reproduce.tasks.{self.name}').Job


def _task(name: str, validation_set: str, batch_size: int) -> Task:
    images = import_module(f'datasets.{name}').NUM_IMAGES['val']
    return Task(name, images, validation_set.format(images), batch_size)


TASKS = {
    task.name: task
    for task in (
        _task('imagenet', "ImageNet-1K's {:,} validation images", batch_size=64),
        # Several images are padded to the largest of their batch, which changes the detections.
        _task('coco', "COCO's {:,} images of val2017", batch_size=1),
        _task('ade20k', "ADE20K's {:,} validation images", batch_size=1),
    )
}
