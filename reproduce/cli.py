"""The command line: `python -m reproduce`.

Each command is a module of `reproduce.commands`, which is imported when the command is called:
`--help` and the commands that only read results do not wait for torch.
"""

import codecs
import errno
import json
import os
import sys
import tomllib
import traceback
from importlib import import_module

import click
import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from reproduce.base.errors import UserError
from reproduce.base.files import reason
from reproduce.base.processes import in_group, leave, speaks
from reproduce.base.wording import in_ascii
from reproduce.commands.options import SETTINGS

# What `--help` says of each command, by what they are for, the most used first: the first sentence
# of the command's own help.
SECTIONS = {
    'Tables and report': {
        'table': "Measure, judge and write every cell of the paper's tables.",
        'show': 'Print a cell or a record, and the command that repeats it.',
        'report': 'Write one HTML page with all tables, figures and the origin of each number.',
        'tables': "Write the paper's tables in Markdown or LaTeX, with measured values.",
        'figures': 'Draw accuracy over cost and the deviations from the paper.',
        'audit': 'Check the paper against itself: its text, its tables, and their sources.',
    },
    'Evaluation': {
        'evaluate': 'Measure the accuracy of a model, and keep it as a record.',
        'plan': 'Say what `table` with the same options would evaluate, and what is missing for '
        'the rest.',
        'data': 'List the data sets in a folder: in which form, how many images, complete or not.',
        'checkpoints': "List the public weights of the paper's systems, or fetch them.",
        'compare': 'Compare two results on the same images, or several: is the difference real?',
        'score': 'Score kept predictions again, without the model.',
        'verify': 'Check a record against its attestation: which part of it differs, if one does.',
    },
    'Training': {
        'train': 'Train a classifier, or a detector or segmenter from its config file.',
        'rehearse': 'Take a few steps of the real trainings on this machine, before days are '
        'spent.',
        'labels': 'Write the dense label maps of token labeling for every training image.',
        'ablation': "Train variants of the design side by side, and judge the paper's claims "
        'about it.',
    },
    'Released weights': {
        'export': 'Write a measured classifier as a folder that timm loads and the Hub takes.',
        'regress': 'Evaluate every released checkpoint and compare it with its reference.',
        'accept': 'Make a measured result the reference of its weights for the regression gate.',
    },
}

# Errors of files' contents. `reproduce.base.files.naming_file` adds the name of the file.
_MALFORMED = (ValidationError, json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError)
COMMANDS = {name: says for section in SECTIONS.values() for name, says in section.items()}


class _Commands(TyperGroup):
    """The commands by name, each imported when it is asked for.

    A module has a function of the command's name, or an `app` of several commands.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f'reproduce.commands.{cmd_name}')
        if (of_several := getattr(module, 'app', None)) is None:
            of_several = typer.Typer(**SETTINGS)
            of_several.command()(getattr(module, cmd_name))
        command = typer.main.get_command(of_several)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, without importing them."""
        widest = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), says) for name, says in commands.items()])


app = typer.Typer(**SETTINGS, cls=_Commands, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Does the number in the paper's table hold? Reproduces Tables 1-7 of MAFormer."""


def run() -> None:
    """Run the command line.

    An error that the user can fix is printed as one line, and the status is 2 or that of a
    `UserError`. Any other error, which is one of the program, keeps its traceback.
    """
    codecs.register_error('in_ascii', in_ascii)
    sys.stdout.reconfigure(errors='in_ascii')
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns an interrupt into a silent exit with status 130.
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        print('interrupted: earlier results are as they were', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None and not in_group():
            raise
        if speaks(error):
            print(sentence or traceback.format_exc().rstrip(), file=sys.stderr, flush=True)
        if _is_unwritable(error):  # Python would try to write the rest when it ends
            with open(os.devnull, 'w') as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
        leave(getattr(error, 'status', 2 if sentence else 1))


def _sentence(error: Exception) -> str | None:
    """Return one sentence on an error that the user can fix; None for one of the program."""
    if isinstance(error, UserError):
        return f'{error.label}: {error}'
    if isinstance(error, OSError) and error.filename:
        return f'error: {error.filename}: {error.strerror}.'
    if _is_unwritable(error):
        return f'error: the output cannot be written: {error.strerror}.'
    if isinstance(error, _MALFORMED):
        return f'error: {reason(error)}.'
    return None


def _is_unwritable(error: Exception) -> bool:
    """Return whether standard output is a full disk or a pipe that nothing reads."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EPIPE)
