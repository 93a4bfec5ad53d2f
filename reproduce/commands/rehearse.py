"""`python -m reproduce rehearse`: a few steps of the real trainings, before days are spent."""

import signal
import sys
from typing import Annotated, Any

import typer
from tabulate import tabulate
from typer import Argument, Option

from reproduce.base.job_options import with_fields_of
from reproduce.commands import options
from reproduce.commands.options import print_json
from reproduce.train.jobs import RehearsalRequest


@with_fields_of(RehearsalRequest)
def rehearse(
    names: Annotated[
        list[str] | None,
        Argument(
            help="Recipes and configs, or patterns such as 'maformer_base*' or 'upernet*'.  "
            '[default: all recipes, and the configs of MAFormer at full size]',
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        bool, Option('--memory', help='Only predict the peak memory on each of 8 GPUs.')
    ] = False,
    format: options.Format = 'text',
    **given: Any,
) -> None:
    """Take a few steps of the real trainings on this machine, before days are spent.

    Each training takes its steps at full image size and augmentation, is saved, resumed and
    evaluated, by the commands `train` and `evaluate`. Ends with status 1 if one fails.
    """
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.rehearsal import as_text, rehearse, select

    request = RehearsalRequest(names=names or (), **given)
    if memory:
        from reproduce.train import memory as prediction

        predicted = list(prediction.predict(select(request.names), request))
        if format == 'json':
            print_json({'left_out_gib': prediction.LEFT_OUT, 'trainings': predicted})
        else:
            print(tabulate(predicted, 'keys', 'github', floatfmt='.1f'))
        return

    # As Ctrl-C does, it ends the training under way and removes what was written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rows = []
    for row in rehearse(request):
        rows.append(row)
        print(f'{row["name"]}: {row["failure"] or "passes"}', file=sys.stderr, flush=True)
    passes = not any(row['failure'] for row in rows)
    if format == 'json':
        print_json({'passes': passes, 'trainings': rows})
    else:
        print(as_text(rows))
    raise typer.Exit(not passes)
