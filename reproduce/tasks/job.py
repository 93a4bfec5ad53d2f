"""What a task is given, a `Job`, and what it gives, a `Prepared` evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from reproduce.base.errors import UserError
from reproduce.base.loading import check_workers
from reproduce.tasks import TASKS
from reproduce.tasks.scores import PredictionFile, Scorer

PRECISIONS = {'fp16': torch.float16, 'bf16': torch.bfloat16}


class DataSet(Protocol):
    """The data set of a task, as `datasets` finds it on a disk."""

    root: Path
    split: str
    samples: Sequence[Any]
    classes: Sequence[str]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Job:
    """What to evaluate, and how.

    Attributes:
        task: 'imagenet', 'coco' or 'ade20k'.
        model: a system of the paper's tables, a timm model, or an OpenMMLab config.
        checkpoint: a file, a folder with `SYSTEM.safetensors` in it, or a released checkpoint.
        data: the data set's folder, or the one above.
        arguments: constructor arguments of the timm model, or values that replace the config's.
        preprocessing: of classifiers only: what replaces the model's own img_size, crop_pct,
            crop_mode, interpolation, mean or std; use_train_size takes size and crop of its
            training where its config has others for testing.
        compiled: of classifiers only: whether to compute with `torch.compile`.
        multi_scale: of segmenters only: whether to predict at several scales and mirrored, too.
        limit: evaluate that many images only.
        batch_size: images a batch, in each process; None becomes the task's own.
        workers: processes that read images, for each process that computes; None takes one for
            each of its cores, and 8 at most.
        amp: 'fp16' or 'bf16'; None computes in fp32.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.

    Raises:
        UserError: if the task has no such option, or a value is out of range.
    """

    task: str
    model: str
    checkpoint: str | Path
    data: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False
    multi_scale: bool = False
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    amp: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        task = TASKS[self.task]
        for option in {name for other in TASKS.values() for name in other.options}:
            if getattr(self, option) and option not in task.options:
                owners = [other.name for other in TASKS.values() if option in other.options]
                raise UserError(
                    f'an evaluation on {self.task} has no option {option}: leave it out; it is one '
                    f'of {" and ".join(owners)}.'
                )
        if self.batch_size is None:
            object.__setattr__(self, 'batch_size', task.batch_size)
        if self.batch_size < 1:
            raise UserError(f'--batch-size must be at least 1, got {self.batch_size}.')
        check_workers(self.workers)
        if self.amp is not None and self.amp not in PRECISIONS:
            raise UserError(f"--amp '{self.amp}' is unknown: take {' or '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Prepared:
    """A job of which everything is checked that can be known before hours are spent.

    Attributes:
        system: the system of the paper's tables that this is, if it is one.
        model, arguments, preprocessing, overridden, from_weights: as in a record.
        checkpoint: the file of the weights, which are loaded.
        data: the data set.
        images: what the model reads of each image of `data`, by index.
        collate: makes a batch of a list of these.
        predict: returns the predictions for a batch, given the indices of its images and the batch;
            on the CPU, in the form that the task's scorer takes.
        scorer: computes the metrics of the record.
        file: keeps the predictions.
        notes: a sentence for what of the data was left out and does not count.
    """

    system: str | None
    model: str
    arguments: dict[str, Any]
    checkpoint: Path
    data: DataSet
    preprocessing: dict[str, Any]
    overridden: tuple[str, ...]
    images: Dataset
    collate: Callable[[list[Any]], Any]
    predict: Callable[[Sequence[int], Any], Any]
    scorer: Scorer
    file: PredictionFile
    from_weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@contextmanager
def inference(device: torch.device, amp: str | None) -> Iterator[None]:
    """Compute without gradients, and under autocast to the precision `amp` if there is one."""
    with (
        torch.inference_mode(),
        torch.autocast(device.type, PRECISIONS.get(amp), enabled=amp is not None),
    ):
        yield
