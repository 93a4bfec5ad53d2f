"""`python -m reproduce train`: classifiers, detectors and segmenters."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce.base.errors import UserError
from reproduce.base.job_options import with_fields_of
from reproduce.base.processes import start_again
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, KeyValueCommand
from reproduce.train.jobs import ConfigJob, TrainingJob
from reproduce.train.recipes import recipe_for


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


# The fields of the jobs that are options.
IMAGENET = (
    *('data', 'output', 'labels', 'resume', 'workers', 'amp', 'device'),
    *('tensorboard', 'checkpoint_steps', 'max_steps'),
)
CONFIG = (
    *('data', 'output', 'checkpoint', 'options', 'resume', 'amp', 'scale_lr', 'tensorboard'),
    'max_steps',
)


@app.command('imagenet')
@with_fields_of(TrainingJob, *IMAGENET)
def train_imagenet(
    model: Annotated[str, typer.Argument(help='A MAFormer or any timm model.')],
    token_labeling: Annotated[
        bool, typer.Option('--token-labeling', help='Train with token labeling (needs --labels).')
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Name of the recipe; docs/recipes.md lists them.  [default: the model's size]"
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option('--set', help='NAME=VALUE: another value of the recipe, e.g. batch_size=512.'),
    ] = None,
    processes: options.Processes = 1,
    **given: Any,
) -> None:
    """Train a classifier by the paper's recipe.

    SIGTERM and SIGUSR1 stop it after the current step: it writes a checkpoint for --resume and ends
    with status 143 or 138.
    """
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.classifier import train

    chosen = recipe_for(model, token_labeling, recipe).changed(**_parse(changes or []))
    train(TrainingJob(chosen, **given))


@app.command('config', cls=KeyValueCommand)
@with_fields_of(ConfigJob, *CONFIG)
def train_config(
    config: Annotated[
        str,
        typer.Argument(
            help='A config file: a path, a name in reproduce/configs, or mmdet::... or mmseg::....'
        ),
    ],
    processes: options.Processes = 1,
    **given: Any,
) -> None:
    """Train a detector or segmenter: any config of this project, mmdet or mmseg.

    SIGTERM and SIGUSR1 stop it after the current iteration: it writes a checkpoint for --resume and
    ends with status 143 or 138.
    """
    start_again(processes)
    from reproduce.train.config_training import train  # here, as in `train_imagenet`

    train(ConfigJob(config, **given))


def _parse(changes: list[str]) -> dict[str, str]:
    for change in changes:
        if '=' not in change:
            raise UserError(f"--set '{change}' is not NAME=VALUE: write e.g. --set epochs=100.")
    return dict(change.split('=', 1) for change in changes)
