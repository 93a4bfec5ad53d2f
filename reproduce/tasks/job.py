"""What a task is given, a `Job`, and what it gives, a `Prepared` evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce.base.errors import UserError
from reproduce.base.job_options import Amp, BatchSize, Deterministic, Device, Limit, Workers
from reproduce.tasks import TASKS

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

    from datasets.subset import Split
    from reproduce.tasks.scores import Scorer

# Of mixed precision: names of options, and torch's names of the types.
PRECISIONS = {'fp16': 'float16', 'bf16': 'bfloat16'}


Checkpoint = Annotated[
    str,
    typer.Option(
        '--checkpoint',
        help='A file, a folder with SYSTEM.safetensors (or .pth, ...), hf-hub:OWNER/REPOSITORY, or '
        "a released checkpoint's name.",
    ),
]


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
    """

    task: str
    model: str
    checkpoint: Checkpoint
    data: Annotated[
        Path, typer.Option('--data', help="The data set's folder, or the one that it lies in.")
    ]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
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
    deterministic: Deterministic = False

    def __post_init__(self) -> None:
        if self.batch_size is None:
            object.__setattr__(self, 'batch_size', TASKS[self.task].kind.batch_size)
        if self.amp == 'off':
            object.__setattr__(self, 'amp', None)


@dataclass(frozen=True)
class Prepared:
    """A job of which everything is checked that can be known before hours are spent.

    `described` has the fields of the record that say what is evaluated: system, model, arguments,
    preprocessing, overridden, and from_weights where that is known.
    """

    described: dict[str, Any]
    checkpoint: Path  # the file of the weights, which are loaded
    data: 'Split'
    images: 'Dataset'  # what the model reads of each image of `data`, by index, and its SHA-256
    collate: Callable[[list[Any]], Any]  # makes a batch of a list of what the model reads
    # The prediction for each image of a batch, on the CPU, given the indices of the images.
    predict: Callable[[Sequence[int], Any], Sequence[Any]]
    scorer: 'Scorer'
    notes: tuple[str, ...] = ()  # sentences, which are warnings in the record


def check_finite(found: Any, what: str) -> None:
    """Check that an array or a tensor has neither NaN nor infinity.

    Raises:
        UserError: naming `what` the model computed.
    """
    if not bool((abs(found) < float('inf')).all()):
        raise UserError(
            f'the model gives NaN or infinity for {what}: its weights are not sound, or --amp '
            'overflows.'
        )


def autocast(device: 'torch.device', amp: str | None) -> 'torch.autocast':
    """Return the context of mixed precision on `device`; None, 'off' and 'fp32' are fp32."""
    import torch  # here, so that `--help` does not wait for it

    mixed = amp not in (None, 'off', 'fp32')
    dtype = getattr(torch, PRECISIONS[amp]) if mixed else None
    return torch.autocast(device.type, dtype, enabled=mixed)


@contextmanager
def inference(device: 'torch.device', amp: str | None) -> Iterator[None]:
    """Compute without gradients, in the precision `amp`, see `autocast`."""
    import torch  # as in `autocast`

    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in convolutions, too
    with torch.inference_mode(), autocast(device, amp):
        yield
