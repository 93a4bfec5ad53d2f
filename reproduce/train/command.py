"""The commands `train` and `labels`, to be registered with the command line.

`python -m reproduce.train.command` has them alone.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from reproduce.errors import UserError


class Precision(StrEnum):
    """What autocast computes in."""

    FP16 = 'fp16'
    BF16 = 'bf16'


class _ConfigUnlessNamed(TyperGroup):
    """`train CONFIG` is short for `train config CONFIG`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ['config', *args]
        return super().parse_args(ctx, args)


train_app = typer.Typer(
    cls=_ConfigUnlessNamed,
    help='Train a classifier, or a detector or segmenter from its config file.  '
    '`train CONFIG` is short for `train config CONFIG`.',
    no_args_is_help=True,
    rich_markup_mode=None,
)


Data = Annotated[Path, typer.Option('--data', help='Folder of ImageNet: train/ and val/.')]
Workers = Annotated[int, typer.Option(help='Processes that read images, for each of --processes.')]
Processes = Annotated[
    int, typer.Option(help='Processes on this machine; torchrun starts those of several.')
]
Device = Annotated[
    str | None, typer.Option(help='cpu or cuda.  [default: the GPUs where there are some]')
]


@train_app.command('imagenet')
def train_imagenet(
    model: Annotated[str, typer.Argument(help='A MAFormer or any timm model.')],
    data: Data,
    output: Annotated[Path, typer.Option(help='Folder for weights, log and curve.')],
    token_labeling: Annotated[
        bool, typer.Option('--token-labeling', help='Train with token labeling (needs --labels).')
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of the annotator's label maps, WNID/NAME.pt.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Whose recipe to follow.  [default: the model's size]")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option('--set', help='NAME=VALUE: another value of the recipe, e.g. batch_size=512.'),
    ] = None,
    resume: Annotated[
        bool, typer.Option('--resume', help='Go on with what --output holds.')
    ] = False,
    until: Annotated[int | None, typer.Option(help='Stop after this epoch, to be resumed.')] = None,
    processes: Processes = 1,
    workers: Workers = 2,
    amp: Annotated[Precision | None, typer.Option(help='Mixed precision.')] = None,
    device: Device = None,
) -> None:
    """Train a classifier by the paper's recipe."""
    from reproduce.train.loop import Job, train
    from reproduce.train.recipe import recipe_for

    chosen = recipe_for(model, token_labeling, recipe).changed(**_parse(changes or []))
    job = Job(
        recipe=chosen,
        data=data,
        output=output,
        labels=labels,
        resume=resume,
        until=until,
        workers=workers,
        amp=amp and amp.value,
        device=device,
    )
    train(job, processes)


@train_app.command('config')
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
        typer.Option('--cfg-options', help='KEY=VALUE: change the config; can be repeated.'),
    ] = None,
    resume: Annotated[
        bool, typer.Option('--resume', help='Go on from the last checkpoint in --output.')
    ] = False,
    processes: Processes = 1,
    amp: Annotated[bool, typer.Option('--amp', help='Mixed precision, on GPUs.')] = False,
    scale_lr: Annotated[
        bool, typer.Option(help='Scale the learning rate with the batch, as auto_scale_lr says.')
    ] = True,
) -> None:
    """Train a detector or segmenter: any config of this project, mmdet or mmseg."""
    from reproduce.train.openmmlab import Job, train

    job = Job(config, data, output, checkpoint, tuple(cfg_options or ()), resume, amp, scale_lr)
    train(job, processes)


def labels_command(
    model: Annotated[str, typer.Argument(help='The annotator: any timm model.')],
    data: Data,
    output: Annotated[Path, typer.Option(help='Folder for the maps, WNID/NAME.pt.')],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The annotator's weights.  [default: timm's pretrained]")
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels.  [default: the model's]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help='Images at a time.')] = 32,
    processes: Processes = 1,
    workers: Workers = 2,
    device: Device = None,
) -> None:
    """Write the dense label maps of token labeling for every training image."""
    from reproduce.train.labels import make_labels

    make_labels(model, data, output, checkpoint, img_size, batch_size, workers, device, processes)


def _parse(changes: list[str]) -> dict[str, str]:
    for change in changes:
        if '=' not in change:
            raise UserError(f"--set '{change}' is no NAME=VALUE: write e.g. --set epochs=100.")
    return dict(change.split('=', 1) for change in changes)


def main() -> None:
    """Run the two commands: errors of the user's in one line, no traceback."""
    app = typer.Typer(pretty_exceptions_enable=False, no_args_is_help=True)
    app.add_typer(train_app, name='train')
    app.command('labels')(labels_command)
    try:
        app()
    except UserError as error:
        raise SystemExit(f'error: {error}') from error


if __name__ == '__main__':
    main()
