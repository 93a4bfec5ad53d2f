"""Options of commands that are fields of a job: each is declared once, in the dataclass."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import typer

Limit = Annotated[
    int | None,
    typer.Option(min=1, help='Use only that many images: a subset, never compared with the paper.'),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help='Images per batch, in each process.  [default: 64 for ImageNet, 1 for COCO and '
        'ADE20K]',
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help='Data-loading workers, for each of the processes.  [default: one for each core of a '
        'process, at most 8]',
    ),
]
Amp = Annotated[
    Literal['fp16', 'bf16', 'off'],
    typer.Option(help='Compute in mixed precision; off is fp32 throughout.'),
]
Device = Annotated[
    Literal['cpu', 'cuda'] | None, typer.Option(help='[default: cuda where there is one]')
]
Deterministic = Annotated[
    bool,
    typer.Option(
        '--deterministic',
        help='Compute with deterministic algorithms alone: slower, and recorded.',
    ),
]
# The metavar of options that take KEY=VALUE entries.
KEY_VALUES = 'KEY=VALUE ...'

ConfigOptions = Annotated[
    list[str] | None,
    typer.Option(
        '--cfg-options',
        metavar=KEY_VALUES,
        help="Values in place of the config's, such as model.test_cfg.rcnn.score_thr=0.01.",
    ),
]


def with_fields_of(
    job: type, without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that replaces the `**given` of a command by the options of a dataclass.

    These are its fields that are annotated as typer expects it, with their defaults.

    Args:
        without: names of fields that are no options of the command.
    """
    keyword, hints = inspect.Parameter.KEYWORD_ONLY, get_type_hints(job, include_extras=True)
    taken = []
    for field in fields(job):
        if get_origin(hints[field.name]) is Annotated and field.name not in without:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            annotation = hints[field.name]
            taken.append(
                inspect.Parameter(field.name, keyword, default=default, annotation=annotation)
            )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter.replace(kind=keyword)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        parameters = [*taken, *own]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate
