"""`python -m reproduce regress`: the regression gate."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from reproduce.base.job_options import Workers
from reproduce.commands import options
from reproduce.weights.registry import MANIFEST


def regress(
    processes: options.Processes = 1,
    workers: Workers = None,
    data: Annotated[
        Path | None,
        Option(
            help='Folder of a full data set, or of several, for references on them; those on what '
            'is not there are left out.'
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        Option(
            help='Folder of public weights, as `checkpoints` fetches them, to evaluate too.',
        ),
    ] = None,
    manifest: options.Manifest = MANIFEST,
    output: Annotated[
        Path | None, Option(help='Folder for the records; kept nowhere without.')
    ] = None,
    format: options.Format = 'text',
) -> None:
    """Evaluate every released checkpoint and compare it with its reference.

    With --checkpoints also the public ones that lie there, against what their publishers measured.

    Exits with 1 if one scores less than its reference allows, with 2 if one cannot be evaluated.
    """
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.judge.regression import check, render
    from reproduce.judge.verdict import exit_status

    checks = check(processes, workers, data, manifest, output, checkpoints)
    code = exit_status(check.verdict for check in checks)
    result = {'checks': [one._asdict() for one in checks], 'exit_code': code}
    options.show(format, result, *render(checks))
    raise typer.Exit(code)
