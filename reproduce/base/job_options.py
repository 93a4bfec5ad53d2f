"""Options of commands that are fields of a job: each is declared once, in the dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_type_hints

import typer

# The metavar of options that take KEY=VALUE entries.
KEY_VALUES = 'KEY=VALUE ...'

Limit = Annotated[
    int | None,
    typer.Option(
        '--limit', help='Use only that many images: a subset, never compared with the paper.'
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        '--batch-size',
        help='Images per batch, in each process.  [default: 64 for ImageNet, 1 for COCO and '
        'ADE20K]',
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        '--workers',
        help='Data-loading workers, for each of the processes.  [default: one for each core of a '
        'process, at most 8]',
    ),
]
Amp = Annotated[
    Literal['fp16', 'bf16', 'off'],
    typer.Option('--amp', help='Compute in mixed precision; off is fp32 throughout.'),
]
Device = Annotated[
    Literal['cpu', 'cuda'] | None,
    typer.Option('--device', help='[default: cuda where there is one]'),
]


def with_fields_of(job: type, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that replaces the `**given` of a command by fields of a dataclass.

    The annotations and defaults of the fields become those of the command's options.

    Args:
        job: a dataclass whose fields are annotated as typer expects it.
        names: those of its fields that are options of the command.
    """
    empty = inspect.Parameter.empty
    hints = get_type_hints(job, include_extras=True)
    taken = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(job)
        if field.name in names
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        required = [parameter for parameter in own if parameter.default is empty]
        optional = [parameter for parameter in own if parameter.default is not empty]
        parameters = [*required, *taken, *optional]
        command.__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate
