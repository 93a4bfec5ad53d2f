"""Options that several commands have, and how their results are printed."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tabulate import tabulate
from typer import Argument, Option
from typer.core import TyperCommand

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.base.files import read_toml
from reproduce.base.job_options import KEY_VALUES
from reproduce.base.terminal import Part

# The settings that every command and group of commands has.
SETTINGS: dict[str, Any] = {
    'add_completion': False,
    'pretty_exceptions_enable': False,
    'rich_markup_mode': None,
    'context_settings': {'help_option_names': ['-h', '--help']},
}


class KeyValueCommand(TyperCommand):
    """A command whose options of KEY_VALUES take several entries after one flag, as mmdet's do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before every entry, which is how click takes several."""
        flags = {flag for p in self.params if p.metavar == KEY_VALUES for flag in p.opts}
        repeated: list[str] = []
        flag = None
        for arg in args:
            if arg.startswith('-'):
                flag = arg if arg in flags else None
            elif flag and '=' in arg and repeated[-1] != flag:
                repeated.append(flag)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)


def _by_key(ctx: typer.Context) -> dict[str, str]:
    """Return the names of a command's parameters by those that they have in a file of options."""
    taken = [param for param in ctx.command.params if param.name not in ('options_file', 'resume')]
    return {param.opts[-1].lstrip('-').replace('-', '_'): param.name for param in taken}


def read_options(ctx: typer.Context, path: str | None) -> str | None:
    """Take what the command line leaves out from a TOML file, and return its `config`.

    Raises:
        UserError: if the file cannot be read, or has what is no option of the command.
    """
    if path is None:
        return None
    names, given = _by_key(ctx), read_toml(Path(path), dict[str, Any])
    if unknown := [key for key in given if key not in names]:
        raise UserError(f"{path}: '{unknown[0]}' is not one of {', '.join(names)}.")
    ctx.default_map = {names[key]: value for key, value in given.items()}
    return given.get('config')


def as_toml(ctx: typer.Context) -> str:
    """Return what was given to a command, but for --resume, as `read_options` reads it."""
    import tomlkit  # most commands write none

    given = {
        key: ctx.params[name]
        for key, name in _by_key(ctx).items()
        if ctx.get_parameter_source(name).name in ('COMMANDLINE', 'DEFAULT_MAP')
    }
    return tomlkit.dumps(json.loads(json.dumps(given, default=str)))


OptionsFile = Annotated[
    str | None,
    Option(
        '--config',
        metavar='FILE.toml',
        is_eager=True,
        callback=read_options,
        help="Options in a TOML file, such as every run writes; the command line's go first.",
    ),
]
Tables = Annotated[
    list[int] | None, Argument(help='Tables of the paper, such as 5; all if none is named.')
]
Models = Annotated[
    list[str] | None,
    Option(
        help="Only these: printed names ('Swin-T') or systems ('maformer_base'), comma-separated "
        'or repeated.'
    ),
]
SomeData = Annotated[
    Path | None,
    Option(help='Folder of ImageNet, COCO or ADE20K, or of several of them, to evaluate on.'),
]
Checkpoints = Annotated[
    Path | None, Option(help='Folder with the weights of each system, as SYSTEM.safetensors.')
]
Data = Annotated[Path, Option(help="The data set's folder, or the one that it lies in.")]
Processes = Annotated[
    int,
    Option(
        min=1,
        help='Processes on this machine, one for each GPU. Under torchrun, as on several nodes, '
        'this option is ignored.',
    ),
]
Format = Annotated[
    Literal['text', 'json'],
    Option(help='json prints one JSON object, nothing else, to standard output.'),
]
Names = Annotated[
    list[str],
    Argument(
        help='A cell, such as table5/SYSTEM/box_ap or 4 Swin-T top1, or a record, by its file or '
        'stem, or the name of released weights.'
    ),
]
Record = Annotated[str, Argument(help='A record: its file, stem or key, or released weights.')]
Results = Annotated[Path, Option(help='Folder with table1.csv, ... and evaluations/.')]
Evaluations = Annotated[Path, Option(help='Folder of the evaluation records.')]
Manifest = Annotated[
    Path, Option(help='Another manifest than the released one.', show_default=False)
]


def split_names(entries: list[str] | None) -> list[str]:
    """Return the names in `entries`, each of which may hold several, separated by commas."""
    return [name.strip() for entry in entries or [] for name in entry.split(',') if name.strip()]


def print_json(result: dict[str, Any]) -> None:
    """Print `result` as one JSON object."""
    print(json.dumps(result, indent=2, ensure_ascii=False))


def show(format: str, result: dict[str, Any], *parts: Part) -> None:
    """Print a result as one JSON object, or its `parts` as text; see `terminal.show`."""
    if format == 'json':
        print_json(result)
    else:
        terminal.show(*parts)


def print_metrics(
    metrics: dict[str, float],
    intervals: dict[str, tuple[float, float]],
    warnings: Iterable[str] = (),
    per_class: dict[str, dict[str, float]] | None = None,
) -> None:
    """Print a line for each metric, in percent, with its 95 % interval where it has one."""
    width = max(map(len, metrics))
    for name, value in metrics.items():
        low, high = intervals.get(name, (None, None))
        interval = '' if low is None else f'  (95 %: {low:.2f} to {high:.2f})'
        print(f'{name:{width}}  {value:6.2f} %{interval}')
    for sentence in warnings:
        print(f'warning: {sentence}')
    if per_class:
        rows = [{'class': name, **values} for name, values in per_class.items()]
        print()
        print(tabulate(rows, 'keys', 'simple', floatfmt='.2f', missingval=''))
