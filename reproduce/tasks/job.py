"""What a task is given, a `Job`, and what it gives, a `Prepared` evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from reproduce.base.errors import UserError
from reproduce.base.job_options import Amp, BatchSize, Device, Limit, Workers
from reproduce.tasks import TASKS

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

    from reproduce.tasks.scores import PredictionFile, Scorer

# Of mixed precision: names of options, and torch's names of the types.
PRECISIONS = {'fp16': 'float16', 'bf16': 'bfloat16'}


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
    """What to evaluate, and how; most fields are options of `evaluate`.

    Attributes:
        task: the name of an entry of `TASKS`.
        model: a system of the paper's tables, a timm model, or an OpenMMLab config.
        arguments: constructor arguments of the timm model, or values that replace the config's.
        preprocessing: of classifiers only: what replaces the model's own img_size, crop_pct,
            crop_mode, interpolation, mean or std; use_train_size takes size and crop of its
            training where its config has others for testing.
        batch_size: None becomes the task's own.
        workers: None takes one for each core of the process, and 8 at most.
        amp: 'off' becomes None, which computes in fp32.
        device: None takes GPUs where there are some.

    Raises:
        UserError: if the task has no such option, or a value is out of range.
    """

    task: str
    model: str
    checkpoint: Annotated[
        str,
        typer.Option(
            '--checkpoint',
            help='A file, a folder with SYSTEM.safetensors (or .pth, ...), or a released '
            "checkpoint's name.",
        ),
    ]
    data: Annotated[
        Path, typer.Option('--data', help="The data set's folder, or the one that it lies in.")
    ]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    compiled: Annotated[
        bool,
        typer.Option(
            '--compile',
            help='Compute with torch.compile: a minute to begin; benchmark whether it pays.',
        ),
    ] = False
    multi_scale: Annotated[
        bool,
        typer.Option(
            '--multi-scale', help='Also at 0.5 to 1.75 times the size and mirrored, averaged.'
        ),
    ] = False
    limit: Limit = None
    batch_size: BatchSize = None
    workers: Workers = None
    amp: Amp = 'off'
    device: Device = None

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
        if self.workers is not None and self.workers < 0:
            raise UserError(f'--workers must be at least 0, got {self.workers}.')
        if self.amp == 'off':
            object.__setattr__(self, 'amp', None)
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
    images: 'Dataset'
    collate: Callable[[list[Any]], Any]
    predict: Callable[[Sequence[int], Any], Any]
    scorer: 'Scorer'
    file: 'PredictionFile'
    from_weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def autocast(device: 'torch.device', amp: str | None) -> 'torch.autocast':
    """Return the context of mixed precision on `device`; with `amp` None it computes in fp32."""
    import torch  # here, so that `--help` does not wait for it

    dtype = None if amp is None else getattr(torch, PRECISIONS[amp])
    return torch.autocast(device.type, dtype, enabled=amp is not None)


@contextmanager
def inference(device: 'torch.device', amp: str | None) -> Iterator[None]:
    """Compute without gradients, and in the precision `amp` if there is one."""
    import torch  # as in `autocast`

    with torch.inference_mode(), autocast(device, amp):
        yield
