"""Train a classifier, or a detector or segmenter from its config file.

`train CONFIG` is short for `train config CONFIG`.
"""

from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from reproduce.base.errors import UserError
from reproduce.base.job_options import with_fields_of
from reproduce.base.processes import rank, start_again
from reproduce.commands import options
from reproduce.train.jobs import ConfigJob, TrainingJob
from reproduce.train.recipes import recipe_for, recipe_name


class _ConfigUnlessNamed(TyperGroup):
    """`train CONFIG` is short for `train config CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ['config', *args]
        return super().parse_args(ctx, args)


app = typer.Typer(**options.SETTINGS, cls=_ConfigUnlessNamed, help=__doc__, no_args_is_help=True)


@app.command('imagenet')
@with_fields_of(TrainingJob)
def train_imagenet(
    ctx: typer.Context,
    model: Annotated[str, Argument(help='A MAFormer or any timm model.')],
    token_labeling: Annotated[
        bool, Option('--token-labeling', help='Train with token labeling (needs --labels).')
    ] = False,
    recipe: Annotated[
        str | None,
        Option(help="Name of the recipe; docs/recipes.md lists them.  [default: the model's size]"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        Option('--set', help='NAME=VALUE: another value of the recipe, e.g. batch_size=512.'),
    ] = None,
    options_file: options.OptionsFile = None,
    processes: options.Processes = 1,
    **given: Any,
) -> None:
    """Train a classifier by the paper's recipe.

    Ctrl-C, SIGTERM and SIGUSR1 stop it after the current step: it writes a checkpoint for --resume
    and ends with status 130, 143 or 138.
    """
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.classifier import train

    values = {}
    for change in changes or []:
        name, equals, values[name] = change.partition('=')
        if not equals:
            raise UserError(f"--set '{change}' is not NAME=VALUE: write e.g. --set epochs=100.")
    chosen = recipe_for(model, token_labeling, recipe).changed(**values)
    if rank() == 0:
        changed = f' with {", ".join(changes)}' if changes else ''
        print(f'recipe {recipe_name(model, token_labeling, recipe)}{changed}')
    train(TrainingJob(chosen, **given, options_file=options.as_toml(ctx)))


@app.command('config', cls=options.KeyValueCommand)
@with_fields_of(ConfigJob)
def train_config(
    ctx: typer.Context,
    config: Annotated[
        str,
        Argument(
            help='A config file: a path, a name in reproduce/configs, or mmdet::... or mmseg::....'
        ),
    ],
    options_file: options.OptionsFile = None,
    processes: options.Processes = 1,
    **given: Any,
) -> None:
    """Train a detector or segmenter by a config.

    The config is one of this project, of mmdet or of mmseg, or your own.

    Ctrl-C, SIGTERM and SIGUSR1 stop it after the current iteration: it writes a checkpoint for
    --resume and ends with status 130, 143 or 138.
    """
    start_again(processes)
    from reproduce.train.config_training import train  # here, as in `train_imagenet`

    train(ConfigJob(config, **given, options_file=options.as_toml(ctx)))
