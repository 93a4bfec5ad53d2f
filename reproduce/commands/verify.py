"""`python -m reproduce verify`: a record against its attestation."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from reproduce.base.folders import EVALUATIONS
from reproduce.base.terminal import TextTable
from reproduce.commands import options
from reproduce.evaluate.attestation import State
from reproduce.evaluate.attestation import verify as verify_record
from reproduce.judge.lookup import find_record


def verify(
    record: options.Record,
    checkpoint: Annotated[
        Path | None, Option(help='The file of the weights, to check it, too.')
    ] = None,
    data: Annotated[Path | None, Option(help="The data set's folder, to check it, too.")] = None,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Check a record against its attestation: which part of it differs, if one does.

    Code, weights or data other than those given here are named, and are not an error.

    Exits with 1 if the record, or a file that belongs to it, is not what was attested.
    """
    path, evaluation = find_record(record, evaluations)
    checked = verify_record(path, checkpoint, data)
    code = int(any(one.state is State.DIFFERS for one in checked))
    result = {
        'record': str(path),
        'attestation': evaluation.attestation.sha256,
        'parts': [one._asdict() for one in checked],
        'exit_code': code,
    }
    options.show(format, result, str(path), TextTable([], checked))
    raise typer.Exit(code)
