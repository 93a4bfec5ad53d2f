"""What the three evaluations share: the job, its processes, its batches, and the record it leaves.

A task's module (`imagenet`, `coco`, `ade20k`) has a `Job` of its own, which says how the model and
the data are prepared and how predictions become metrics. Everything else is here.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from reproduce.data_loader import ErrorPreservingLoader
from reproduce.distributed import Group, run
from reproduce.errors import UserError
from reproduce.evaluate import records
from reproduce.quiet import quiet_libraries
from reproduce.weights import store

PRECISIONS = {'fp16': torch.float16, 'bf16': torch.bfloat16}


class DataSet(Protocol):
    """What `datasets` finds on a disk, whatever the task."""

    root: Path
    split: str
    samples: Sequence[Any]
    classes: Sequence[str]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        metrics: in percent.
        predictions: what they were computed from, as the file that is kept beside the record.
        suffix: that file's.
        intervals: the 95 % interval of those metrics that have one, in percent.
        per_class: metrics of single classes, by class, in percent.
    """

    metrics: dict[str, float]
    predictions: bytes
    suffix: str
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A job of which everything is checked that can be known before hours are spent.

    Attributes:
        system: the system of the paper's tables that this is, if it is one.
        model, arguments, preprocessing, overridden: as in a record.
        checkpoint: the file of the weights, which are loaded.
        data: the images.
        measure: predicts all images with the other processes of a group; None in all but the first.
    """

    system: str | None
    model: str
    arguments: dict[str, Any]
    checkpoint: Path
    data: DataSet
    preprocessing: dict[str, Any]
    measure: Callable[[Group], Measured | None]
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job(ABC):
    """What to evaluate, and how.

    Attributes:
        model: a system of the paper's tables, a timm model, or an OpenMMLab config.
        checkpoint: a file, a folder with `SYSTEM.safetensors` in it, or a released checkpoint.
        data: the data set's folder, or the one above.
        arguments: constructor arguments of the timm model, or values that replace the config's.
        limit: take that many images only.
        batch_size: images a batch, in each process.
        workers: processes that read images, for each process that computes.
        amp: 'fp16' or 'bf16'; None computes in fp32.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.
    """

    task: ClassVar[str]

    model: str
    checkpoint: str | Path
    data: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 1
    workers: int = 4
    amp: str | None = None
    device: str | None = None

    @abstractmethod
    def prepare(self) -> Prepared:
        """Find and check the data, build the model, load its weights.

        Raises:
            UserError: if the checkpoint, the data or an option is not what it should be.
        """


@dataclass(frozen=True)
class Outcome:
    """A record and the predictions that its metrics were computed from."""

    evaluation: records.Evaluation
    predictions: bytes

    def save(self, folder: Path) -> Path:
        """Keep both in `folder`; returns the record's path."""
        return records.save(self.evaluation, self.predictions, folder)


def evaluate(job: Job, processes: int = 1) -> Outcome | None:
    """Evaluate on `processes` processes of this machine, or on those that a launcher started.

    Every image counts exactly once, and an image meets the same batch on any number of processes.

    Returns:
        the outcome; None in all but the first of the processes that a launcher started.

    Raises:
        UserError: if the checkpoint, the data or an option is not what it should be, or an image
            cannot be read.
    """
    return run(_evaluate, job, processes=processes, device=job.device)


@quiet_libraries()
def _evaluate(group: Group, job: Job) -> Outcome | None:
    """Do the part of this process; see `evaluate`."""
    if job.amp is not None and job.amp not in PRECISIONS:
        raise UserError(f"--amp '{job.amp}' is unknown: take {' or '.join(PRECISIONS)}.")
    if job.batch_size < 1:
        raise UserError(f'a batch of {job.batch_size} images is none: give 1 or more.')
    # fp32 means fp32: cuDNN would round the inputs of convolutions to TF32.
    torch.backends.cudnn.allow_tf32 = False
    prepared = job.prepare()
    sha256 = store.sha256(prepared.checkpoint)
    group.agree()
    start = time.perf_counter()
    measured = prepared.measure(group)
    seconds = time.perf_counter() - start
    if measured is None:
        return None
    data = prepared.data
    evaluation = records.Evaluation(
        task=job.task,
        system=prepared.system,
        model=prepared.model,
        arguments=prepared.arguments,
        checkpoint=records.Checkpoint(
            file=prepared.checkpoint.name,
            sha256=sha256,
            released=store.released_name(prepared.checkpoint, sha256),
        ),
        data=records.Data(
            split=data.split,
            images=len(data.samples),
            classes=len(data.classes),
            fingerprint=data.fingerprint,
            complete=data.complete,
            problems=data.problems,
        ),
        precision=job.amp or 'fp32',
        preprocessing=prepared.preprocessing,
        overridden=prepared.overridden,
        metrics=measured.metrics,
        intervals=measured.intervals,
        per_class=measured.per_class,
        predictions=measured.suffix,
        provenance=records.provenance(group.device, group.size, job.batch_size, seconds),
    )
    return Outcome(evaluation, measured.predictions)


def batches(
    dataset: Dataset, collate: Callable[[list[Any]], Any], group: Group, job: Job
) -> Iterator[tuple[list[int], Any]]:
    """The batches of this process, each with the indices of its images; shows the progress.

    Batches are cut before they are dealt to the processes, so an image meets the same batch, and
    gets the same prediction, on any number of them. Ends early when another process has failed.

    Raises:
        UserError: at the first image that cannot be read.
    """
    n = len(dataset)
    cut = [range(i, min(i + job.batch_size, n)) for i in range(0, n, job.batch_size)]
    mine = cut[group.rank :: group.size]
    loader = ErrorPreservingLoader(
        dataset,
        collate,
        batch_sampler=mine,
        num_workers=min(job.workers, len(mine)),
        pin_memory=group.device.type == 'cuda',
    )
    with tqdm(total=n, unit='image', disable=True if group.rank else None, smoothing=0.05) as bar:
        for i, (indices, batch) in enumerate(zip(mine, loader, strict=True)):
            if group.failed:
                return
            yield list(indices), batch
            # This process is the first, and its i-th batch the first of a round of all.
            begin = i * group.size * job.batch_size
            bar.update(min(group.size * job.batch_size, n - begin))
