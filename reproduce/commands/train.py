"""`python -m reproduce train`: classifiers, detectors and segmenters."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from reproduce.base.errors import UserError
from reproduce.base.processes import start_again
from reproduce.commands import options
from reproduce.commands.options import KEY_VALUES, SETTINGS, KeyValueCommand, Precision


class _ConfigUnlessNamed(options.CommandGroup):
    """`train CONFIG` is short for `train config CONFIG`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        known = (*self.commands, *self.get_help_option_names(ctx))
        # A word like a command's name, and unlike that of a file, is a misspelt command.
        misspelt = args and get_close_matches(args[0], self.commands, cutoff=0.75)
        if args and args[0] not in known and not (misspelt and Path(args[0]).suffix == ''):
            args = ['config', *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    **SETTINGS,
    cls=_ConfigUnlessNamed,
    help='Train a classifier, or a detector or segmenter from its config file. '
    '`train CONFIG` is short for `train config CONFIG`.',
    no_args_is_help=True,
)


Resume = Annotated[bool, typer.Option('--resume', help='Go on with what --output holds.')]
TensorBoard = Annotated[
    bool, typer.Option('--tensorboard', help='Write scalars for TensorBoard, too.')
]


MaxSteps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help='Measure the steps, and end after this one with weights and a checkpoint.',
    ),
]


@app.command('imagenet')
def train_imagenet(
    model: Annotated[str, typer.Argument(help='A MAFormer or any timm model.')],
    data: options.Data,
    output: Annotated[Path, typer.Option(help='Folder for weights, log and curve.')],
    token_labeling: Annotated[
        bool, typer.Option('--token-labeling', help='Train with token labeling (needs --labels).')
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the annotator's label maps, CLASS/NAME.pt, or an archive of it."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Whose recipe to follow; docs/recipes.md lists them.  [default: the model's size]"
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option('--set', help='NAME=VALUE: another value of the recipe, e.g. batch_size=512.'),
    ] = None,
    grad_checkpointing: options.GradCheckpointing = False,
    accumulation: Annotated[
        int,
        typer.Option(
            help='Compute the share of a batch that each process has in so many parts, one after '
            'the other.'
        ),
    ] = 1,
    resume: Resume = False,
    max_steps: MaxSteps = None,
    until: Annotated[int | None, typer.Option(help='Stop after this epoch, to be resumed.')] = None,
    checkpoint_steps: Annotated[
        int, typer.Option(help='Save after every so many steps of an epoch, too.')
    ] = 500,
    processes: options.Processes = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            help='Data-loading workers, for each of the processes.  [default: 8, or as many as it '
            'has cores]'
        ),
    ] = None,
    amp: Annotated[
        Precision | None,
        typer.Option(
            '--amp',
            help='Compute in mixed precision; off is fp32 throughout.  [default: bf16 on GPUs, '
            'fp16 on those without it; off on CPUs]',
        ),
    ] = None,
    device: options.Device = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a classifier by the paper's recipe.

    SIGTERM and SIGUSR1 end it after the step at hand, with a checkpoint to be resumed from and
    status 143 or 138.
    """
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.classifier import TrainingJob, train
    from reproduce.train.recipes import recipe_for

    chosen = recipe_for(model, token_labeling, recipe).changed(**_parse(changes or []))
    if grad_checkpointing:
        chosen = chosen.changed(grad_checkpointing=True)
    if accumulation != 1:
        chosen = chosen.changed(accumulation=accumulation)
    job = TrainingJob(
        recipe=chosen,
        data=data,
        output=output,
        labels=labels,
        resume=resume,
        until=until,
        workers=workers,
        precision='fp32' if amp is Precision.OFF else amp and amp.value,
        device=device and device.value,
        tensorboard=tensorboard,
        checkpoint_steps=checkpoint_steps,
        max_steps=max_steps,
    )
    train(job)


@app.command('config', cls=KeyValueCommand)
def train_config(
    config: Annotated[
        str,
        typer.Argument(
            help='A config file: a path, a name in reproduce/configs, or mmdet::... or mmseg::....'
        ),
    ],
    data: Annotated[
        Path, typer.Option('--data', help='Folder of COCO or ADE20K, as the config needs it.')
    ],
    output: Annotated[Path, typer.Option(help='Folder for weights, log and curve.')],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="ImageNet weights of a MAFormer backbone: a file or a released checkpoint's "
            "name.  [default: the config's]"
        ),
    ] = None,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option('--cfg-options', metavar=KEY_VALUES, help="Values in place of the config's."),
    ] = None,
    resume: Resume = False,
    processes: options.Processes = 1,
    amp: options.Amp = Precision.OFF,
    scale_lr: Annotated[
        bool, typer.Option(help='Scale the learning rate with the batch, as auto_scale_lr says.')
    ] = True,
    tensorboard: TensorBoard = False,
    max_steps: MaxSteps = None,
) -> None:
    """Train a detector or segmenter: any config of this project, mmdet or mmseg.

    SIGTERM and SIGUSR1 end it after the iteration at hand, with a checkpoint to be resumed from and
    status 143 or 138.
    """
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.config_training import ConfigJob, train

    job = ConfigJob(
        config,
        data,
        output,
        checkpoint,
        tuple(cfg_options or ()),
        resume,
        amp.autocast,
        scale_lr,
        tensorboard,
        max_steps,
    )
    train(job)


def _parse(changes: list[str]) -> dict[str, str]:
    for change in changes:
        if '=' not in change:
            raise UserError(f"--set '{change}' is no NAME=VALUE: write e.g. --set epochs=100.")
    return dict(change.split('=', 1) for change in changes)
