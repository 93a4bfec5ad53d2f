"""What is trained, and where it takes place: the options of `train`, each declared once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from reproduce.base.job_options import Amp, ConfigOptions, Deterministic, Device, Workers
from reproduce.train.recipes import Recipe

Output = Annotated[Path, typer.Option('--output', help='Folder for weights and log.')]
Resume = Annotated[bool, typer.Option('--resume', help='Continue the training in --output.')]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        '--max-steps',
        min=1,
        help='Measure the steps, and end after this one with weights and a checkpoint.',
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        '--labels', help="Folder of the annotator's label maps, CLASS/NAME.pt, or an archive of it."
    ),
]
AmpOrDefault = Annotated[
    Literal['fp16', 'bf16', 'off'] | None,
    typer.Option(
        '--amp',
        help='Compute in mixed precision; off is fp32 throughout.  [default for classifiers: bf16 '
        'on GPUs that support it, otherwise fp16; off on CPUs, and for configs]',
    ),
]


@dataclass(frozen=True)
class TrainingJob:
    """A classifier's training; most fields are options of `train imagenet`."""

    recipe: Recipe
    data: Annotated[Path, typer.Option('--data', help="ImageNet's folder, or the folder above it.")]
    output: Output
    labels: Labels = None
    resume: Resume = False
    workers: Workers = None
    amp: AmpOrDefault = None
    device: Device = None
    deterministic: Deterministic = False
    checkpoint_steps: Annotated[
        int,
        typer.Option(
            '--checkpoint-steps',
            min=1,
            help='Also save a checkpoint every N steps within an epoch.',
        ),
    ] = 500
    max_steps: MaxSteps = None
    # Use only that many of the images, evenly spaced over the classes; None uses all.
    train_images: int | None = None
    val_images: int | None = None
    options_file: str = ''  # the content of a TOML file that is kept as run.toml
    in_memory: bool = False  # keep images and label maps once they are read, in each worker


@dataclass(frozen=True)
class ConfigJob:
    """The training of a config of mmdet or mmseg; the fields are options of `train CONFIG`."""

    config: str
    data: Annotated[
        Path, typer.Option('--data', help='Folder of COCO or ADE20K, as the config needs it.')
    ]
    output: Output
    checkpoint: Annotated[
        str | None,
        typer.Option(
            '--checkpoint',
            help="ImageNet weights of a MAFormer backbone: a file or a released checkpoint's "
            "name.  [default: the config's]",
        ),
    ] = None
    options: ConfigOptions = None
    resume: Resume = False
    amp: Amp = 'off'
    deterministic: Deterministic = False
    max_steps: MaxSteps = None
    options_file: str = ''  # as in a `TrainingJob`


@dataclass(frozen=True, kw_only=True)
class RehearsalRequest:
    """What is rehearsed, and how; the fields but `names` are options of `rehearse`."""

    names: Sequence[str] = ()  # of recipes and configs, or patterns of them; none for all
    data: Annotated[
        Path | None, typer.Option('--data', help='Folder of the data sets; --memory needs none.')
    ] = None
    labels: Labels = None
    steps: Annotated[
        int, typer.Option('--steps', min=1, help='Steps of each training that are measured.')
    ] = 10
    batch_size: Annotated[
        int | None,
        typer.Option('--batch-size', min=1, help="Images of a process.  [default: the training's]"),
    ] = None
    grad_checkpointing: Annotated[
        bool, typer.Option('--grad-checkpointing', help='Recompute activations to save memory.')
    ] = False
    processes: Annotated[
        int | None,
        typer.Option(
            '--processes', min=1, help='Processes on this machine.  [default: one for each GPU]'
        ),
    ] = None
    amp: AmpOrDefault = None
