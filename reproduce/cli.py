"""The command line: `python -m reproduce`.

Each command is a module of `reproduce.commands`, which is imported when the command is called:
`--help` and the commands that only read results do not wait for torch.
"""

import ast
import errno
import io
import json
import os
import sys
import tomllib
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer import Option
from typer.completion import completion_init
from typer.core import TyperGroup

from reproduce.base.errors import UserError
from reproduce.base.files import reason
from reproduce.base.processes import in_group, leave, speaks
from reproduce.commands.options import SETTINGS

# The commands by what they are for, the most used first.
SECTIONS = {
    'Tables and report': ('table', 'show', 'report', 'tables', 'figures', 'audit', 'lint', 'flops'),
    'Evaluation': ('evaluate', 'plan', 'data', 'checkpoints', 'compare', 'score', 'verify'),
    'Training': ('train', 'rehearse', 'labels', 'ablation'),
    'Released weights': ('export', 'regress', 'accept'),
}
COMMANDS = [name for section in SECTIONS.values() for name in section]

_FOLDER = Path(__file__).parent / 'commands'

# Of standard output that is on a full disk, or a pipe that nothing reads.
_UNWRITABLE = (errno.ENOSPC, errno.EPIPE)

# What shells set to ask for completion.
_COMPLETE = '_REPRODUCE_COMPLETE'

# Errors of files' contents. `reproduce.base.files.naming_file` adds the name of the file.
_MALFORMED = (ValidationError, json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError)


class _Commands(TyperGroup):
    """The commands by name, each imported when it is asked for.

    A module has a function of the command's name, or an `app` of several commands, whose help is
    the docstring of the module. typer has a click of its own, whose types it does not export.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept --paper after the command, too."""
        for i, arg in enumerate(args):
            if arg.partition('=')[0] == '--paper':
                after = i + 1 + ('=' not in arg)
                args = [*args[i:after], *args[:i], *args[after:]]
                break
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix('Value error, ')  # pydantic's, by typer
            raise

    def list_commands(self, ctx: Any) -> list[str]:
        return COMMANDS

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f'reproduce.commands.{cmd_name}')
        if (of_several := getattr(module, 'app', None)) is None:
            of_several = typer.Typer(**SETTINGS)
            of_several.command()(getattr(module, cmd_name))
        command = typer.main.get_command(of_several)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands by section, with the first sentence of their help."""
        widest = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), _summary(name)) for name in names])


def _summary(command: str) -> str:
    """Return the first sentence of a command's help from its source, without importing it."""
    tree = ast.parse((_FOLDER / f'{command}.py').read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == command]
    return ast.get_docstring(functions[0] if functions else tree).partition('\n\n')[0]


app = typer.Typer(**SETTINGS, cls=_Commands, no_args_is_help=True)


def _choose(name: str | None) -> None:
    """Name the paper in the environment, before `reproduce.base.folders` reads it there."""
    if name is not None:
        os.environ['REPRODUCE_PAPER'] = str(Path(name).resolve()) if os.sep in name else name


@app.callback()
def main(
    paper: Annotated[
        str | None,
        Option(
            help='The paper: a folder of reproduce/paper, or the path of another.  '
            '[default: maformer]',
            show_default=False,
            is_eager=True,
            callback=_choose,
        ),
    ] = None,
) -> None:
    """Does the number in the paper's table hold? Reproduces the tables of a paper."""


def run() -> None:
    """Run the command line.

    An error that the user can fix is printed as one line, and the status is 2 or that of a
    `UserError`. Any other error, which is one of the program, keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace', line_buffering=True)  # jobs have logs
    try:
        try:
            if completing := _COMPLETE in os.environ:
                completion_init()
            # Python was given another name than the command in the environment has.
            app(prog_name='reproduce' if completing else None, complete_var=_COMPLETE)
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
        if getattr(error, 'errno', None) in _UNWRITABLE:  # Python writes the rest when it ends
            with open(os.devnull, 'w') as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
        leave(getattr(error, 'status', 2 if sentence else 1))


def _sentence(error: Exception) -> str | None:
    """Return one sentence on an error that the user can fix; None for one of the program."""
    if isinstance(error, UserError):
        return f'{error.label}: {error}'
    if isinstance(error, OSError) and error.filename:
        return f'error: {error.filename}: {error.strerror}.'
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f'error: the output cannot be written: {error.strerror}.'
    if isinstance(error, _MALFORMED):
        return f'error: {reason(error)}.'
    return None
